"""Packed attention against one sequence at a time, from the definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_sppo.models.attention import LocalRMSNorm, PackedAttention
from megatron_sppo.models.packing import RowLayout, pack
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
    packed = pack(
        Ragged.from_rows([[0] * n for n in lengths], torch.int64), range(len(lengths)), RowLayout(multiple), torch.device("cpu")
    )
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


@pytest.mark.parametrize("cp", [2, 3])
@settings(max_examples=15)
@given(lengths=st.lists(st.one_of(st.just(1), st.integers(1, 30)), min_size=1, max_size=6), kv_heads=st.sampled_from([1, 2, 4]))
def test_context_parallel_parts_are_those_of_single_sequences(cp: int, lengths: list[int], kv_heads: int) -> None:
    """Each rank's queries against the keys of all ranks, which stand here already gathered; gradients add up."""
    source = Ragged.from_rows([[0] * n for n in lengths], torch.int64)
    parts = [pack(source, range(len(lengths)), RowLayout(1, cp, rank), torch.device("cpu")) for rank in range(cp)]
    wanted = torch.cat([torch.arange(start, start + n) for start, n in zip(parts[0].starts_S.tolist(), lengths, strict=True)])
    reads = [part.reads(wanted) for part in parts]
    generator = torch.Generator().manual_seed(sum(lengths))
    shapes = ((HEADS, HEAD_DIM), (kv_heads, HEAD_DIM), (kv_heads, HEAD_DIM))
    real = [torch.randn(sum(lengths), *shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    upstream = torch.randn(sum(lengths), HEADS * HEAD_DIM, generator=generator, dtype=torch.float64)

    def of_rank(x: torch.Tensor, rank: int) -> torch.Tensor:
        """This rank's part of a row, with 7 at its padding."""
        empty = x.new_full((parts[rank].tokens_T.numel(), *x.shape[1:]), 7.0)
        return empty.index_copy(0, reads[rank].local_r, x[reads[rank].slots_r])

    key, value = (torch.cat([of_rank(x, rank) for rank in range(cp)]) for x in real[1:])
    out = torch.zeros_like(upstream)
    for rank, (part, read) in enumerate(zip(parts, reads, strict=True)):
        local = build(kv_heads)(of_rank(real[0], rank), key, value, None, packed_seq_params=part.row)
        out = out.index_copy(0, read.slots_r, local[read.local_r])
    want = torch.cat([one_sequence(*part) for part in zip(*(x.split(lengths) for x in real), strict=True)])

    torch.testing.assert_close(out, want, atol=1e-10, rtol=1e-10)
    got = torch.autograd.grad((out * upstream).sum(), real)
    for ours, theirs in zip(got, torch.autograd.grad((want * upstream).sum(), real), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)


def test_a_sequence_does_not_see_its_neighbours() -> None:
    lengths, attention = [5, 5, 4], build(2)
    packed = pack(Ragged.from_rows([[0] * n for n in lengths], torch.int64), range(3), RowLayout(), torch.device("cpu"))
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
