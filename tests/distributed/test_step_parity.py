"""One step of SPPO (two mini-batches of actor and critic) equals plain PyTorch on the HF model, in every layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen2Config, Qwen2ForCausalLM

from tests.launch import printed_results

PROGRAM = Path(__file__).parent / "programs" / "step_parity.py"

TP2, PP2 = ["actor.tp=2"], ["actor.pp=2"]
CP2 = ["actor.cp=2", "critic.cp=2"]
SP = ["actor.tp=2", "actor.sequence_parallel=true", "critic.tp=2", "critic.sequence_parallel=true"]
OVERLAP = ["actor.optimizer.overlap=true", "critic.optimizer.overlap=true"]
SMALL, LARGE = ["actor.micro_batch_tokens=40"], ["actor.micro_batch_tokens=4096", "critic.micro_batch_tokens=4096"]

# name -> (kind of model, overrides): the paper's algorithm in all layouts
LAYOUTS: dict[str, tuple[str, list[str]]] = {
    "tp2": ("qwen2", [*TP2, *SMALL]),
    "pp2, critic tp2": ("qwen2", [*PP2, *SMALL, "critic.tp=2"]),
    "dp2, critic pp2": ("qwen2", [*SMALL, "critic.pp=2"]),
    "dp2 without the distributed optimizer": (
        "qwen2",
        [*SMALL, "actor.optimizer.distributed=false", "critic.optimizer.distributed=false"],
    ),
    "tp2, no gradient clipping": ("qwen2", [*TP2, *SMALL, "actor.optimizer.clip_grad=0"]),
    "dp2, no gradient clipping": ("qwen2", [*SMALL, "actor.optimizer.clip_grad=0"]),
    "dp2, large micro-batches": ("qwen2", LARGE),
    "dp2, overlap": ("qwen2", [*SMALL, *OVERLAP]),
    "dp2, overlap without the distributed optimizer": (
        "qwen2",
        [*SMALL, *OVERLAP, "actor.optimizer.distributed=false", "critic.optimizer.distributed=false"],
    ),
    "tied, dp2, overlap": ("qwen2_tied", [*SMALL, *OVERLAP]),
    "tp2, large micro-batches": ("qwen2", [*TP2, *LARGE]),
    "tp2, sequence parallel": ("qwen2", [*SP, *SMALL]),
    "tp2, sequence parallel, full recompute": ("qwen2", [*SP, "actor.recompute=full", "critic.recompute=full"]),
    "pp2, selective recompute": ("qwen2", [*PP2, *SMALL, "actor.recompute=selective", "critic.recompute=selective"]),
    "pp2, full recompute": ("qwen2", [*PP2, *SMALL, "actor.recompute=full"]),
    "cp2": ("qwen2", [*CP2, *SMALL]),
    "cp2, large micro-batches": ("qwen2", [*CP2, *LARGE]),
    "cp2, one sequence per row": ("qwen2", [*CP2, "actor.micro_batch_tokens=1", "critic.micro_batch_tokens=1"]),
    "cp2, selective and full recompute": (
        "qwen2_tied",
        [*CP2, *SMALL, "actor.recompute=selective", "critic.recompute=full"],
    ),
    "cp2 without the distributed optimizer, critic tp2": (
        "qwen2_odd_vocab",
        ["actor.cp=2", "critic.tp=2", *SMALL, "actor.optimizer.distributed=false"],
    ),
    "tied, tp2": ("qwen2_tied", TP2),
    "tied, pp2": ("qwen2_tied", PP2),
    "tied, dp2": ("qwen2_tied", []),
    "tied, odd vocabulary, tp2": ("qwen2_tied_odd_vocab", TP2),
    "odd vocabulary, tp2": ("qwen2_odd_vocab", [*TP2, "critic.tp=2"]),
    "28 heads on 4, tp2": ("qwen2_28h4kv", [*TP2, "critic.tp=2"]),
    "12 heads on 2, tp2": ("qwen2_12h2kv", TP2),
    "one KV head, tp2": ("one_kv_head", [*TP2, "critic.tp=2"]),
    "one KV head, cp2": ("one_kv_head", [*CP2, *SMALL]),
    "qwen3, tp2": ("qwen3", TP2),
    "qwen3, cp2": ("qwen3", CP2),
    "qwen3, tp2, sequence parallel": ("qwen3", SP),
    "qwen3 wide heads, pp2": ("qwen3_wide_heads", [*PP2, "critic.tp=2"]),
    "qwen3 tied, dp2": ("qwen3_tied", []),
    # Rows padded to what FP8 kernels take; without Transformer Engine the products themselves stay as they are.
    "fp8 padding, tp2, sequence parallel": ("qwen2", [*SP, *SMALL, "actor.fp8.recipe=blockwise", "critic.fp8.recipe=tensorwise"]),
    "fp8 padding, cp2": ("qwen2", [*CP2, *SMALL, "actor.fp8.recipe=delayed", "critic.fp8.recipe=blockwise"]),
    # Old log-probs of the first mini-batch from its own forward: NaN stands in their place before the update.
    "first forward reused, tp2": ("qwen2", [*TP2, *SMALL, "actor.reuse_first_forward=true"]),
    "first forward reused, pp2": ("qwen2", [*PP2, *SMALL, "actor.reuse_first_forward=true"]),
    "first forward reused, dp2": ("qwen2", [*SMALL, "actor.reuse_first_forward=true"]),
    "first forward reused, cp2": ("qwen2", [*CP2, *SMALL, "actor.reuse_first_forward=true"]),
    # Critics that read the response.
    "ppo, critic tp2": ("qwen2", [*SMALL, "algorithm.name=ppo", "critic.tp=2"]),
    "ppo, critic pp2": ("qwen2", [*SMALL, "algorithm.name=ppo", "critic.pp=2"]),
    "ppo, critic dp2": ("qwen3", ["algorithm.name=ppo"]),
    "ppo, critic cp2": ("qwen2", [*CP2, *SMALL, "algorithm.name=ppo"]),
    "ppo with bce, critic tp2, sequence parallel": ("qwen2", [*SP, *LARGE, "algorithm.name=ppo_bce"]),
    "ppo with bce, critic dp2, one sequence per row": (
        "qwen2",
        [*SMALL, "critic.micro_batch_tokens=1", "algorithm.name=ppo_bce"],
    ),
}

# On 4 ranks.
PRODUCTS: dict[str, tuple[str, list[str]]] = {
    "tp2 x pp2, critic tp2 x dp2": ("qwen2", ["actor.tp=2", "actor.pp=2", "critic.tp=2", *SMALL]),
    "tp2 x dp2, critic pp2 x dp2": ("qwen2", ["actor.tp=2", "critic.pp=2", *SMALL]),
    "tp2 x cp2": ("qwen3", [*CP2, "actor.tp=2", "critic.tp=2", *SMALL]),
    "tp2 x cp2, sequence parallel": ("qwen2", [*CP2, *SP, *SMALL]),
    "tied, pp2 x dp2, overlap": ("qwen2_tied", ["actor.pp=2", "critic.tp=2", *SMALL, *OVERLAP]),
    "tp2 x dp2, overlap": ("qwen2", ["actor.tp=2", "critic.tp=2", *SMALL, *OVERLAP]),
    "tied, pp2 x cp2": ("qwen2_tied", [*CP2, "actor.pp=2", "critic.pp=2", *SMALL]),
    "one KV head, cp2 x dp2, critic cp4": ("one_kv_head", ["actor.cp=2", "critic.cp=4", *SMALL]),
}

WIDE = ("28 heads on 4, tp2", "12 heads on 2, tp2")  # sums over more channels, larger logits

# Every option of the loss, with old, engine and reference log-probs that differ, so that clips and weights matter.
OPTIONS: dict[str, list[str]] = {
    "token ratio, wide upper clip": [*TP2, "algorithm.clip_high=0.5"],
    "sequence ratio": [*TP2, "algorithm.ratio=sequence", "algorithm.clip_low=0.02", "algorithm.clip_high=0.03"],
    "sequence mean of token means": ["algorithm.aggregation=seq-mean-token-mean", "algorithm.dual_clip=1.3"],
    "sequence ratio, sequence means, entropy, cp2": [
        *CP2,
        "algorithm.ratio=sequence",
        "algorithm.clip_low=0.02",
        "algorithm.aggregation=seq-mean-token-mean",
        "algorithm.entropy_coefficient=0.03",
    ],
    "fixed length, KL in the loss": [
        *PP2,
        "algorithm.aggregation=fixed-length",
        "algorithm.kl.coefficient=0.1",
        "algorithm.kl.where=loss",
        "algorithm.kl.estimator=k3",
    ],
    "token sums, KL in the reward, entropy": [
        *TP2,
        "algorithm.aggregation=seq-mean-token-sum",
        "algorithm.kl.coefficient=0.05",
        "algorithm.kl.where=reward",
        "algorithm.kl.estimator=k2",
        "algorithm.entropy_coefficient=0.02",
    ],
    "importance sampling": [
        "algorithm.importance_sampling.truncate=1.2",
        "algorithm.importance_sampling.mask_above=1.6",
        "algorithm.kl.coefficient=0.1",
        "algorithm.kl.estimator=k1",
    ],
}


def save_one_kv_head(folder: Path) -> Path:
    """Fewer KV heads than TP."""
    shape = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 151, "num_attention_heads": 4}
    model = Qwen2ForCausalLM(Qwen2Config(num_key_value_heads=1, initializer_range=0.1, **shape))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def results(
    tiny_model: Callable[[str], Path],
    torchrun: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
    selected_cases: set[str],
) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("step_parity")
    one_kv_head = save_one_kv_head(folder / "one_kv_head")

    def model(kind: str) -> str:
        return str(one_kv_head if kind == "one_kv_head" else tiny_model(kind))

    def cases_of(layouts: dict[str, tuple[str, list[str]]]) -> dict[str, dict[str, Any]]:
        return {name: {"model": model(kind), "overrides": overrides} for name, (kind, overrides) in layouts.items()}

    options = {
        name: {"model": model("qwen2"), "overrides": [*overrides, *SMALL], "on_policy": False}
        for name, overrides in OPTIONS.items()
    }
    found: dict[str, dict[str, Any]] = {}
    for num_ranks, every_case in ((2, cases_of(LAYOUTS) | options), (4, cases_of(PRODUCTS))):
        cases = {name: case for name, case in every_case.items() if name in selected_cases}
        if not cases:
            continue
        file = folder / f"cases_{num_ranks}.json"
        file.write_text(json.dumps(cases))
        output = torchrun(PROGRAM, num_ranks, args=[file], timeout=600)
        found |= {line["case"]: line for line in printed_results(output)}
    return found


@pytest.mark.parametrize("case", [*LAYOUTS, *PRODUCTS, *OPTIONS])
def test_actor(results: dict[str, dict[str, Any]], case: str) -> None:
    result = results[case]
    assert result["logprob_error"] < (1e-4 if case in WIDE else 1e-5)
    assert not result["not_repeatable"]
    assert result["actor_weight_error"] < 1e-5
    assert result["actor_grad_norm_error"] < 1e-5
    assert not result["actor_copies_differ"] and not result["actor_stood_still"]
    assert not result["reference_lost"] and not result["policy_not_restored"]


@pytest.mark.parametrize("case", [*LAYOUTS, *PRODUCTS])
def test_ratios_of_the_first_mini_batch_are_one_to_the_last_bit(results: dict[str, dict[str, Any]], case: str) -> None:
    assert results[case]["first_log_ratio"] == 0.0


@pytest.mark.parametrize("case", [*LAYOUTS, *PRODUCTS])
def test_critic(results: dict[str, dict[str, Any]], case: str) -> None:
    result = results[case]
    assert result["prior_error"] < 1e-7
    assert result["value_error"] < 1e-6
    assert result["critic_weight_error"] < 1e-5
    assert result["critic_grad_norm_error"] < 1e-5
    assert not result["critic_copies_differ"] and not result["critic_stood_still"]


def test_each_option_changes_the_step(results: dict[str, dict[str, Any]]) -> None:
    """Otherwise its parity would say nothing."""
    norms = sorted(results[case]["plain_grad_norm"] for case in OPTIONS if case in results)
    assert all(b > a * 1.001 for a, b in pairwise(norms)), norms
