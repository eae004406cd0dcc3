"""FLOPs of a forward pass against PyTorch's own count, and what is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from megatron_sppo.models.batching import plan_mini_batches
from megatron_sppo.models.flops import Work, forward_flops, rates
from megatron_sppo.models.hf_config import read_hf_config
from megatron_sppo.models.packing import split_over_ranks
from megatron_sppo.parallel.gpus import GPUS, find_gpu
from megatron_sppo.plan.shapes import KNOWN

SHAPE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize(
    ("config", "build"),
    [(Qwen2Config(**SHAPE), Qwen2ForCausalLM), (Qwen3Config(**SHAPE, head_dim=48), Qwen3ForCausalLM)],
    ids=["qwen2", "qwen3 with wide heads"],
)
def test_a_forward_pass_is_what_pytorch_counts(config: Any, build: Any, tmp_path: Path) -> None:
    """PyTorch counts matrix products; eager attention computes all n^2 pairs, of which a causal model needs half."""
    config._attn_implementation = "eager"
    model = build(config)
    config.save_pretrained(tmp_path)
    hf, length = read_hf_config(tmp_path), 24
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, length, dtype=torch.long))
    assert counter.get_total_flops() == forward_flops(hf, length, 2 * length**2, length)


def test_work_of_sequences_adds_up() -> None:
    hf = KNOWN["DeepSeek-R1-Distill-Qwen-7B"]
    parts = [Work.forward(hf, [n], scored) for n, scored in ((100, 60), (4096, 4000), (1, 0))]
    whole = Work.forward(hf, [100, 4096, 1], 4060)
    assert (whole.tokens, whole.flops) == (sum(p.tokens for p in parts), pytest.approx(sum(p.flops for p in parts), rel=1e-12))
    assert whole.training(2) == Work(2 * whole.tokens, 6 * whole.flops)


def test_rates_by_hand() -> None:
    """Four ranks at a quarter of an H100's peak for two seconds."""
    work = Work(tokens=1000, flops=4 * 2 * 0.25 * GPUS["h100"].bf16_flops)
    found = rates(work, 2.0, 4, GPUS["h100"].bf16_flops)
    assert found == {"tokens_per_second": 500.0, "tflops": pytest.approx(989 / 4), "mfu": pytest.approx(0.25)}
    assert set(rates(work, 2.0, 4, None)) == {"tokens_per_second", "tflops"}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_a_peak_is_taken_for_the_very_gpu_alone(name: str, key: str | None) -> None:
    assert find_gpu(name) is (GPUS[key] if key else None)


def work_of(length: int) -> float:
    """Attention as dear as the weights at 4096 tokens."""
    return length * (1 + length / 4096)


@given(st.lists(st.integers(1, 9000), min_size=8, max_size=64), st.integers(2, 8))
def test_ranks_differ_by_one_sequence_of_work_at_most(lengths: list[int], num_ranks: int) -> None:
    costs = [work_of(n) for n in lengths]
    loads = [sum(costs[i] for i in share) for share in split_over_ranks(costs, num_ranks)]
    assert max(loads) - min(loads) <= max(costs) * (1 + 1e-9)


def test_balance_is_of_flops_not_of_tokens() -> None:
    """Two sequences of 2048 are as many tokens as one of 4096, and less work."""
    lengths = [4096, 2048, 2048, *[512] * 8]
    costs = [work_of(n) for n in lengths]

    def gap(cost: Any) -> float:
        (mini,) = plan_mini_batches(lengths, range(len(lengths)), 0, 2, 16384, cost)
        loads = [sum(costs[i] for micro in rank for i in micro) for rank in mini.bins]
        return max(loads) / (sum(loads) / 2)

    assert gap(work_of) < 1.02 < 1.1 < gap(float)
