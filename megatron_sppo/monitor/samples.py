"""Rollouts that a person can read: ``samples.jsonl``, a few responses per benchmark and validation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from megatron_sppo.monitor.jsonl import JsonlFile


@dataclass(frozen=True)
class Sample:
    step: int
    benchmark: str
    prompt_id: str
    prompt: str
    response: str
    gold: str
    answer: str | None  # what the reward read
    reward: float
    reason: str  # why
    num_tokens: int
    truncated: bool


class SampleWriter:
    """Continues ``samples.jsonl`` of a run folder; rows of an earlier attempt from ``first_step`` on are dropped."""

    def __init__(self, run_dir: Path, first_step: int) -> None:
        self._file = JsonlFile(Path(run_dir) / "samples.jsonl", first_step)

    def write(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            self._file.append(asdict(sample))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
