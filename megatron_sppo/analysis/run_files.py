"""A run folder read back: metrics by name, validations by benchmark, V against R per response."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_sppo.errors import UserError
from megatron_sppo.monitor.jsonl import read_jsonl


@dataclass(frozen=True)
class Series:
    """One metric over the steps that have it."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Accuracy:
    """avg@k of one benchmark after a step, with its 95 % interval (NaN where the run wrote none)."""

    step: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """V before the step's update and the reward, per response."""

    steps: tuple[int, ...]
    values: tuple[float, ...]
    rewards: tuple[float, ...]


@dataclass(frozen=True)
class Credit:
    """The advantage that each response was trained with (mean over its tokens), and what it came from."""

    steps: tuple[int, ...]
    prompts: tuple[str, ...]
    values: tuple[float, ...]  # V of the prompt or before the first response token; NaN without a critic
    rewards: tuple[float, ...]
    advantages: tuple[float, ...]


@dataclass(frozen=True)
class Run:
    series: Mapping[str, Series]
    validations: Mapping[str, tuple[Accuracy, ...]]  # "arith avg@8" -> in order of steps
    calibration: Calibration
    credit: Credit
    summary: Mapping[str, Any]

    def named(self, names: Sequence[str]) -> dict[str, Series]:
        """Those of ``names`` that the run has."""
        return {name: self.series[name] for name in names if name in self.series}


def read_run(run_dir: Path) -> Run:
    """UserError where there is no metrics.jsonl or it is empty; summary.json and calibration.jsonl may be missing."""
    path = run_dir / "metrics.jsonl"
    if not path.is_file():
        raise UserError(f"{path} does not exist: give the run_dir of a run that has finished at least one step")
    rows = read_jsonl(path)
    if not rows:
        raise UserError(f"{path} is empty: give the run_dir of a run that has finished at least one step")
    if not all(isinstance(row, dict) and isinstance(row.get("step"), int) and "kind" in row for row in rows):
        raise UserError(f"{path} has rows without `step` and `kind`, so no run wrote it: give a run_dir of `megatron-sppo train`")
    responses = read_jsonl(run_dir / "calibration.jsonl")
    return Run(
        series=_series([row for row in rows if row["kind"] == "train"]),
        validations=_validations([row for row in rows if row["kind"] == "validation"]),
        calibration=_calibration([row for row in responses if row["value"] is not None]),
        credit=_credit([row for row in responses if row.get("advantage") is not None]),
        summary=_summary(run_dir / "summary.json"),
    )


def _series(rows: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    names = dict.fromkeys(name for row in rows for name in row if name not in ("step", "kind"))
    found = {}
    for name in names:
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if points:
            found[name] = Series(*zip(*points, strict=True))
    return found


def _validations(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Accuracy, ...]]:
    found: dict[str, list[Accuracy]] = {}
    for row in rows:
        for name, value in row.items():
            if "/avg@" in name and value is not None and not name.endswith(("_low", "_high")):
                label = name.removeprefix("validation/").replace("/avg@", " avg@")
                low, high = _number(row.get(f"{name}_low")), _number(row.get(f"{name}_high"))
                found.setdefault(label, []).append(Accuracy(row["step"], value, low, high))
    return {label: tuple(points) for label, points in found.items()}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _calibration(rows: Sequence[Mapping[str, Any]]) -> Calibration:
    return Calibration(
        steps=tuple(row["step"] for row in rows),
        values=tuple(row["value"] for row in rows),
        rewards=tuple(row["reward"] for row in rows),
    )


def _credit(rows: Sequence[Mapping[str, Any]]) -> Credit:
    return Credit(
        steps=tuple(row["step"] for row in rows),
        prompts=tuple(row["prompt"] for row in rows),
        values=tuple(_number(row["value"]) for row in rows),
        rewards=tuple(row["reward"] for row in rows),
        advantages=tuple(row["advantage"] for row in rows),
    )


def _summary(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON: repair or remove it") from error
    return content if isinstance(content, dict) else {"summary": content}
