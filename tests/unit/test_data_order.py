from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_sppo.data.order import BatchCursor, EpochOrder
from megatron_sppo.errors import UserError


@st.composite
def orders(draw: st.DrawFn) -> EpochOrder:
    size = draw(st.integers(1, 40))
    return EpochOrder(size, draw(st.integers(1, size)), draw(st.integers(0, 3)), draw(st.booleans()))


def cursor_over(order: EpochOrder, data: str = "data") -> BatchCursor:
    return BatchCursor(order, "prompts_per_step", data)


@given(orders(), st.integers(0, 12), st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_resuming_anywhere_gives_the_same_continuation(order: EpochOrder, before: int, after: int) -> None:
    first = cursor_over(order)
    for _ in range(before):
        first.next_indices()
    second = cursor_over(order)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.epoch == first.epoch
    assert [second.next_indices() for _ in range(after)] == [first.next_indices() for _ in range(after)]


@given(orders())
@settings(max_examples=200, deadline=None)
def test_every_row_once_per_epoch_and_never_twice_in_a_batch(order: EpochOrder) -> None:
    epochs = 6
    cursor = cursor_over(order)
    batches = [cursor.next_indices() for _ in range(-(-epochs * order.size // order.batch_size))]
    assert all(len(set(batch)) == order.batch_size for batch in batches)
    visited = list(itertools.chain.from_iterable(batches))
    for epoch in range(epochs):
        assert sorted(visited[epoch * order.size : (epoch + 1) * order.size]) == list(range(order.size))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    order = EpochOrder(100, 10, seed=1, shuffle=True)
    assert np.array_equal(order.rows(3), EpochOrder(100, 10, seed=1, shuffle=True).rows(3))
    assert not np.array_equal(order.rows(3), order.rows(4))
    assert not np.array_equal(order.rows(3), EpochOrder(100, 10, seed=2, shuffle=True).rows(3))
    assert EpochOrder(6, 2, seed=1, shuffle=True).rows(0).tolist() == [5, 1, 3, 4, 0, 2]  # pinned: a changed order breaks resume
    assert EpochOrder(4, 2, seed=1, shuffle=False).rows(5).tolist() == [0, 1, 2, 3]


def test_a_row_of_the_boundary_batch_waits() -> None:
    order = EpochOrder(4, 3, seed=0, shuffle=True)
    raw = order.shuffled(1)
    expected = [*[row for row in raw if row != raw[0]][:2], raw[0], [row for row in raw if row != raw[0]][2]]
    assert order.following(1, np.array([*raw[1:], raw[0]])).tolist() == expected


def test_late_epochs_are_cheap_to_resume() -> None:
    order = EpochOrder(20_000, 512, seed=1, shuffle=True)
    cursor = cursor_over(order)
    cursor.load_state_dict({**cursor.state_dict(), "epoch": 10**6, "position": 5})
    assert cursor.next_indices() == order.rows(10**6)[5:517].tolist()


@pytest.mark.parametrize("batch_size", [0, 5])
def test_a_batch_that_cannot_be_filled(batch_size: int) -> None:
    with pytest.raises(UserError, match=rf"prompts_per_step={batch_size} cannot be filled from 4 usable rows"):
        cursor_over(EpochOrder(4, batch_size, seed=1, shuffle=True))


@pytest.mark.parametrize(
    ("other", "data", "complaint"),
    [
        (EpochOrder(8, 2, 1, True), "other data", "^data: .*fingerprint=data and this run has other data"),
        (EpochOrder(8, 4, 1, True), "data", "^prompts_per_step: .*batch_size=2 and this run has 4"),
        (EpochOrder(8, 2, 2, True), "data", "^seed: .*seed=1 and this run has 2"),
        (EpochOrder(8, 2, 1, False), "data", "^data.shuffle: .*shuffle=True and this run has False"),
    ],
)
def test_a_cursor_of_another_run_is_refused(other: EpochOrder, data: str, complaint: str) -> None:
    state = cursor_over(EpochOrder(8, 2, 1, True)).state_dict()
    with pytest.raises(UserError, match=complaint):
        cursor_over(other, data).load_state_dict(state)
