"""Fig. 5: score against training time and against generated tokens, and how long each method takes to a reference's best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from megatron_sppo.analysis.drawing import INK, new_figure, words
from megatron_sppo.analysis.figures.chart import Chart, Evidence, NotDrawn, Table
from megatron_sppo.analysis.figures.methods_drawn import INTERVAL, Seeds, draw_methods, numbers, same_benchmarks, seeds_of
from megatron_sppo.analysis.methods import NAMES

MOST = 0.9
TIME = "Time is that of training: the sum of time/step, in which validations, checkpoints and the start-up are not counted."
TOKENS = "Tokens are those of all responses generated for training: every sample, greedy baselines and thrown-away ones too."


@dataclass(frozen=True)
class Axis:
    name: str  # of the files
    title: str
    column: str  # of the CSV, with its unit
    meaning: str
    units: tuple[tuple[float, str], ...]  # size and label, largest first

    def unit(self, longest: float) -> tuple[float, str]:
        """The largest of which there are at least three."""
        return next((found for found in self.units if longest >= 3 * found[0]), self.units[-1])


SECONDS = Axis(
    "score_time",
    "Score against training time",
    "seconds",
    TIME,
    ((3600.0, "training time, hours"), (60.0, "training time, minutes"), (1.0, "training time, seconds")),
)
GENERATED = Axis(
    "score_tokens",
    "Score against generated tokens",
    "tokens",
    TOKENS,
    ((1e9, "generated tokens, billions"), (1e6, "generated tokens, millions"), (1e3, "generated tokens, thousands")),
)


def draw_time(evidence: Evidence) -> tuple[Chart, ...]:
    return _draw(evidence, SECONDS)


def draw_tokens(evidence: Evidence) -> tuple[Chart, ...]:
    return _draw(evidence, GENERATED)


def _draw(evidence: Evidence, axis: Axis) -> tuple[Chart, ...]:
    runs = [run for run in evidence.runs if run.scores()]
    if not runs:
        raise NotDrawn("no run has a validation (validation.every=0, or data.validation is empty)")
    score = same_benchmarks(runs)
    places = {run.name: run.seconds() if axis is SECONDS else run.tokens() for run in runs}
    missing = [name for name, found in places.items() if found is None]
    if missing:
        metric = "time/step" if axis is SECONDS else "rollout/tokens (or response/length_mean and a fixed number of responses)"
        raise NotDrawn(f"metrics.jsonl of {missing[0]} lacks {metric} of some step")
    axes_of = {name: found for name, found in places.items() if found is not None}
    methods = seeds_of(evidence.methods(runs), evidence.looks(), axes_of)
    unit, x_label = axis.unit(max(found[-1] for found in axes_of.values()))
    figure = new_figure(8.2)
    axes = figure.subplots()
    draw_methods(axes, methods, unit, x_label, score)
    reach = reaches(methods, evidence.reference)
    if reach is not None:
        _mark(axes, methods, reach, unit)
    caption = f"{axis.meaning} {INTERVAL} {_explain(reach, evidence.reference)}"
    shown = (reach.table(axis, unit, x_label),) if reach is not None else ()
    return (Chart(axis.name, axis.title, caption, figure, (numbers(axis.name, methods, axis.column),), shown),)


@dataclass(frozen=True)
class Target:
    """A score, and where each method first has it: in seconds or tokens; None: never."""

    name: str
    score: float
    first: tuple[float | None, ...]  # the mean of the method's seeds, on the straight line between validations
    by_seed: tuple[tuple[float | None, ...], ...]  # the first validation with that score or more

    @classmethod
    def of(cls, name: str, score: float, methods: Sequence[Seeds]) -> Target:
        first = tuple(None if method.band is None else method.band.mean.first_at(score) for method in methods)
        by_seed = tuple(tuple(curve.first_point_at(score) for curve in method.curves) for method in methods)
        return cls(name, score, first, by_seed)


@dataclass(frozen=True)
class Reach:
    """How long each method takes to what the reference achieves: its best mean score, and most of the way there."""

    reference: str  # label
    methods: tuple[Seeds, ...]
    best: Target
    most: Target

    def table(self, axis: Axis, unit: float, x_label: str) -> Table:
        short = x_label.rpartition(", ")[2] + (" of tokens" if axis is GENERATED else "")
        header = ["method", "seeds", "best mean score"]
        columns: list[list[object]] = []
        for target in (self.best, self.most):
            header += [f"{short} to {target.name} ({target.score:.4f})", "ratio", "each seed"]
            columns += self._columns(target, unit)
        best = [max(method.band.mean.y) if method.band else None for method in self.methods]
        names = [(method.label, len(method.runs)) for method in self.methods]
        rows = [(*name, *cells) for name, *cells in zip(names, best, *columns, strict=True)]
        return Table(f"{axis.name}_to_reach", tuple(header), tuple(rows))

    def _columns(self, target: Target, unit: float) -> list[list[object]]:
        base = target.first[[method.label for method in self.methods].index(self.reference)]
        places: list[object] = ["not reached" if first is None else first / unit for first in target.first]
        ratios: list[object] = [base / first if base is not None and first else None for first in target.first]
        each: list[object] = [" / ".join("-" if x is None else f"{x / unit:.4g}" for x in seeds) for seeds in target.by_seed]
        return [places, ratios, each]


def reaches(methods: Sequence[Seeds], reference: str) -> Reach | None:
    """Of the first method whose algorithm is ``reference``; None where there is no such run."""
    chosen = next((method for method in methods if method.runs[0].algorithm == reference and method.band is not None), None)
    if chosen is None or chosen.band is None:
        return None
    scores, label = chosen.band.mean.y, chosen.label
    best = Target.of(f"{label}'s best", max(scores), methods)
    most = Target.of(f"{MOST:.0%} of {label}'s gain", scores[0] + MOST * (max(scores) - scores[0]), methods)
    return Reach(label, tuple(methods), best, most)


def _explain(reach: Reach | None, reference: str) -> str:
    if reach is None:
        return f"No time to {NAMES.get(reference, reference)}'s best is given: there is no run of algorithm.name={reference}."
    return (
        f"Dashed: {reach.reference}'s best mean score; dots: where a method's mean first reaches it, on the straight line "
        "between validations. The best of a noisy curve is higher than what it tends to, so the table also has the way to "
        f"{MOST:.0%} of {reach.reference}'s gain over its first validation. Ratio: {reach.reference}'s divided by the method's; "
        "above 1 the method is faster. Each seed: its first validation at or above that score."
    )


def _mark(axes: Axes, methods: Sequence[Seeds], reach: Reach, unit: float) -> None:
    axes.axhline(reach.best.score, color=INK, linestyle="--", linewidth=0.9, zorder=1)
    label = f"{words(reach.reference)}'s best\n{100 * reach.best.score:.1f} %"
    axes.text(1.01, reach.best.score, label, transform=axes.get_yaxis_transform(), va="center", color=INK, fontsize=9)
    for method, first in zip(methods, reach.best.first, strict=True):
        if first is not None:
            axes.scatter([first / unit], [reach.best.score], s=42, color=method.look.color, edgecolors="white", zorder=5)
