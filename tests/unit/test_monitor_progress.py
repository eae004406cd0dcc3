"""The clock and the line that a person reads."""

from __future__ import annotations

import io
import time

import pytest

from megatron_sppo.monitor.clock import StepClock, without_wall_clock
from megatron_sppo.monitor.progress import ProgressLine, format_seconds, format_step, format_validation

METRICS = {
    "reward/mean": 0.4531,
    "critic/value_mean": 0.471,
    "actor/clip_fraction_low": 0.008,
    "actor/clip_fraction_high": 0.002,
    "response/length_mean": 312.4,
    "response/length_max": 512.0,
    "response/truncated": 0.031,
    "actor/entropy": 0.421,
    "time/rollout": 6.1,
    "time/reward": 0.01,
    "time/actor_update": 3.04,
    "time/step": 12.34,
    "perf/tokens_per_second": 8123.0,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_clock_adds_up_phases_and_tells_their_names() -> None:
    heard: list[str] = []
    synchronized: list[None] = []
    clock = StepClock(on_phase=heard.append, synchronize=lambda: synchronized.append(None))
    for name in ("rollout", "reward", "rollout"):
        with clock.phase(name):
            time.sleep(0.02)
    with pytest.raises(KeyError), clock.phase("value"):
        raise KeyError("a phase that fails is still counted")
    metrics = clock.metrics(num_tokens=1000, device_peak_gib=1.5)
    assert heard == ["rollout", "reward", "rollout", "value"] and len(synchronized) == 1 + 2 * 4 + 1
    assert metrics["time/rollout"] >= 0.04 and metrics["time/reward"] >= 0.02 and "time/value" in metrics
    assert metrics["time/step"] >= metrics["time/rollout"] + metrics["time/reward"]
    assert metrics["perf/tokens_per_second"] == pytest.approx(1000 / metrics["time/step"])
    assert 0.005 < metrics["perf/host_peak_gib"] < 1000 and metrics["perf/device_peak_gib"] == 1.5
    assert without_wall_clock({**metrics, "reward/mean": 1.0}) == {"reward/mean": 1.0}


def test_a_step_reads_well() -> None:
    assert format_step(METRICS) == (
        "reward 0.453  V 0.471 | clip 0.8%/0.2% | length 312 (max 512, 3% cut) | entropy 0.42 | "
        "12.3s: roll 6.1 act 3.0 | 8.1k tokens/s"
    )


def test_what_is_not_measured_is_left_out() -> None:
    assert format_step({"sft/loss": 1.5, "time/step": 2.0}) == "loss 1.5000 | 2.0s"


def test_a_log_file_gets_one_plain_line_per_step() -> None:
    stream = io.StringIO()
    progress = ProgressLine(100, stream)
    for step in (1, 2):
        progress.phase("rollout")
        progress.finish(step, METRICS)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2 and "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()
    assert lines[1].startswith("step   2/100 | reward 0.453") and lines[1].endswith("ETA 20m09s")


def test_a_terminal_shows_the_phase_under_way() -> None:
    stream = Terminal()
    progress = ProgressLine(10, stream)
    progress.finish(3, METRICS)
    progress.phase("actor_update")
    assert stream.getvalue().endswith("\r\x1b[2Kstep  3/10 done, actor update ...") and stream.getvalue().count("\n") == 1
    progress.finish(4, METRICS)
    assert stream.getvalue().splitlines()[-1].startswith("\x1b[2Kstep  4/10 | reward 0.453")


def test_validation_shows_intervals() -> None:
    metrics = {"validation/gsm.8k/avg@8": 0.412, "validation/gsm.8k/avg@8_low": 0.38, "validation/gsm.8k/avg@8_high": 0.445}
    assert format_validation({**metrics, "validation/x/avg@1": 0.5}) == (
        "validation: gsm.8k avg@8 41.2% (38.0% to 44.5%), x avg@1 50.0%"
    )


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4s"), (200, "3m20s"), (7500, "2h05m"), (float("nan"), "?")])
def test_durations(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
