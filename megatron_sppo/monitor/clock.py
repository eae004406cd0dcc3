"""Seconds per phase of a step, throughput and peak memory.

Everything that depends on the machine's speed or memory is named ``time/...`` or ``perf/...``: two runs that are equal
bit for bit differ there and nowhere else.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, TypeVar

WALL_CLOCK_PREFIXES = ("time/", "perf/")
Item = TypeVar("Item")


def without_wall_clock(metrics: Mapping[str, float]) -> dict[str, float]:
    """What must be equal between a resumed and an uninterrupted run."""
    return {name: value for name, value in metrics.items() if not name.startswith(WALL_CLOCK_PREFIXES)}


def host_peak_gib() -> float:
    """Largest resident memory of this process so far, GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bytes_per_unit = 1 if sys.platform == "darwin" else 1024
    return peak * bytes_per_unit / 2**30


class Peak(Protocol):
    """Of a device's memory (:class:`megatron_sppo.parallel.device_memory.PhasePeak`)."""

    def start(self) -> None: ...
    def gib(self) -> float: ...


class StepClock:
    """One per step: ``with clock.phase("rollout"): ...``; a phase that runs twice is added up."""

    def __init__(
        self,
        on_phase: Callable[[str], None] | None = None,
        synchronize: Callable[[], None] | None = None,
        named_range: Callable[[str], AbstractContextManager[None]] = nullcontext,
        peak: Peak | None = None,
    ) -> None:
        """``on_phase`` hears the name of each phase as it starts; ``synchronize`` waits for the device before a reading;
        ``named_range(name)`` is entered around each phase, for profilers; ``peak`` measures the device's memory in each.
        """
        self._seconds: dict[str, float] = {}
        self._peaks: dict[str, float] = {}
        self._peak = peak
        self._on_phase = on_phase
        self._synchronize = synchronize
        self._named_range = named_range
        self._started = self._now()

    def _now(self) -> float:
        if self._synchronize is not None:
            self._synchronize()
        return time.perf_counter()

    def each(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """``items``, with the time that each takes to come counted as phase ``name``."""
        iterator = iter(items)
        while True:
            with self.phase(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        if self._on_phase is not None:
            self._on_phase(name)
        started = self._now()
        if self._peak is not None:
            self._peak.start()
        try:
            with self._named_range(name):
                yield
        finally:
            if self._peak is not None:
                self._peaks[name] = max(self._peaks.get(name, 0.0), self._peak.gib())
            self._seconds[name] = self._seconds.get(name, 0.0) + self._now() - started

    def share(self, *names: str) -> float:
        """Of the step so far that went into these phases."""
        return sum(self._seconds.get(name, 0.0) for name in names) / (self._now() - self._started)

    def metrics(self, num_tokens: int, device_peak_gib: float = 0.0) -> dict[str, float]:
        """``num_tokens``: prompt and response tokens of the step over all ranks. ``time/step`` runs from construction.

        ``device_peak_gib``: of what no phase has measured.
        """
        total = self._now() - self._started
        return {
            **{f"time/{name}": seconds for name, seconds in self._seconds.items()},
            "time/step": total,
            "perf/tokens_per_second": num_tokens / total,
            "perf/host_peak_gib": host_peak_gib(),
            **{f"perf/{name}/device_peak_gib": peak for name, peak in self._peaks.items() if peak},
            "perf/device_peak_gib": max(device_peak_gib, *self._peaks.values(), 0.0),
        }
