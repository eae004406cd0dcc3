"""What a step's verdicts become on every rank; the collective itself runs in the distributed and end-to-end tests."""

from __future__ import annotations

import pytest

from megatron_sppo.rewards.protocol import Verdict
from megatron_sppo.rewards.spread import MAX_REASONS, Graded, interleaved


def test_ranks_take_turns() -> None:
    verdicts = [Verdict(float(index)) for index in range(7)]
    for world in (1, 2, 3):
        assert interleaved([verdicts[rank::world] for rank in range(world)]) == tuple(verdicts)


def test_metrics_are_means_of_parts_and_shares_of_reasons() -> None:
    graded = Graded(
        (
            Verdict(0.9, "4", "number", {"math": 1.0, "format": 0.0}),
            Verdict(0.1, None, "no box", {"math": 0.0, "format": 1.0}),
            Verdict(0.0, None, "no box", {"math": 0.0, "format": 0.0}),
            Verdict(-1.0),
        )
    )
    assert graded.rewards.tolist() == pytest.approx([0.9, 0.1, 0.0, -1.0])
    assert graded.metrics() == pytest.approx(
        {
            "reward/mean": 0.0,
            "reward/math": 1 / 3,
            "reward/format": 1 / 3,
            "reward/reason/no_box": 0.5,
            "reward/reason/number": 0.25,
        },
        abs=1e-7,
    )


def test_a_reward_that_talks_too_much_does_not_flood_the_metrics() -> None:
    graded = Graded(tuple(Verdict(0.0, reason=f"r{index}") for index in range(MAX_REASONS + 5)))
    metrics = graded.metrics()
    assert len(metrics) == MAX_REASONS + 2 and metrics["reward/reason/other"] == 5 / (MAX_REASONS + 5)
