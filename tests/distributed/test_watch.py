"""A rank that is killed ends the job at once, with a sentence that names it; an orderly end says nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.distributed.programs import watched
from tests.launch import LaunchFailed


@pytest.mark.parametrize(
    ("victim", "name"), [(0, "training rank 0 (rank 0 of the job) is gone"), (2, "rollout rank 0 (rank 2 of the job) is gone")]
)
def test_a_dead_rank_is_named(torchrun: Callable[..., str], victim: int, name: str, request: pytest.FixtureRequest) -> None:
    if victim == 0 and not request.config.getoption("--whole-matrix"):
        pytest.skip("--whole-matrix")
    started = time.monotonic()
    with pytest.raises(LaunchFailed, match="exit code") as failed:
        torchrun(watched.__file__, 3, [victim], timeout=90)
    assert time.monotonic() - started < 60
    assert str(failed.value).count("megatron-sppo: error: ") == 1 and name in str(failed.value)


def test_an_orderly_end_says_nothing(torchrun: Callable[..., str], request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--whole-matrix"):
        pytest.skip("--whole-matrix")
    assert "megatron-sppo" not in torchrun(watched.__file__, 3, [-1], timeout=90)
