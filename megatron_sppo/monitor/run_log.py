"""Everything that a run writes and shows: metric sinks, progress line, samples, calibration rows.

Real on rank 0, silent elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from megatron_sppo.config.schema import LoggingConfig
from megatron_sppo.monitor.jsonl import JsonlFile
from megatron_sppo.monitor.progress import ProgressLine
from megatron_sppo.monitor.samples import Sample, SampleWriter
from megatron_sppo.monitor.sinks import open_sinks


class Validated(Protocol):
    """What a validation has to offer here."""

    @property
    def samples(self) -> tuple[Sample, ...]: ...
    def metrics(self) -> dict[str, float]: ...


class RunLog:
    """For the ranks that do not write; :class:`MainRunLog` is rank 0's."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
    def note(self, text: str) -> None: ...
    def phase(self, name: str) -> None: ...
    def progress(self, name: str) -> Callable[[int, int], None] | None:
        return None

    def train(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def validation(self, step: int, results: Sequence[Validated]) -> None: ...
    def calibration(self, step: int, columns: Mapping[str, Sequence[str | float | None]]) -> None: ...


class MainRunLog(RunLog):
    """``first_step``: the first step that this run will write; rows of an earlier attempt from there on are dropped."""

    def __init__(self, logging: LoggingConfig, run_dir: Path, num_steps: int, first_step: int, config: Mapping[str, Any]) -> None:
        self._line = ProgressLine(num_steps)
        self._open = ExitStack()
        self._sinks = self._open.enter_context(open_sinks(logging, run_dir, first_step, config))
        self._run_dir, self._first_step = run_dir, first_step

    @cached_property
    def _samples(self) -> SampleWriter:
        return self._open.enter_context(SampleWriter(self._run_dir, self._first_step))

    @cached_property
    def _calibration(self) -> JsonlFile:
        return self._open.enter_context(JsonlFile(self._run_dir / "calibration.jsonl", self._first_step))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    def note(self, text: str) -> None:
        self._line.note(text)

    def phase(self, name: str) -> None:
        self._line.phase(name)

    def progress(self, name: str) -> Callable[[int, int], None]:
        return lambda done, total: self._line.phase(f"{name} {done}/{total}")

    def train(self, step: int, metrics: Mapping[str, float]) -> None:
        self._sinks.write(step, metrics, "train")
        self._line.finish(step, metrics)

    def validation(self, step: int, results: Sequence[Validated]) -> None:
        merged = {name: value for result in results for name, value in result.metrics().items()}
        if not merged:
            return
        self._sinks.write(step, merged, "validation")
        self._samples.write(sample for result in results for sample in result.samples)
        self._line.validation(step, merged)

    def calibration(self, step: int, columns: Mapping[str, Sequence[str | float | None]]) -> None:
        """One row per response."""
        for row in zip(*columns.values(), strict=True):
            self._calibration.append({"step": step, **dict(zip(columns, row, strict=True))})
