"""Checkpoints pass between Transformer Engine's and Megatron's local layers and between FP8 recipes, and reshards know both."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.launch import printed_results
from tests.transformer_engine.models import MODELS, save_model

PROGRAM = Path(__file__).parent / "programs" / "checkpoints.py"
TE, LOCAL = "transformer_engine", "local"
BF16_LIMIT = 0.01  # mean |difference| of a log-prob or a value between the two kinds of layers, as in test_steps.py
PLAIN_OPTIMIZER = ("optimizer.distributed=false",)
TP2, PARALLEL = ("tp=2",), ("tp=2", "sequence_parallel=true")


@dataclass(frozen=True)
class Passage:
    """Layers and FP8 recipe of the model that is saved -> those of the one that goes on."""

    kind: str
    role: str
    saved: tuple[str, str]
    resumed: tuple[str, str]
    overrides: tuple[str, ...] = ()
    num_ranks: int = 1

    @property
    def name(self) -> str:
        words = [self.kind, self.role, *self.overrides, f"on {self.num_ranks}"]
        return f"{' '.join(words)}: {' '.join(self.saved)} -> {' '.join(self.resumed)}"

    def subject(self, model: Path, which: tuple[str, str]) -> dict[str, Any]:
        layers, name = which
        recipe, *parameters = name.split()
        words = [*self.overrides, f"fp8.recipe={recipe}", *(f"fp8.{word}=true" for word in parameters)]
        return {"model": str(model), "role": self.role, "layers": layers, "overrides": words}

    @property
    def keeps_weights(self) -> bool:
        """What FP8 parameters say is not what bf16 ones do; both are made anew of the optimizer's, which arrive."""
        return len({"parameters" in which[1] for which in (self.saved, self.resumed)}) == 1


PASSAGES = [
    Passage("qwen2", "actor", (TE, "none"), (TE, "none")),
    Passage("qwen2", "actor", (TE, "none"), (LOCAL, "none")),
    Passage("qwen2", "actor", (LOCAL, "none"), (TE, "delayed")),
    Passage("qwen2", "actor", (TE, "delayed"), (TE, "delayed")),
    Passage("qwen2", "actor", (TE, "delayed"), (LOCAL, "none")),
    Passage("qwen2", "actor", (TE, "delayed"), (TE, "tensorwise")),
    Passage("qwen2", "actor", (TE, "tensorwise"), (TE, "tensorwise")),
    Passage("qwen2", "actor", (TE, "blockwise"), (TE, "blockwise")),
    Passage("qwen2", "actor", (TE, "blockwise"), (TE, "none")),
    Passage("qwen3_tied", "actor", (LOCAL, "none"), (TE, "none"), PLAIN_OPTIMIZER),
    Passage("qwen3_tied", "actor", (TE, "delayed"), (TE, "delayed"), PLAIN_OPTIMIZER),
    Passage("qwen3_tied", "critic", (TE, "none"), (LOCAL, "none")),
    Passage("qwen3_tied", "critic", (LOCAL, "none"), (TE, "blockwise")),
    Passage("qwen3_tied", "critic", (TE, "delayed"), (TE, "delayed")),
    Passage("qwen2", "actor", (TE, "delayed"), (TE, "delayed"), PARALLEL, 2),
    Passage("qwen3_tied", "actor", (TE, "none"), (LOCAL, "none"), TP2, 2),
    Passage("qwen2", "critic", (LOCAL, "none"), (TE, "tensorwise"), PARALLEL, 2),
    Passage("qwen3_tied", "actor", (TE, "tensorwise"), (TE, "tensorwise"), (), 2),
    Passage("qwen2", "actor", (TE, "delayed"), (TE, "delayed"), (), 2),
    Passage("qwen2", "actor", (TE, "tensorwise parameters"), (TE, "tensorwise parameters")),
    Passage("qwen2", "actor", (TE, "tensorwise parameters"), (TE, "tensorwise")),
    Passage("qwen2", "actor", (TE, "tensorwise"), (TE, "tensorwise parameters")),
    Passage("qwen2", "actor", (TE, "tensorwise parameters"), (LOCAL, "none")),
    Passage("qwen3_tied", "critic", (LOCAL, "none"), (TE, "blockwise parameters")),
    Passage("qwen3_tied", "critic", (TE, "blockwise parameters"), (TE, "blockwise parameters")),
    Passage("qwen3_tied", "actor", (TE, "tensorwise parameters"), (TE, "tensorwise parameters"), (), 2),
    Passage("qwen2", "actor", (TE, "blockwise parameters"), (TE, "blockwise parameters"), (), 2),
    Passage("qwen2", "actor", (TE, "blockwise parameters"), (TE, "blockwise parameters"), PARALLEL, 2),
]
SAME = [passage for passage in PASSAGES if passage.saved == passage.resumed]
SAME_PRODUCTS = [
    passage for passage in PASSAGES if not passage.keeps_weights and passage.saved[1].split()[0] == passage.resumed[1].split()[0]
]
OTHER_LAYERS = [each for each in PASSAGES if {each.saved, each.resumed} == {(TE, "none"), (LOCAL, "none")}]

# Every way to cut: tied and not, head counts, a vocabulary that TP does not divide, heads wider than the hidden size.
KINDS = ("qwen2", "qwen2_tied", "qwen2_12h2kv", "qwen2_1kv", "qwen2_odd_vocab", "qwen3", "qwen3_tied", "qwen3_wide_heads")


@pytest.fixture(scope="module")
def results(
    tiny_model: Callable[[str], Path], torchrun: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    """What each rank found, by case."""
    models = {kind: save_model(kind, tmp_path_factory.mktemp(kind)) for kind in MODELS}
    found: dict[str, list[dict[str, Any]]] = {}
    for num_ranks in (1, 2):
        folder = tmp_path_factory.mktemp("checkpoints")
        passages = [passage for passage in PASSAGES if passage.num_ranks == num_ranks]
        checkpoints = {
            each.name: {which: each.subject(models[each.kind], getattr(each, which)) for which in ("saved", "resumed")}
            for each in passages
        }
        rectangles = {f"rectangles of {kind}, tp{num_ranks}": str(tiny_model(kind)) for kind in KINDS}
        file = folder / "subjects.json"
        file.write_text(json.dumps({"checkpoints": checkpoints, "rectangles": rectangles}))
        output = torchrun(PROGRAM, num_ranks, args=[file, folder], timeout=300)
        found |= {line["case"]: line["ranks"] for line in printed_results(output)}
    return found


@pytest.mark.parametrize("passage", PASSAGES, ids=lambda passage: passage.name)
def test_weights_and_optimizer_arrive(results: dict[str, list[dict[str, Any]]], passage: Passage) -> None:
    for rank in results[passage.name]:
        assert rank["same_weights"] == passage.keeps_weights and rank["same_optimizer"]
        assert rank["steps_of_optimizer"] == [1]


@pytest.mark.parametrize("passage", SAME_PRODUCTS, ids=lambda passage: passage.name)
def test_fp8_parameters_and_copies_of_bf16_ones_are_the_same_model(
    results: dict[str, list[dict[str, Any]]], passage: Passage
) -> None:
    assert all(rank["largest_difference"] == 0.0 for rank in results[passage.name])


@pytest.mark.parametrize("passage", SAME, ids=lambda passage: passage.name)
def test_the_same_layers_go_on_to_the_last_bit(results: dict[str, list[dict[str, Any]]], passage: Passage) -> None:
    for rank in results[passage.name]:
        assert rank["largest_difference"] == 0.0
        assert rank["same_weights_after_a_step"]


@pytest.mark.parametrize("passage", OTHER_LAYERS, ids=lambda passage: passage.name)
def test_other_layers_see_the_same_model(results: dict[str, list[dict[str, Any]]], passage: Passage) -> None:
    assert all(rank["mean_difference"] < BF16_LIMIT for rank in results[passage.name])


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_reshard_is_told_where_weights_lie(results: dict[str, list[dict[str, Any]]], kind: str, tp: int) -> None:
    """Declared layouts, by which `plan` counts bytes and names tensors, are those of the live model."""
    for rank in results[f"rectangles of {kind}, tp{tp}"]:
        assert rank["agree"] and rank["num_boxes"] and rank["has_fused_norms"]
