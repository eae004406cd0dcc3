"""Which steps are profiled, and that phases are ranges of the trace."""

from __future__ import annotations

import gzip
import json
from functools import partial
from pathlib import Path

import pytest
import torch

from megatron_sppo.config.schema import ProfileConfig
from megatron_sppo.monitor.clock import StepClock
from megatron_sppo.monitor.profiler import Profiler, named_range


@pytest.mark.parametrize(
    ("config", "rank", "steps"),
    [
        (ProfileConfig(), 0, []),
        (ProfileConfig(first_step=3), 0, [3]),
        (ProfileConfig(first_step=3, last_step=5), 0, [3, 4, 5]),
        (ProfileConfig(first_step=3, last_step=5), 1, []),
        (ProfileConfig(first_step=3, last_step=4, all_ranks=True), 1, [3, 4]),
    ],
)
def test_the_steps_that_were_asked_for(config: ProfileConfig, rank: int, steps: list[int], tmp_path: Path) -> None:
    profiler = Profiler(config, tmp_path, rank, on_gpu=False)
    assert [step for step in range(1, 8) if profiler.wants(step)] == steps


def test_a_trace_has_the_phases_and_what_ran_in_them(tmp_path: Path) -> None:
    profiler = Profiler(ProfileConfig(first_step=2), tmp_path, 0, on_gpu=False)
    for step in (1, 2, 3):
        with profiler.step(step):
            clock = StepClock(named_range=partial(named_range, on_gpu=False))
            with clock.phase("rollout"):
                pass
            with clock.phase("actor_update"):
                torch.ones(8, 8) @ torch.ones(8, 8)
    (trace,) = (tmp_path / "profile").iterdir()
    assert trace.name == "step_000002_rank_0.json.gz"
    events = {event["name"]: event for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"] if "dur" in event}
    update, product = events["actor_update"], events["aten::mm"]
    assert update["ts"] <= product["ts"] and product["ts"] + product["dur"] <= update["ts"] + update["dur"]
    assert "rollout" in events


def test_a_step_that_fails_fails_as_itself(tmp_path: Path) -> None:
    profiler = Profiler(ProfileConfig(first_step=1), tmp_path, 0, on_gpu=False)
    with pytest.raises(ZeroDivisionError), profiler.step(1):
        raise ZeroDivisionError
