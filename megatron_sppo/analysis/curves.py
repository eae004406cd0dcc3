"""Curves of several seeds: their mean with its interval, and where it first reaches a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_sppo.analysis.intervals import student_interval


@dataclass(frozen=True)
class Curve:
    """A score after some steps, and where each stands on the x axis: the step itself, seconds or tokens; rising."""

    steps: tuple[int, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]

    def first_at(self, target: float) -> float | None:
        """Where it first is at or above ``target``, on the straight lines between its points; None where it never is."""
        if self.y[0] >= target:
            return self.x[0]
        for left in range(len(self.x) - 1):
            if self.y[left + 1] >= target:
                share = (target - self.y[left]) / (self.y[left + 1] - self.y[left])
                return self.x[left] + share * (self.x[left + 1] - self.x[left])
        return None

    def first_point_at(self, target: float) -> float | None:
        """The same, of its points alone."""
        return next((x for x, y in zip(self.x, self.y, strict=True) if y >= target), None)


@dataclass(frozen=True)
class Band:
    """Mean over seeds and its 95 % interval by Student's t (NaN for one seed)."""

    mean: Curve
    low: tuple[float, ...]
    high: tuple[float, ...]
    num_seeds: int


def band(curves: Sequence[Curve]) -> Band | None:
    """After each step that all ``curves`` have: the mean of their scores at the mean of their places; None without such a step.

    Seeds of a method validate after the same steps, so nothing is interpolated: the mean of a step is that of measured scores,
    and it is the same whether the x axis shows seconds or tokens.
    """
    steps = sorted(set.intersection(*(set(curve.steps) for curve in curves)))
    if not steps:
        return None
    points = [dict(zip(curve.steps, zip(curve.x, curve.y, strict=True), strict=True)) for curve in curves]
    places = [_mean([seed[step][0] for seed in points]) for step in steps]
    scores = [[seed[step][1] for seed in points] for step in steps]
    ends = [student_interval(seeds) for seeds in scores]
    mean = Curve(tuple(steps), tuple(places), tuple(map(_mean, scores)))
    return Band(mean, tuple(low for low, _ in ends), tuple(high for _, high in ends), len(curves))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
