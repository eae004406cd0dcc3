"""Packed attention against one sequence at a time, from the definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_sppo.models.attention import LocalRMSNorm, PackedAttention
from megatron_sppo.models.packing import pack
from megatron_sppo.ragged import Ragged

HEADS, HEAD_DIM = 4, 8


def build(kv_heads: int) -> PackedAttention:
    config = TransformerConfig(
        num_layers=1,
        hidden_size=HEADS * HEAD_DIM,
        num_attention_heads=HEADS,
        num_query_groups=kv_heads,
        attention_dropout=0.0,
        use_cpu_initialization=True,
    )
    return PackedAttention(config, layer_number=1, attn_mask_type=None, attention_type="self")


def one_sequence(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """[T, heads, d], [T, kv_heads, d] -> [T, heads * d]; query head h reads key head h // (heads / kv_heads)."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.einsum("thd,shd->hts", q, k) / math.sqrt(q.shape[-1])
    future = torch.ones(q.shape[0], q.shape[0], dtype=torch.bool).triu(1)
    return torch.einsum("hts,shd->thd", scores.masked_fill(future, -torch.inf).softmax(-1), v).flatten(1)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@settings(max_examples=15)
@given(lengths=st.lists(st.one_of(st.just(1), st.integers(1, 30)), min_size=1, max_size=8), multiple=st.sampled_from([1, 2, 8]))
def test_values_and_gradients_are_those_of_single_sequences(kv_heads: int, lengths: list[int], multiple: int) -> None:
    packed = pack(Ragged.from_rows([[0] * n for n in lengths], torch.int64), range(len(lengths)), multiple, torch.device("cpu"))
    total = packed.tokens_T.numel()
    shapes = ((total, HEADS, HEAD_DIM), (total, kv_heads, HEAD_DIM), (total, kv_heads, HEAD_DIM))
    generator = torch.Generator().manual_seed(sum(lengths))
    ours = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    naive = [x.detach().clone().requires_grad_() for x in ours]
    upstream = torch.randn(sum(lengths), HEADS * HEAD_DIM, generator=generator, dtype=torch.float64)

    out = build(kv_heads)(*ours, None, packed_seq_params=packed.row)
    assert out.shape == (total, HEADS * HEAD_DIM)
    real = out[: sum(lengths)]
    (real * upstream).sum().backward()
    want = torch.cat([one_sequence(*part) for part in zip(*(x[: sum(lengths)].split(lengths) for x in naive), strict=True)])
    (want * upstream).sum().backward()

    torch.testing.assert_close(real, want, atol=1e-10, rtol=1e-10)
    for got, expected in zip(ours, naive, strict=True):
        assert got.grad is not None and expected.grad is not None
        torch.testing.assert_close(got.grad, expected.grad, atol=1e-10, rtol=1e-10)
        assert not got.grad[sum(lengths) :].any(), "padding takes no part"


def test_a_sequence_does_not_see_its_neighbours() -> None:
    lengths, attention = [5, 5, 4], build(2)
    packed = pack(Ragged.from_rows([[0] * n for n in lengths], torch.int64), range(3), 1, torch.device("cpu"))
    q, k, v = torch.randn(14, HEADS, HEAD_DIM), torch.randn(14, 2, HEAD_DIM), torch.randn(14, 2, HEAD_DIM)
    before = attention(q, k, v, None, packed_seq_params=packed.row)
    k[5:10], v[5:10] = 7.0, 7.0
    after = attention(q, k, v, None, packed_seq_params=packed.row)
    assert torch.equal(before[:5], after[:5]) and torch.equal(before[10:], after[10:])
    assert not torch.equal(before[5:10], after[5:10])


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_local_norm_is_rms_norm_and_says_whether_its_gradient_is_partial(sequence_parallel: bool) -> None:
    config = TransformerConfig(
        num_layers=1,
        hidden_size=16,
        num_attention_heads=2,
        use_cpu_initialization=True,
        tensor_model_parallel_size=2 if sequence_parallel else 1,
        sequence_parallel=sequence_parallel,
    )
    norm = LocalRMSNorm(config, 16, eps=1e-3)
    x = torch.randn(3, 16)
    torch.testing.assert_close(norm(x), x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt())
    assert norm.weight.sequence_parallel is sequence_parallel
