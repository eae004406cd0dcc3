"""A job in two parts: torch worlds that do not notice each other, a group over all of their ranks, and work side by side."""

from __future__ import annotations

from collections.abc import Callable

from tests.distributed.programs import job_groups, values_meanwhile


def test_two_worlds_and_a_bridge(torchrun: Callable[..., str]) -> None:
    output = torchrun(job_groups.__file__, 4, timeout=90)
    assert "rank 2 is done: training rank 2 (rank 2 of the job)" in output
    assert "rank 3 is done: rollout rank 0 (rank 3 of the job)" in output


def test_values_are_computed_while_other_ranks_sample(torchrun: Callable[..., str]) -> None:
    """The rank that samples answers once they are there; in turn, and streamed."""
    output = torchrun(values_meanwhile.__file__, 2, timeout=90)
    assert "train is done" in output and "rollout is done" in output
