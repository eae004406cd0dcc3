"""What a figure module returns, and what all of them are given."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from megatron_sppo.analysis.compared_runs import ComparedRun
from megatron_sppo.analysis.methods import Look, looks


class NotDrawn(Exception):
    """A figure has no data; says what is missing."""


@dataclass(frozen=True)
class Table:
    """Rows for a CSV file, and where they are few also for the page."""

    name: str  # of the file, without ".csv"
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def csv(self) -> str:
        """Floats with all their digits; nothing where a number is not defined."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows([[_cell(value) for value in row] for row in self.rows])
        return text.getvalue()


def _cell(value: Any) -> Any:
    return "" if isinstance(value, float) and math.isnan(value) else value


@dataclass(frozen=True)
class Chart:
    name: str  # of the PNG and SVG files
    title: str
    caption: str  # what is drawn, how it was computed, which interval
    figure: Figure
    numbers: tuple[Table, ...]  # what is plotted
    shown: tuple[Table, ...] = ()  # tables for the page, written as CSV too


@dataclass(frozen=True)
class Planned:
    """Memory of one planned run: phase -> component -> bytes per GPU, on the rank that needs most."""

    label: str
    phases: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Evidence:
    """All that there is to draw from."""

    runs: tuple[ComparedRun, ...]
    reference: str  # algorithm whose best score the others are to reach
    planned: tuple[Planned, ...] = ()

    def methods(self, runs: Sequence[ComparedRun] | None = None) -> dict[str, list[ComparedRun]]:
        """Label -> its runs by seed."""
        found: dict[str, list[ComparedRun]] = {}
        for run in sorted(self.runs if runs is None else runs, key=lambda run: run.seed):
            found.setdefault(run.method, []).append(run)
        order = {label: place for place, label in enumerate(self.looks())}
        return {label: found[label] for label in sorted(found, key=order.__getitem__)}

    def looks(self) -> dict[str, Look]:
        return looks([(run.method, run.algorithm) for run in self.runs])


def file_name(*parts: str) -> str:
    """Letters, digits and underscores: ``("token_values", "ppo/seed 1")`` -> ``token_values_ppo_seed_1``."""
    return re.sub(r"[^A-Za-z0-9]+", "_", "_".join(parts)).strip("_")[:80]
