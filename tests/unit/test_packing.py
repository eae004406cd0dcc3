from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.models.common.embeddings.rope_utils import _get_thd_freqs_on_this_cp_rank

from megatron_sppo.models.attention import attention_groups
from megatron_sppo.models.packing import RowLayout, concatenate, fill_bins, pack, positions_before, split_over_ranks
from megatron_sppo.ragged import Ragged

CPU = torch.device("cpu")
lengths_list = st.lists(st.integers(1, 40), min_size=1, max_size=20)


@given(lengths_list, st.integers(1, 60), st.data())
def test_bins_hold_every_row_once_within_the_budget(lengths: list[int], budget: int, data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.sampled_from(range(len(lengths))), unique=True))
    bins = fill_bins(lengths, indices, budget)
    assert sorted(i for members in bins for i in members) == sorted(indices)
    assert all(len(members) == 1 or sum(lengths[i] for i in members) <= budget for members in bins)
    assert bins == fill_bins(lengths, list(reversed(indices)), budget), "the order of the input does not matter"


def test_bins_of_the_docstring() -> None:
    assert fill_bins([5, 3, 4], [0, 1, 2], 8) == [[0, 1], [2]]
    assert fill_bins([5, 30, 4], [0, 1, 2], 8) == [[1], [0], [2]], "a row above the budget is on its own"


@given(st.lists(st.integers(0, 40), max_size=20), st.integers(1, 6))
def test_every_rank_has_a_row_where_there_are_enough(lengths: list[int], num_ranks: int) -> None:
    shares = split_over_ranks(lengths, num_ranks)
    assert sorted(i for share in shares for i in share) == list(range(len(lengths)))
    assert len(shares) == num_ranks
    if len(lengths) >= num_ranks:
        assert all(shares)
    loads = [sum(lengths[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths, default=0), "longest first: never further apart than one row"
    assert shares == split_over_ranks(lengths, num_ranks)


@given(st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=9), min_size=1, max_size=6), st.integers(1, 8))
def test_a_packed_row(rows: list[list[int]], multiple: int) -> None:
    indices = list(range(len(rows)))[::-1]
    packed = pack(Ragged.from_rows(rows, torch.int64), indices, RowLayout(multiple), CPU)
    total = sum(map(len, rows))
    num_tokens = packed.tokens_T.numel()
    assert num_tokens % multiple == 0 and num_tokens - total < multiple
    assert packed.indices == tuple(indices)
    for index, start, length in zip(indices, packed.starts_S.tolist(), packed.lengths_S.tolist(), strict=True):
        span = slice(start, start + length)
        assert packed.tokens_T[span].tolist() == rows[index]
        assert packed.positions_T[span].tolist() == list(range(length))
    bounds = packed.row.cu_seqlens_q.tolist()
    assert bounds[: len(rows)] == packed.starts_S.tolist() and bounds[-1] == num_tokens
    assert packed.row.max_seqlen_q == max(b - a for a, b in pairwise(bounds))


def test_the_packed_row_of_the_docstring() -> None:
    exact = pack(Ragged.from_rows([[1] * 5, [2] * 3], torch.int64), [0, 1], RowLayout(4), CPU)
    assert exact.row.cu_seqlens_q.tolist() == [0, 5, 8] and exact.positions_T.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    padded = pack(Ragged.from_rows([[1] * 6, [2] * 3], torch.int64), [0, 1], RowLayout(4), CPU)
    assert padded.row.cu_seqlens_q.tolist() == [0, 6, 9, 12]
    assert padded.tokens_T.tolist() == [1] * 6 + [2] * 3 + [0] * 3


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=6), st.integers(2, 4), st.sampled_from([1, 2])
)
def test_context_parallel_parts_of_a_row(shapes: list[tuple[int, int]], cp: int, multiple: int) -> None:
    """Every token is on one rank, where Megatron expects it, and each response token is read on one rank."""
    counter = iter(range(1, 10_000))
    prompts = Ragged.from_rows([[next(counter) for _ in range(p)] for p, _ in shapes], torch.int64)
    responses = Ragged.from_rows([[next(counter) for _ in range(r)] for _, r in shapes], torch.int64)
    sequences = concatenate(prompts, responses)
    parts = [pack(sequences, range(len(shapes)), RowLayout(multiple, cp, rank), CPU) for rank in range(cp)]
    assert sorted(token for part in parts for token in part.tokens_T.tolist() if token) == sorted(sequences.values.tolist())
    assert all((part.local >= 0).sum() == part.tokens_T.numel() for part in parts)
    assert torch.stack([part.local >= 0 for part in parts]).sum(0).eq(1).all()

    bounds = parts[0].row.cu_seqlens_q.tolist()
    padded = [b - a for a, b in pairwise(bounds)]
    assert all(size % (2 * cp) == 0 and size - length < 2 * cp for size, length in zip(padded, sequences.lengths, strict=False))
    positions = torch.arange(max(padded))
    for rank, part in enumerate(parts):
        assert part.row.cu_seqlens_q.tolist() == part.row.cu_seqlens_q_padded.tolist() == bounds
        assert part.tokens_T.numel() * cp == bounds[-1] and part.tokens_T.numel() % (2 * multiple) == 0
        mine = part.positions_T.split([size // cp for size in padded])
        rotary = [_get_thd_freqs_on_this_cp_rank(rank, cp, x, positions) for x in mine]
        assert torch.equal(torch.cat(rotary), part.positions_T), "Megatron rotates each token as one of this position"

    predictors = positions_before(parts[0], responses.lengths)
    reads = [part.reads(predictors) for part in parts]
    assert sorted(slot for read in reads for slot in read.slots_r.tolist()) == list(range(len(responses.values)))
    owned = sequences.values.tolist()
    for part, read in zip(parts, reads, strict=True):
        assert read.num_wanted == len(responses.values)
        predictor_tokens = part.tokens_T[read.local_r].tolist()
        assert [owned[owned.index(token) + 1] for token in predictor_tokens] == responses.values[read.slots_r].tolist()


def test_the_context_parallel_row_of_the_docstring() -> None:
    row = Ragged.from_rows([[10, 11, 12, 13, 14, 15, 16]], torch.int64)
    first, second = (pack(row, [0], RowLayout(1, 2, rank), CPU) for rank in (0, 1))
    assert first.tokens_T.tolist() == [10, 11, 16, 0] and first.positions_T.tolist() == [0, 1, 6, 7]
    assert second.tokens_T.tolist() == [12, 13, 14, 15] and second.positions_T.tolist() == [2, 3, 4, 5]


def test_positions_before_worked_example() -> None:
    packed = pack(Ragged.from_rows([[1] * 5, [2] * 4], torch.int64), [0, 1], RowLayout(), CPU)
    assert positions_before(packed, torch.tensor([2, 3])).tolist() == [2, 3, 5, 6, 7]


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=6))
def test_positions_before_predict_the_response_tokens(shapes: list[tuple[int, int]]) -> None:
    counter = iter(range(10_000))
    prompts = Ragged.from_rows([[next(counter) for _ in range(p)] for p, _ in shapes], torch.int64)
    responses = Ragged.from_rows([[next(counter) for _ in range(r)] for _, r in shapes], torch.int64)
    packed = pack(concatenate(prompts, responses), range(len(shapes)), RowLayout(), CPU)
    predictors = positions_before(packed, responses.lengths)
    assert torch.equal(packed.tokens_T[predictors + 1], responses.values)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12))
def test_attention_groups_cover_each_position_once_with_little_padding(lengths: list[int]) -> None:
    groups = attention_groups(lengths)
    covered = torch.cat([group.positions_n for group in groups]) if groups else torch.empty(0)
    assert sorted(covered.tolist()) == list(range(sum(lengths)))
    for group in groups:
        assert torch.equal(group.queries_SL.flatten()[group.real_n], group.positions_n)
        assert group.queries_SL.numel() <= 1.25 * group.real_n.numel()
        assert group.keys_SK is group.queries_SL and group.offsets_SL is None


def test_attention_groups_of_the_docstring() -> None:
    (long, short) = attention_groups([3, 2, 3])
    assert long.queries_SL.tolist() == [[0, 1, 2], [5, 6, 7]] and short.queries_SL.tolist() == [[3, 4]]
    (group,) = attention_groups([5, 4])
    assert group.queries_SL.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 8]]
    assert group.real_n.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8] and group.positions_n.tolist() == list(range(9))
