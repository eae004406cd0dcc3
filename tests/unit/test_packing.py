from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_sppo.models.attention import attention_groups
from megatron_sppo.models.packing import concatenate, fill_bins, pack, positions_before, split_over_ranks
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
    packed = pack(Ragged.from_rows(rows, torch.int64), indices, multiple, CPU)
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
    exact = pack(Ragged.from_rows([[1] * 5, [2] * 3], torch.int64), [0, 1], 4, CPU)
    assert exact.row.cu_seqlens_q.tolist() == [0, 5, 8] and exact.positions_T.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    padded = pack(Ragged.from_rows([[1] * 6, [2] * 3], torch.int64), [0, 1], 4, CPU)
    assert padded.row.cu_seqlens_q.tolist() == [0, 6, 9, 12]
    assert padded.tokens_T.tolist() == [1] * 6 + [2] * 3 + [0] * 3


def test_positions_before_worked_example() -> None:
    packed = pack(Ragged.from_rows([[1] * 5, [2] * 4], torch.int64), [0, 1], 1, CPU)
    assert positions_before(packed, torch.tensor([2, 3])).tolist() == [2, 3, 5, 6, 7]


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=6))
def test_positions_before_predict_the_response_tokens(shapes: list[tuple[int, int]]) -> None:
    counter = iter(range(10_000))
    prompts = Ragged.from_rows([[next(counter) for _ in range(p)] for p, _ in shapes], torch.int64)
    responses = Ragged.from_rows([[next(counter) for _ in range(r)] for _, r in shapes], torch.int64)
    packed = pack(concatenate(prompts, responses), range(len(shapes)), 1, CPU)
    predictors = positions_before(packed, responses.lengths)
    assert torch.equal(packed.tokens_T[predictors + 1], responses.values)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12))
def test_attention_groups_cover_each_position_once_with_little_padding(lengths: list[int]) -> None:
    groups = attention_groups(lengths)
    covered = torch.cat([positions for _, _, positions in groups]) if groups else torch.empty(0)
    assert sorted(covered.tolist()) == list(range(sum(lengths)))
    for gather, real, positions in groups:
        assert torch.equal(gather.flatten()[real], positions)
        assert gather.numel() <= 1.25 * real.numel()


def test_attention_groups_of_the_docstring() -> None:
    (long, short) = attention_groups([3, 2, 3])
    assert long[0].tolist() == [[0, 1, 2], [5, 6, 7]] and short[0].tolist() == [[3, 4]]
    ((gather, real, positions),) = attention_groups([5, 4])
    assert gather.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 8]]
    assert real.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8] and positions.tolist() == list(range(9))
