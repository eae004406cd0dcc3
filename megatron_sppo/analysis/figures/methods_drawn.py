"""Score of every method against steps, seconds or tokens: seeds as thin lines, their mean with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from megatron_sppo.analysis.compared_runs import ComparedRun
from megatron_sppo.analysis.curves import Band, Curve, band
from megatron_sppo.analysis.drawing import finish, legend_beside, words
from megatron_sppo.analysis.figures.chart import NotDrawn, Table
from megatron_sppo.analysis.methods import Look

INTERVAL = (
    "Thin lines: seeds. Thick line: at each validation that all seeds of the method have, the mean of their scores, at the "
    "mean of their places on the x axis. Band (of more than four methods: bar at the curve's end): 95 % interval of the mean "
    "score by Student's t (none for one seed); that of every point is in the CSV."
)
MOST_BANDS = 4  # more of them hide each other and the curves


@dataclass(frozen=True)
class Seeds:
    """The curves of one method."""

    label: str
    look: Look
    runs: tuple[ComparedRun, ...]
    curves: tuple[Curve, ...]
    band: Band | None


def seeds_of(
    methods: Mapping[str, Sequence[ComparedRun]], looks: Mapping[str, Look], axes: Mapping[str, Sequence[float]] | None = None
) -> tuple[Seeds, ...]:
    """``axes``: run name -> place of each step; without it the step itself."""
    found = []
    for label, runs in methods.items():
        curves = tuple(run.curve(None if axes is None else axes[run.name]) for run in runs)
        found.append(Seeds(label, looks[label], tuple(runs), curves, band(curves)))
    return tuple(found)


def same_benchmarks(runs: Sequence[ComparedRun]) -> str:
    """What the score is the mean of; NotDrawn where runs without a validation are left or two runs measured different things."""
    first = runs[0]
    for run in runs[1:]:
        if run.benchmarks != first.benchmarks:
            ours, theirs = ", ".join(first.benchmarks), ", ".join(run.benchmarks)
            raise NotDrawn(f"{first.name} was validated on {ours} and {run.name} on {theirs}, which cannot be compared")
    return f"mean of {', '.join(first.benchmarks)}" if len(first.benchmarks) > 1 else first.benchmarks[0]


def draw_methods(axes: Axes, methods: Sequence[Seeds], unit: float, x_label: str, score: str) -> None:
    """``unit``: what one of the x axis is, in seconds or tokens."""
    for method in methods:
        color, line = method.look.color, method.look.line
        for curve in method.curves if len(method.curves) > 1 else ():
            axes.plot([x / unit for x in curve.x], curve.y, color=color, linestyle=line, linewidth=0.7, alpha=0.45)
        if method.band is None:
            continue
        x = [place / unit for place in method.band.mean.x]
        count = method.band.num_seeds
        label = f"{words(method.label)} ({count} seed{'s' if count > 1 else ''})"
        axes.plot(x, method.band.mean.y, color=color, linestyle=line, linewidth=2.2, label=label)
        if count > 1 and len(methods) <= MOST_BANDS:
            axes.fill_between(x, method.band.low, method.band.high, color=color, alpha=0.13, linewidth=0)
        elif count > 1:
            low, high = method.band.low[-1], method.band.high[-1]
            axes.vlines(x[-1], low, high, color=color, linestyle=line, linewidth=1.4)
            axes.scatter([x[-1]] * 2, [low, high], marker="_", color=color, s=30)
    low, high = _range(methods)
    axes.set_ylim(max(0.0, low - 0.08 * (high - low)), min(1.0, high + 0.08 * (high - low)))
    axes.margins(x=0.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if high - low > 0.05 else 1))
    finish(axes, x_label, f"validation score\n({words(score)})", legend=False)
    legend_beside(axes)


def _range(methods: Sequence[Seeds]) -> tuple[float, float]:
    """Of the seeds, and of intervals that are drawn as bars; for two seeds those would flatten everything."""
    values = [y for method in methods for curve in method.curves for y in curve.y]
    if len(methods) > MOST_BANDS:
        bands = [method.band for method in methods if method.band is not None and method.band.num_seeds > 2]
        values += [end for found in bands for end in (found.low[-1], found.high[-1])]
    return min(values), max(min(values) + 0.01, *values)


def numbers(name: str, methods: Sequence[Seeds], x_name: str) -> Table:
    """Every point of every line, in seconds or tokens, and the intervals of the means."""
    rows: list[tuple[object, ...]] = []
    for method in methods:
        for run, curve in zip(method.runs, method.curves, strict=True):
            rows += [(method.label, run.seed, *point, None, None) for point in zip(curve.steps, curve.x, curve.y, strict=True)]
        if method.band is not None:
            mean = method.band.mean
            columns = (mean.steps, mean.x, mean.y, method.band.low, method.band.high)
            rows += [(method.label, "mean", *point) for point in zip(*columns, strict=True)]
    return Table(name, ("method", "seed", "step", x_name, "score", "low", "high"), tuple(rows))
