from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_sppo.ragged import Ragged, expand, segment_ids, segment_sum

rows_of_ints = st.lists(st.lists(st.integers(-50, 50), max_size=5), max_size=6)


@given(rows_of_ints)
def test_rows_come_back(rows: list[list[int]]) -> None:
    ragged = Ragged.from_rows(rows, torch.int64)
    assert len(ragged) == len(rows)
    assert [row.tolist() for row in ragged.rows()] == rows
    assert ragged.row_sums().tolist() == [sum(row) for row in rows]
    for start, row in zip(ragged.starts.tolist(), rows, strict=True):
        assert ragged.values[start : start + len(row)].tolist() == row


@given(rows_of_ints, st.data())
def test_select_picks_in_the_given_order(rows: list[list[int]], data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8)) if rows else []
    picked = Ragged.from_rows(rows, torch.int64).select(indices)
    assert [row.tolist() for row in picked.rows()] == [rows[i] for i in indices]


@given(rows_of_ints)
def test_segments(rows: list[list[int]]) -> None:
    ragged = Ragged.from_rows(rows, torch.int64)
    assert segment_ids(ragged.lengths).tolist() == [i for i, row in enumerate(rows) for _ in row]
    numbers = torch.arange(len(rows))
    assert torch.equal(expand(numbers, ragged.lengths), segment_ids(ragged.lengths))


def test_segment_sum_is_differentiable() -> None:
    values = torch.ones(6, requires_grad=True)
    (segment_sum(values, torch.tensor([1, 0, 3, 2])) * torch.tensor([1.0, 7.0, 10.0, 100.0])).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [1.0, 10.0, 10.0, 10.0, 100.0, 100.0]


def test_with_values_keeps_the_shape_and_checks_the_count() -> None:
    ragged = Ragged.from_rows([[1], [2, 3]], torch.int64)
    assert ragged.with_values(ragged.values * 2).rows()[1].tolist() == [4, 6]
    with pytest.raises(AssertionError):
        ragged.with_values(torch.zeros(4))
