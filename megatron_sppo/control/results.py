"""The runs of a folder, read for a report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_sppo.analysis.drawing import moving_mean
from megatron_sppo.analysis.intervals import student_interval
from megatron_sppo.control.tasks import TASKS
from megatron_sppo.errors import UserError
from megatron_sppo.monitor.jsonl import read_jsonl

WINDOW = 10  # updates whose training trajectories make one point of a curve
ORDER = ("sppo", "ppo", "ppo_bce")
Interval = tuple[float, float, float]  # mean over seeds, and its 95 % interval by Student's t (NaN for one seed)


@dataclass(frozen=True)
class Run:
    result: Mapping[str, Any]
    successes: tuple[float, ...]  # of each update's trajectories

    @property
    def smooth(self) -> list[float]:
        return moving_mean(self.successes, WINDOW)

    @property
    def setback(self) -> float:
        """The deepest fall of the smoothed curve below what it had reached before."""
        best, deepest = 0.0, 0.0
        for value in self.smooth[WINDOW - 1 :]:
            best = max(best, value)
            deepest = max(deepest, best - value)
        return deepest


@dataclass(frozen=True)
class Group:
    """The seeds of one algorithm on one task, in the order of the seeds."""

    algorithm: str
    runs: tuple[Run, ...]

    def curve(self) -> list[Interval]:
        return [clipped(over_seeds(points)) for points in zip(*(run.smooth for run in self.runs), strict=True)]

    def of(self, key: str) -> Interval:
        """A number of ``result.json`` over seeds."""
        return over_seeds([run.result[key] for run in self.runs])


def over_seeds(values: Sequence[float]) -> Interval:
    return sum(values) / len(values), *student_interval(values)


def clipped(interval: Interval) -> Interval:
    """A rate lies between 0 and 1, and so does what is shown of its interval."""
    mean, low, high = interval
    return mean, max(low, 0.0), min(high, 1.0)


def load(run_dir: Path) -> list[Run]:
    """The finished runs below ``run_dir``; UserError where there is none."""
    files = sorted(run_dir.glob("*/*/result.json"))
    if not files:
        raise UserError(f"{run_dir} holds no finished run: give the run_dir of `megatron-sppo control run`")
    return [
        Run(
            json.loads(file.read_text(encoding="utf-8")),
            tuple(row["success"] for row in read_jsonl(file.with_name("metrics.jsonl"))),
        )
        for file in files
    ]


def by_task(runs: Sequence[Run]) -> dict[str, list[Group]]:
    """Task -> its algorithms, both in the project's order; UserError where a seed of an algorithm is there twice."""
    found: dict[str, list[Group]] = {}
    for task in TASKS:
        for algorithm in ORDER:
            chosen = [run for run in runs if (run.result["task"], run.result["algorithm"]) == (task, algorithm)]
            chosen.sort(key=lambda run: run.result["seed"])
            seeds = [run.result["seed"] for run in chosen]
            if len(set(seeds)) < len(seeds):
                raise UserError(f"task={task} algorithm={algorithm} has one seed under two settings: use a run_dir for each")
            if chosen:
                found.setdefault(task, []).append(Group(algorithm, tuple(chosen)))
    return found
