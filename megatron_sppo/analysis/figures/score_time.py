"""Fig. 5: score against training time and against generated tokens, and how long each method takes to a reference's best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from megatron_sppo.analysis.curves import Curve
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
    """A part of the reference's gain, and where each method first has it: in seconds or tokens; None: never."""

    name: str
    score: float  # on the mean of the reference's seeds
    first: tuple[float | None, ...]  # the mean of the method's seeds, on the straight line between validations
    by_seed: tuple[tuple[float | None, ...], ...]  # the first validation at or above that part of the same seed's reference
    ratios: tuple[tuple[float | None, ...], ...]  # the reference's place of that seed by the method's

    @classmethod
    def of(cls, name: str, part: float, methods: Sequence[Seeds], reference: Seeds) -> Target:
        """Seeds may differ in what can be reached (own task, own warm start): each is held to that seed of the reference."""
        assert reference.band is not None, "reaches() chooses one that has a mean"
        score = _part_of(reference.band.mean, part)
        own = {run.seed: curve for run, curve in zip(reference.runs, reference.curves, strict=True)}
        aims = {seed: _part_of(curve, part) for seed, curve in own.items()}
        base = {seed: curve.first_point_at(aims[seed]) for seed, curve in own.items()}
        first = [None if method.band is None else method.band.mean.first_at(score) for method in methods]
        by_seed, ratios = [], []
        for method in methods:
            seeds = [run.seed for run in method.runs]
            found = [c.first_point_at(aims.get(seed, score)) for seed, c in zip(seeds, method.curves, strict=True)]
            by_seed.append(tuple(found))
            ratios.append(tuple(_ratio(base.get(seed), place) for seed, place in zip(seeds, found, strict=True)))
        return cls(name, score, tuple(first), tuple(by_seed), tuple(ratios))


def _part_of(curve: Curve, part: float) -> float:
    """The score at which ``part`` of the gain from a curve's first point to its highest is made."""
    best = max(curve.y)
    return best - (1 - part) * (best - curve.y[0])


def _ratio(reference: float | None, own: float | None) -> float | None:
    return reference / own if reference and own else None


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
            header += [f"{short} to {target.name} ({target.score:.4f})", "ratio", "each seed to its own", "ratio of each seed"]
            columns += self._columns(target, unit)
        best = [max(method.band.mean.y) if method.band else None for method in self.methods]
        names = [(method.label, len(method.runs)) for method in self.methods]
        rows = [(*name, *cells) for name, *cells in zip(names, best, *columns, strict=True)]
        return Table(f"{axis.name}_to_reach", tuple(header), tuple(rows))

    def _columns(self, target: Target, unit: float) -> list[list[object]]:
        base = target.first[[method.label for method in self.methods].index(self.reference)]
        places: list[object] = ["not reached" if first is None else first / unit for first in target.first]
        ratios: list[object] = [_ratio(base, first) for first in target.first]
        return [
            places,
            ratios,
            [_listed(seeds, unit) for seeds in target.by_seed],
            [_listed(seeds, 1.0) for seeds in target.ratios],
        ]


def _listed(found: Sequence[float | None], unit: float) -> str:
    return " / ".join("-" if x is None else f"{x / unit:.3g}" for x in found)


def reaches(methods: Sequence[Seeds], reference: str) -> Reach | None:
    """Of the first method whose algorithm is ``reference``; None where there is no such run."""
    chosen = next((method for method in methods if method.runs[0].algorithm == reference and method.band is not None), None)
    if chosen is None or chosen.band is None:
        return None
    label = chosen.label
    best = Target.of(f"{label}'s best", 1.0, methods, chosen)
    most = Target.of(f"{MOST:.0%} of {label}'s gain", MOST, methods, chosen)
    return Reach(label, tuple(methods), best, most)


def _explain(reach: Reach | None, reference: str) -> str:
    if reach is None:
        return f"No time to {NAMES.get(reference, reference)}'s best is given: there is no run of algorithm.name={reference}."
    return (
        f"Dashed: {reach.reference}'s best mean score; dots: where a method's mean first reaches it, on the straight line "
        "between validations. The best of a noisy curve is higher than what it tends to, so the table also has the way to "
        f"{MOST:.0%} of {reach.reference}'s gain over its first validation. Ratio: {reach.reference}'s divided by the method's; "
        "above 1 the method is faster. Each seed to its own: its first validation at or above what "
        f"{reach.reference} reached with the same seed, whose task and start may be easier or harder than another's."
    )


def _mark(axes: Axes, methods: Sequence[Seeds], reach: Reach, unit: float) -> None:
    axes.axhline(reach.best.score, color=INK, linestyle="--", linewidth=0.9, zorder=1)
    label = f"{words(reach.reference)}'s best\n{100 * reach.best.score:.1f} %"
    axes.text(1.01, reach.best.score, label, transform=axes.get_yaxis_transform(), va="center", color=INK, fontsize=9)
    for method, first in zip(methods, reach.best.first, strict=True):
        if first is not None:
            axes.scatter([first / unit], [reach.best.score], s=42, color=method.look.color, edgecolors="white", zorder=5)
