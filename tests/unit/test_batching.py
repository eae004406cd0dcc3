from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from megatron_sppo.models.batching import epoch_order, plan_mini_batches


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=30),
    st.integers(0, 12),
    st.integers(1, 4),
    st.integers(1, 80),
    st.integers(0, 3),
)
def test_a_plan_takes_every_row_once_in_order_of_mini_batches(
    lengths: list[int], mini_batch_size: int, num_ranks: int, budget: int, epoch: int
) -> None:
    order = epoch_order(len(lengths), seed=3, epoch=epoch)
    plan = plan_mini_batches(lengths, order, mini_batch_size, num_ranks, budget)
    size = mini_batch_size or len(lengths)
    for step, mini in enumerate(plan):
        assert len(mini.bins) == num_ranks
        members = [i for rank in mini.bins for micro in rank for i in micro]
        assert sorted(members) == sorted(order[step * size : (step + 1) * size])
        for micro in (micro for rank in mini.bins for micro in rank):
            assert len(micro) == 1 or sum(lengths[i] for i in micro) <= budget
    assert sum(len(micro) for mini in plan for rank in mini.bins for micro in rank) == len(lengths)


def test_the_budget_cuts_micro_batches_not_mini_batches() -> None:
    """Rows of a bin are longest first."""
    lengths = [10, 20, 30, 40, 10, 20, 30, 40]
    (first, second) = plan_mini_batches(lengths, range(8), 4, 2, 50)
    assert first.bins == (((3, 0),), ((2, 1),))  # 50 tokens each
    assert second.bins == (((7, 4),), ((6, 5),))
    (small, _) = plan_mini_batches(lengths, range(8), 4, 2, 40)
    assert small.bins == (((3,), (0,)), ((2,), (1,)))


def test_the_first_epoch_is_in_data_order_and_later_ones_are_seeded_permutations() -> None:
    assert epoch_order(100, seed=1, epoch=0) == list(range(100))
    second = epoch_order(100, seed=1, epoch=1)
    assert sorted(second) == list(range(100)) and second != list(range(100))
    assert second == epoch_order(100, seed=1, epoch=1)
    assert second != epoch_order(100, seed=1, epoch=2)
    assert second != epoch_order(100, seed=2, epoch=1)
