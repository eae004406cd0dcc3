"""The numbers of a report as CSV and Markdown."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_sppo.control.results import WINDOW, Group, Interval, clipped, over_seeds
from megatron_sppo.control.tasks import TASKS

FINAL = (
    *("task", "algorithm", "seed", "before/success", "after/success", "after/low", "after/high", "after/episodes"),
    *("seconds_rl", "seconds_evaluation"),
)
HEADER = (
    f"| task | algorithm | seeds | warm start | final success (95 % over seeds) | mean over training | largest setback of "
    f"{WINDOW} updates' mean | s of RL per run |\n|---|---|---|---|---|---|---|---|\n"
)
DIFFERENCES = "| task | final success, SPPO - PPO | mean over training, SPPO - PPO |\n|---|---|---|\n"


def write_tables(tasks: Mapping[str, Sequence[Group]], out: Path) -> list[Path]:
    curves, final, tables = out / "control_curves.csv", out / "final_success.csv", out / "tables.md"
    _write_csv(
        curves, ("task", "algorithm", "seeds", "update", "success_mean", "success_low", "success_high"), _curve_rows(tasks)
    )
    _write_csv(final, FINAL, ([run.result[key] for key in FINAL] for run in _runs(tasks)))
    lines = [_line(name, group) for name, groups in tasks.items() for group in groups]
    differences = [_difference(name, groups) for name, groups in tasks.items() if len(groups) > 1]
    tables.write_text(HEADER + "".join(lines) + "\n" + DIFFERENCES + "".join(differences), encoding="utf-8")
    return [curves, final, tables]


def _curve_rows(tasks: Mapping[str, Sequence[Group]]) -> Iterable[Sequence[Any]]:
    for name, groups in tasks.items():
        for group in groups:
            for update, interval in enumerate(group.curve(), start=1):
                yield name, group.algorithm, len(group.runs), update, *(f"{value:.4f}" for value in interval)


def _runs(tasks: Mapping[str, Sequence[Group]]) -> Iterable[Any]:
    return (run for groups in tasks.values() for group in groups for run in group.runs)


def _line(name: str, group: Group) -> str:
    training = over_seeds([sum(run.successes) / len(run.successes) for run in group.runs])
    setback = over_seeds([run.setback for run in group.runs])
    cells = (
        *(TASKS[name].title, group.algorithm, str(len(group.runs)), f"{group.of('before/success')[0]:.3f}"),
        *(
            _shown(clipped(group.of("after/success"))),
            _shown(clipped(training)),
            f"{setback[0]:.3f}",
            f"{group.of('seconds_rl')[0]:.0f}",
        ),
    )
    return f"| {' | '.join(cells)} |\n"


def _difference(name: str, groups: Sequence[Group]) -> str:
    """Seed by seed: both algorithms began from the same warm start."""
    runs = [{run.result["seed"]: run for run in group.runs} for group in groups[:2]]
    seeds = sorted(set(runs[0]) & set(runs[1]))
    final = over_seeds([runs[0][s].result["after/success"] - runs[1][s].result["after/success"] for s in seeds])
    means = [[sum(by_seed[s].successes) / len(by_seed[s].successes) for s in seeds] for by_seed in runs]
    training = over_seeds([left - right for left, right in zip(*means, strict=True)])
    return f"| {TASKS[name].title} | {_shown(final, sign=True)} | {_shown(training, sign=True)} |\n"


def _shown(interval: Interval, sign: bool = False) -> str:
    mean, low, high = (f"{value:+.3f}" if sign else f"{value:.3f}" for value in interval)
    return mean if math.isnan(interval[1]) else f"{mean} ({low} to {high})"


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
