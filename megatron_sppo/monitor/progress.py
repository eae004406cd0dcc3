"""One line per step that a person can read.

    step  12/100 | reward 0.453  V 0.471 | clip 0.8%/0.2% | length 312 (max 512, 3% cut) | entropy 0.42 | 12.3s: roll 6.1 ...

On a terminal the last line also shows the phase under way; elsewhere (a log file) there is one plain line per step.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from statistics import median
from typing import TextIO

SHORT_PHASES = {
    "rollout": "roll",
    "reward": "rew",
    "value": "val",
    "old_logprobs": "old",
    "reference_logprobs": "ref",
    "advantage": "adv",
    "critic_update": "crit",
    "actor_update": "act",
    "reshard": "push",
    "checkpoint": "save",
}
CLEAR_LINE = "\r\x1b[2K"


class ProgressLine:
    """For rank 0 alone."""

    def __init__(self, num_steps: int, stream: TextIO | None = None) -> None:
        self._num_steps = num_steps
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._step_seconds: list[float] = []
        self._step = 0

    def phase(self, name: str) -> None:
        """Show what runs now (terminals only); fits ``StepClock(on_phase=...)``."""
        if self._live:
            self._stream.write(f"{CLEAR_LINE}{self._position()} done, {name.replace('_', ' ')} ...")
            self._stream.flush()

    def finish(self, step: int, metrics: Mapping[str, float]) -> None:
        """The line of a finished step."""
        self._step = step
        self._step_seconds = [*self._step_seconds, metrics.get("time/step", math.nan)][-20:]
        self.note(f"{self._position()} | {format_step(metrics)} | ETA {self._eta()}")

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line with the accuracy of each benchmark and its 95 % interval."""
        self._step = step
        self.note(f"{self._position()} | {format_validation(metrics)}")

    def note(self, text: str) -> None:
        """A line of its own, without disturbing the live one."""
        self._stream.write(f"{CLEAR_LINE if self._live else ''}{text}\n")
        self._stream.flush()

    def _position(self) -> str:
        width = len(str(self._num_steps))
        return f"step {self._step:>{width}}/{self._num_steps}"

    def _eta(self) -> str:
        """From the median of the last steps: the first one and those with a checkpoint are slow."""
        return format_seconds(median(self._step_seconds) * (self._num_steps - self._step))


def format_step(metrics: Mapping[str, float]) -> str:
    """The step's numbers; a part whose metrics are missing is left out."""
    parts = (
        _fields(metrics, "loss {sft/loss:.4f}"),
        _fields(metrics, "held-out loss {sft/held_out_loss:.4f}"),
        _fields(metrics, "reward {reward/mean:.3f}  V {critic/value_mean:.3f}"),
        _fields(metrics, "clip {actor/clip_fraction_low:.1%}/{actor/clip_fraction_high:.1%}"),
        _fields(metrics, "length {response/length_mean:.0f} (max {response/length_max:.0f}, {response/truncated:.0%} cut)"),
        _fields(metrics, "entropy {actor/entropy:.2f}"),
        _fields(metrics, "{time/step:.1f}s") + _phases(metrics),
        _throughput(metrics),
    )
    return " | ".join(part for part in parts if part)


def format_validation(metrics: Mapping[str, float]) -> str:
    """``arith avg@8 41.2% (38.0 to 44.5)  aime avg@8 ...``"""
    parts = []
    for name, value in metrics.items():
        if "avg@" not in name or name.endswith(("_low", "_high")):
            continue
        _, benchmark, measure = name.split("/", 2)
        low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
        interval = "" if low is None or high is None else f" ({low:.1%} to {high:.1%})"
        parts.append(f"{benchmark} {measure} {value:.1%}{interval}")
    return "validation: " + ", ".join(parts)


def _fields(metrics: Mapping[str, float], template: str) -> str:
    try:
        return template.format_map(metrics)
    except KeyError:  # this run does not measure it (SFT has no reward, a critic warm-up step no clip fraction)
        return ""


def _phases(metrics: Mapping[str, float]) -> str:
    """``: roll 6.1 val 0.4``, without what takes less than half of a percent of the step."""
    step = metrics.get("time/step", 0.0)
    shown = [
        f"{short} {metrics[f'time/{phase}']:.1f}"
        for phase, short in SHORT_PHASES.items()
        if metrics.get(f"time/{phase}", 0.0) > 0.005 * step
    ]
    return ": " + " ".join(shown) if shown else ""


def _throughput(metrics: Mapping[str, float]) -> str:
    rate = metrics.get("perf/tokens_per_second")
    if rate is None:
        return ""
    return f"{rate / 1000:.1f}k tokens/s" if rate >= 1000 else f"{rate:.0f} tokens/s"


def format_seconds(seconds: float) -> str:
    """``45s``, ``3m20s``, ``2h05m``; ``?`` where it is not known."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest}s"
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"
