"""Two steps of actor and critic over Transformer Engine's layers, in bf16 and each FP8 recipe, against Megatron's local ones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.launch import printed_results
from tests.transformer_engine.models import MODELS, save_model

PROGRAM = Path(__file__).parent / "programs" / "steps.py"

ROLES = ("actor", "critic")
ONE, SHARDED, PARALLEL, RING = "tp1", "tp2", "tp2 with sequence parallelism", "cp2"
LAYOUTS: dict[str, list[str]] = {
    ONE: [],
    SHARDED: ["tp=2"],
    PARALLEL: ["tp=2", "sequence_parallel=true"],
    RING: ["cp=2"],
    "cp4": ["cp=4"],
    "cp2 and tp2 with sequence parallelism": ["cp=2", "tp=2", "sequence_parallel=true"],
}
NUM_RANKS = {
    layout: math.prod(int(word[3:]) for word in words if word[:3] in ("tp=", "cp=")) for layout, words in LAYOUTS.items()
}

BF16 = "bf16"
FORMATS: dict[str, list[str]] = {
    BF16: [],
    "delayed": ["fp8.recipe=delayed"],
    "tensorwise": ["fp8.recipe=tensorwise"],
    "blockwise": ["fp8.recipe=blockwise"],
    "tensorwise, first layer in bf16": ["fp8.recipe=tensorwise", "fp8.bf16_first_layers=1"],
    "blockwise, first layer in bf16": ["fp8.recipe=blockwise", "fp8.bf16_first_layers=1"],
    "tensorwise parameters": ["fp8.recipe=tensorwise", "fp8.parameters=true"],
    "blockwise parameters": ["fp8.recipe=blockwise", "fp8.parameters=true"],
    "blockwise parameters, first layer in bf16": ["fp8.recipe=blockwise", "fp8.parameters=true", "fp8.bf16_first_layers=1"],
}
FP8_FORMATS = [name for name in FORMATS if name != BF16]
# Those with FP8 parameters, and what each has in common with the one that keeps bf16 parameters beside their FP8 copies.
PARAMETERS = {name: name.replace(" parameters", "") for name in FORMATS if "parameters" in name}
COPIES = [name for name in FP8_FORMATS if name not in PARAMETERS]
UNCLIPPED = ["optimizer.clip_grad=0"]  # the norm, a sum over other shards, differs in its last bits, and so would all gradients
# What changes memory alone.
WAYS = ("recompute=selective", "recompute=full", "offload=all")

# Against the local layers. In brackets what was measured, the worst of both models, of all layouts and of both steps.
BF16_LIMITS = {"actor": 0.01, "critic": 0.002}  # mean |difference| of a log-prob (0.0051) and of a value (0.0007)
FP8_LIMITS = {"actor": 0.1, "critic": 0.02}  # (0.068) and (0.0105)
BF16_NORM_LIMIT = 0.006  # relative, of the gradient's norm (0.0029)
FP8_NORM_LIMIT = 0.06  # (0.036)
DELAYED_NORM_LIMIT = 0.1  # (0.067): the very first gradients are cast with scales of one
DELAYED_RATIO = 1.25  # the largest before the first update (1.11)

PLACES = [f"{kind} {role}, {layout}" for kind, role, layout in product(MODELS, ROLES, LAYOUTS)]
ACTORS = [place for place in PLACES if " actor" in place]
IN_EVERY_WAY = [place for place in PLACES if place.split(", ")[1] in (ONE, PARALLEL, RING)]
OVERLAPPED_FORMATS = (BF16, "tensorwise", "tensorwise parameters", "blockwise parameters")
OVERLAPPED = [f"{kind} {role}, dp2" for kind, role in product(MODELS, ROLES)]


def subject(model: Path, role: str, layers: str, overrides: list[str]) -> dict[str, Any]:
    return {"model": str(model), "role": role, "layers": layers, "overrides": overrides}


def cases_of(place: str, model: Path, role: str, layout: str) -> dict[str, dict[str, Any]]:
    """Every format, and each of them in every way in the layouts of `IN_EVERY_WAY`."""
    overrides = LAYOUTS[layout]
    cases = {f"{place}: local": {"subject": subject(model, role, "local", overrides)}}
    for name, words in FORMATS.items():
        cases[f"{place}: {name}"] = {"subject": subject(model, role, "transformer_engine", [*overrides, *words])}
        for way in WAYS if place in IN_EVERY_WAY else ():
            key, value = way.split("=")
            more = {"offload": value} if key == "offload" else {}
            chosen = [*overrides, *words, *([] if more else [way])]
            cases[f"{place}: {name}, {way}"] = {"subject": subject(model, role, "transformer_engine", chosen), **more}
        if name in PARAMETERS or name in PARAMETERS.values():
            chosen = [*overrides, *words, *UNCLIPPED]
            cases[f"{place}: {name}, unclipped"] = {"subject": subject(model, role, "transformer_engine", chosen)}
    return cases


def overlap_cases(place: str, model: Path, role: str) -> dict[str, dict[str, Any]]:
    found = {}
    for name, overlap in product(OVERLAPPED_FORMATS, ("false", "true")):
        words = [*FORMATS[name], f"optimizer.overlap={overlap}", *UNCLIPPED]
        found[f"{place}: {name}, overlap={overlap}"] = {"subject": subject(model, role, "transformer_engine", words)}
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save_model(kind, tmp_path_factory.mktemp(kind)) for kind in MODELS}


@pytest.fixture(scope="module")
def results(
    models: dict[str, Path], torchrun: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    on_ranks: dict[int, dict[str, dict[str, Any]]] = {num_ranks: {} for num_ranks in sorted(set(NUM_RANKS.values()))}
    for kind, role in product(MODELS, ROLES):
        for layout in LAYOUTS:
            place = f"{kind} {role}, {layout}"
            on_ranks[NUM_RANKS[layout]] |= cases_of(place, models[kind], role, layout)
        on_ranks[2] |= overlap_cases(f"{kind} {role}, dp2", models[kind], role)
    found: dict[str, dict[str, Any]] = {}
    for num_ranks, cases in on_ranks.items():
        file = tmp_path_factory.mktemp("steps") / "cases.json"
        file.write_text(json.dumps(cases))
        output = torchrun(PROGRAM, num_ranks, args=[file], timeout=600)
        found |= {line["case"]: line for line in printed_results(output)}
    return found


def mean_difference(result: dict[str, Any], reference: dict[str, Any]) -> float:
    """Of log-probs or values, in the step where it is larger."""
    worst = 0.0
    for step, other in zip(result["steps"], reference["steps"], strict=True):
        pairs = zip(step["outputs"], other["outputs"], strict=True)
        worst = max(worst, sum(abs(a - b) for a, b in pairs) / len(other["outputs"]))
    return worst


def norm_error(result: dict[str, Any], reference: dict[str, Any]) -> float:
    pairs = zip(result["steps"], reference["steps"], strict=True)
    return max(abs(step["grad_norm"] / other["grad_norm"] - 1) for step, other in pairs)


@pytest.mark.parametrize("place", PLACES)
def test_bf16_agrees_with_the_local_layers(results: dict[str, dict[str, Any]], place: str) -> None:
    found, reference = results[f"{place}: {BF16}"], results[f"{place}: local"]
    assert mean_difference(found, reference) < BF16_LIMITS["actor" if place in ACTORS else "critic"]
    assert norm_error(found, reference) < BF16_NORM_LIMIT


@pytest.mark.parametrize(("place", "name"), product(PLACES, FP8_FORMATS))
def test_fp8_agrees_with_the_local_layers(results: dict[str, dict[str, Any]], place: str, name: str) -> None:
    found, reference = results[f"{place}: {name}"], results[f"{place}: local"]
    assert mean_difference(found, reference) < FP8_LIMITS["actor" if place in ACTORS else "critic"]
    assert norm_error(found, reference) < (DELAYED_NORM_LIMIT if name == "delayed" else FP8_NORM_LIMIT)


@pytest.mark.parametrize("name", FP8_FORMATS)
def test_fp8_is_no_bf16(results: dict[str, dict[str, Any]], name: str) -> None:
    """Otherwise its agreement would say nothing."""
    for place in PLACES:
        fingerprints = {results[f"{place}: {other}"]["weights"] for other in FORMATS}
        assert len(fingerprints) == len(FORMATS), place
    kept = [results[f"{place}: {name}"] for place in PLACES]
    assert all(each["num_fp8_parameters"] if name in PARAMETERS else each["steps"][0]["num_fp8_copies"] for each in kept)


@pytest.mark.parametrize(("place", "name"), product(PLACES, PARAMETERS))
def test_fp8_parameters_change_no_bit(results: dict[str, dict[str, Any]], place: str, name: str) -> None:
    """They hold what FP8 copies of bf16 ones would: the layers' four matrices, each of them cast from shards of fp32 weights."""
    found, copies = results[f"{place}: {name}, unclipped"], results[f"{place}: {PARAMETERS[name]}, unclipped"]
    assert (found["num_fp8_parameters"], copies["num_fp8_parameters"]) == (4 if "first layer" in name else 8, 0)
    assert mean_difference(found, copies) == 0.0 and norm_error(found, copies) < 1e-6


@pytest.mark.parametrize(("place", "name"), product(IN_EVERY_WAY, FORMATS))
@pytest.mark.parametrize("way", WAYS)
def test_recomputation_and_offload_change_no_bit(results: dict[str, dict[str, Any]], place: str, name: str, way: str) -> None:
    found, plain = results[f"{place}: {name}, {way}"], results[f"{place}: {name}"]
    assert found["steps"] == plain["steps"]
    assert found["weights"] == plain["weights"]


@pytest.mark.parametrize(("place", "name"), product(ACTORS, FORMATS))
def test_ratios_before_the_first_update(results: dict[str, dict[str, Any]], place: str, name: str) -> None:
    """Old log-probs come from a pass of their own, the same one to the last bit. Delayed scales move on after a micro-batch."""
    first, *rest = results[f"{place}: {name}"]["steps"][0]["log_ratios"]
    assert first == 0.0
    assert max(rest) <= (math.log(DELAYED_RATIO) if name == "delayed" else 0.0)


def test_nothing_waits_for_a_backward_pass(results: dict[str, dict[str, Any]]) -> None:
    """Delayed scales queued for a recomputation that never comes would be taken by the next one."""
    assert {case: result["num_queued"] for case, result in results.items() if result["num_queued"]} == {}


@pytest.mark.parametrize(("place", "name"), product(IN_EVERY_WAY, FP8_FORMATS))
def test_no_fp8_copy_of_a_weight_stays_while_the_model_is_away(results: dict[str, dict[str, Any]], place: str, name: str) -> None:
    found = results[f"{place}: {name}, offload=all"]
    assert found["num_fp8_copies_between"] == 0
    if name in COPIES:
        assert found["steps"][1]["num_fp8_copies"]


@pytest.mark.parametrize("place", OVERLAPPED)
@pytest.mark.parametrize("name", OVERLAPPED_FORMATS)
def test_overlap_changes_no_bit(results: dict[str, dict[str, Any]], place: str, name: str) -> None:
    """Transformer Engine adds weight gradients to Megatron's buffers itself, and buckets leave as soon as they are complete."""
    found, plain = results[f"{place}: {name}, overlap=true"], results[f"{place}: {name}, overlap=false"]
    assert found["num_buckets"] > 1
    assert mean_difference(found, plain) == 0.0 and norm_error(found, plain) < 1e-6
    assert found["weights"] == plain["weights"]


def test_ranks_have_the_same_weights(results: dict[str, dict[str, Any]]) -> None:
    assert {case: result["num_fingerprints"] for case, result in results.items() if result["num_fingerprints"] > 1} == {}


def test_replicas_with_other_numbers_of_micro_batches_do_not_wait_for_each_other(
    models: dict[str, Path], torchrun: Callable[..., str], tmp_path: Path
) -> None:
    """Delayed scales are updated after each backward pass: shared with a replica that makes fewer, they would hang."""
    file = tmp_path / "cases.json"
    words = [*FORMATS["delayed"], "micro_batch_tokens=52"]
    file.write_text(json.dumps({"uneven": {"subject": subject(models["qwen2"], "actor", "transformer_engine", words)}}))
    (found,) = printed_results(torchrun(PROGRAM, 2, args=[file], timeout=120))
    assert len(set(found["num_micro_batches"])) == 2
    assert found["num_fingerprints"] == 1
