"""Real vLLM on CPU: one process, two engines (DP2) and one engine of two ranks (TP2) against Hugging Face and each other.

`programs/rollout_checks.py` runs once per layout over all model kinds; the tests judge what its ranks saw.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.engine_cpu.programs import rollout_checks as program

KINDS = ("qwen2", "qwen2_tied_odd_vocab", "qwen3_wide_heads")
LAYOUTS = {"one": (1, 1), "dp2": (2, 1), "tp2": (2, 2)}  # name -> (ranks, rollout.tp)
LOGPROB_TOLERANCE = 1e-3

Seen = dict[tuple[str, str, int], dict[str, Any]]  # (layout, kind, rank) -> what the program saved


def _other_weights(folder: Path) -> None:
    """``folder``-new: the same model after a large "update"."""
    new = folder.with_name(folder.name + "-new")
    shutil.copytree(folder, new)
    generator = torch.Generator().manual_seed(9)
    old = sorted(load_file(folder / "model.safetensors").items())
    weights = {name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator) for name, tensor in old}
    save_file(weights, new / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def folders(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("rollout")
    for kind in KINDS:
        shutil.copytree(tiny_model(kind), root / kind)
        _other_weights(root / kind)
    return {kind: root / kind for kind in KINDS}


@pytest.fixture(scope="module")
def seen(folders: dict[str, Path], torchrun: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Seen:
    results: Seen = {}
    for layout, (num_ranks, tp) in LAYOUTS.items():
        out = tmp_path_factory.mktemp(layout)
        torchrun(program.__file__, num_ranks, [out, tp, *folders.values()], timeout=150)
        for kind in KINDS:
            for rank in range(num_ranks):
                results[layout, kind, rank] = torch.load(out / f"{kind}-{rank}.pt", weights_only=True)
    return results


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


def rows(rollouts: dict[str, Any], field: str) -> list[torch.Tensor]:
    return list(rollouts[field].split(rollouts["lengths"].tolist()))


@torch.no_grad()
def hf_logits(folder: Path, rollouts: dict[str, Any]) -> list[torch.Tensor]:
    """HF's logits [response length, V] at the positions that predict each response token."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompts = program.make_prompts().tokens.rows()
    found = []
    for prompt_index, response in zip(rollouts["prompt_index"].tolist(), rows(rollouts, "tokens"), strict=True):
        prompt = prompts[prompt_index]
        logits = model(torch.cat([prompt, response])[None]).logits[0]
        found.append(logits[len(prompt) - 1 : -1])
    return found


def test_every_layout_samples_the_same_responses(seen: Seen, kind: str) -> None:
    # Each response has its own seed, so layouts could differ only where two perturbed logits agree to about 1e-6.
    one = seen["one", kind, 0]
    for layout, other_kind, rank in seen:
        if other_kind == kind:
            other = seen[layout, kind, rank]
            for name in ("sampled", "greedy", "greedy_new", "sampled_new"):
                for field in ("tokens", "lengths", "truncated", "prompt_index"):
                    assert torch.equal(one[name][field], other[name][field]), (layout, rank, name, field)
                assert one[name]["texts"] == other[name]["texts"]
                torch.testing.assert_close(one[name]["logprobs"], other[name]["logprobs"], atol=1e-4, rtol=0)


def test_all_ranks_hold_the_same_bits(seen: Seen, kind: str) -> None:
    for layout in ("dp2", "tp2"):
        first, second = (seen[layout, kind, rank]["sampled"] for rank in (0, 1))
        for field in ("tokens", "lengths", "logprobs", "truncated", "prompt_index"):
            assert torch.equal(first[field], second[field]), (layout, field)


def test_repeatable_and_seeded(seen: Seen, kind: str, layout: str) -> None:
    found = seen[layout, kind, 0]
    for field in ("tokens", "lengths", "truncated"):
        assert torch.equal(found["sampled"][field], found["again"][field])
    responses = rows(found["sampled"], "tokens")
    assert any(not torch.equal(first, second) for first, second in zip(responses[::2], responses[1::2], strict=True))
    assert found["random_state_kept"]


def test_logprobs_are_those_of_the_distribution_sampled_from(
    seen: Seen, folders: dict[str, Path], kind: str, layout: str
) -> None:
    for name, folder in (("sampled", folders[kind]), ("sampled_new", folders[kind].with_name(f"{kind}-new"))):
        rollouts = seen[layout, kind, 0][name]
        expected = hf_logits(folder, rollouts)
        for logits, tokens, logprobs in zip(expected, rows(rollouts, "tokens"), rows(rollouts, "logprobs"), strict=True):
            reference = torch.log_softmax(logits / program.SAMPLED.temperature, -1).gather(1, tokens[:, None])[:, 0]
            torch.testing.assert_close(logprobs, reference, atol=LOGPROB_TOLERANCE, rtol=0)


def test_greedy_tokens_are_those_of_hf_before_and_after_a_weight_update(
    seen: Seen, folders: dict[str, Path], kind: str, layout: str
) -> None:
    found = seen[layout, kind, 0]
    for name, folder in (("greedy", folders[kind]), ("greedy_new", folders[kind].with_name(f"{kind}-new"))):
        for logits, tokens, logprobs in zip(
            hf_logits(folder, found[name]), rows(found[name], "tokens"), rows(found[name], "logprobs"), strict=True
        ):
            assert torch.equal(tokens, logits.argmax(-1))
            reference = torch.log_softmax(logits, -1).max(-1).values
            torch.testing.assert_close(logprobs, reference, atol=LOGPROB_TOLERANCE, rtol=0)
    assert not torch.equal(found["greedy"]["tokens"], found["greedy_new"]["tokens"])


def test_scores_are_the_logprobs_of_given_tokens(seen: Seen, folders: dict[str, Path], kind: str, layout: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(folders[kind], dtype=torch.float32)
    expected = []
    for row in program.make_prompts().tokens.rows():
        with torch.no_grad():
            logprobs = torch.log_softmax(model(row[None]).logits[0], -1)
        expected.append(logprobs[:-1].gather(1, row[1:, None])[:, 0])
    torch.testing.assert_close(seen[layout, kind, 0]["scores"], torch.cat(expected), atol=LOGPROB_TOLERANCE, rtol=0)


def test_truncation_flag_and_stop_tokens(seen: Seen, kind: str, layout: str) -> None:
    rollouts = seen[layout, kind, 0]["sampled"]
    stops = {program.END_TOKEN_ID, *program.SAMPLED.stop_token_ids}
    truncated = rollouts["truncated"].tolist()
    assert any(truncated)
    assert not all(truncated)
    for tokens, cut in zip(rows(rollouts, "tokens"), truncated, strict=True):
        assert not stops.intersection(tokens[:-1].tolist())
        assert (int(tokens[-1]) not in stops) == cut
        if cut:
            assert len(tokens) == program.SAMPLED.max_response_tokens
    assert rollouts["texts"] == [program.decode(tokens.tolist()) for tokens in rows(rollouts, "tokens")]


def test_weights_are_verified_and_a_fault_is_named_on_every_rank(seen: Seen, kind: str, layout: str) -> None:
    num_ranks, _ = LAYOUTS[layout]
    for rank in range(num_ranks):
        found = seen[layout, kind, rank]
        assert found["mismatch_start"] == found["mismatch_after_load"] == found["mismatch_mended"] == ""
        assert "model.embed_tokens.weight" in found["mismatch_before_load"]
        name = "model.layers.1.mlp.down_proj.weight"
        assert f"{name} -> {name} on ranks [{num_ranks - 1}]" in found["mismatch_corrupt"]
        assert found["mismatch_corrupt"].count("->") == 1
        assert "model.norm.weight -> model.norm.weight" in found["mismatch_missing"]
        assert "never given" in found["mismatch_missing"]


def test_cached_prefixes_are_forgotten_after_a_weight_update(seen: Seen, kind: str, layout: str) -> None:
    found = seen[layout, kind, 0]
    assert found["cached_before_load"] >= 128
    assert found["cached_after_load"] == 0


def test_progress_counts_the_responses_of_each_engine(seen: Seen, kind: str) -> None:
    total = len(program.PROMPT_LENGTHS) * program.SAMPLED.num_samples
    assert seen["one", kind, 0]["progress"] == [(done, total) for done in range(1, total + 1)]
    assert sum(seen["dp2", kind, rank]["progress"][-1][1] for rank in (0, 1)) == total


def test_responses_graded_while_others_are_sampled_get_the_same_verdicts(seen: Seen, kind: str, layout: str) -> None:
    for rank in range(1 if layout == "one" else 2):
        graded = seen[layout, kind, rank]["graded"]
        assert graded["early"] == graded["afterwards"] == seen[layout, kind, 0]["graded"]["early"]
        assert len(graded["early"]) == len(program.PROMPT_LENGTHS) * program.SAMPLED.num_samples and 0 < graded["share"] <= 1
    assert {gold for _, gold, _ in graded["early"]} == set(map(str, program.PROMPT_LENGTHS))


def test_benchmarks_are_sampled_together(seen: Seen) -> None:
    """One pass over two benchmarks tells of each what a pass of its own tells, whenever its responses are graded."""
    for found in seen.values():
        validations = found["validations"]
        assert [part["benchmark"] for part in validations["apart"]] == ["a", "b"]
        assert validations["apart"] == validations["together"] == validations["meanwhile"]
        assert not validations["none"]
        assert 0 < validations["together"][0]["accuracy"] != validations["together"][1]["accuracy"] > 0


def test_impossible_requests_are_refused_in_one_sentence(seen: Seen, kind: str) -> None:
    errors = seen["one", kind, 0]["user_errors"]
    assert "rollout.tp=64" in errors["tp"]
    assert "16 channels" in errors["head_dim"]
    assert "rollout.max_response_tokens=24" in errors["length"]
