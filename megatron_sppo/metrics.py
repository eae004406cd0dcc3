"""Metrics that know how they reduce, and pure statistics of values against rewards.

A stage emits ``{"actor/entropy": Mean(total, weight)}`` per micro-batch; :func:`merge` joins micro-batches, then ranks,
and only then does :func:`values` divide. A mean therefore never depends on how a batch was cut.

Shape legend: see :mod:`megatron_sppo.ragged`. Statistics return a Python float, NaN where they are not defined.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mean:
    """A weighted mean: sum of values, sum of weights (tokens, responses). NaN where nothing was counted."""

    total: float
    weight: float

    @classmethod
    def of(cls, values: Tensor) -> Self:
        """The plain mean of all elements."""
        return cls(values.double().sum().item(), values.numel())

    def joined(self, other: Self) -> Self:
        return type(self)(self.total + other.total, self.weight + other.weight)

    def value(self) -> float:
        return self.total / self.weight if self.weight else math.nan


@dataclass(frozen=True)
class Sum:
    total: float

    def joined(self, other: Self) -> Self:
        return type(self)(self.total + other.total)

    def value(self) -> float:
        return self.total


@dataclass(frozen=True)
class Max:
    largest: float

    def joined(self, other: Self) -> Self:
        return type(self)(_nan_wins(max, self.largest, other.largest))

    def value(self) -> float:
        return self.largest


@dataclass(frozen=True)
class Min:
    smallest: float

    def joined(self, other: Self) -> Self:
        return type(self)(_nan_wins(min, self.smallest, other.smallest))

    def value(self) -> float:
        return self.smallest


Metric = Mean | Sum | Max | Min


def _nan_wins(pick: Callable[[float, float], float], left: float, right: float) -> float:
    """``max(1, nan)`` is 1 in Python; a NaN must be seen."""
    return math.nan if math.isnan(left) or math.isnan(right) else pick(left, right)


def merge(parts: Iterable[Mapping[str, Metric]]) -> dict[str, Metric]:
    """Join the metrics of micro-batches or ranks by name, in order; a name may be missing from some of them."""
    merged: dict[str, Metric] = {}
    for part in parts:
        for name, metric in part.items():
            known = merged.get(name)
            assert known is None or type(known) is type(metric), (name, known, metric)
            merged[name] = metric if known is None else known.joined(metric)  # type: ignore[arg-type]
    return merged


def values(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """The numbers to write down."""
    return {name: metric.value() for name, metric in metrics.items()}


# --- how well V predicts R --------------------------------------------------------------------------------------------


def brier(values_B: Tensor, rewards_B: Tensor) -> float:
    """Mean squared error of a probability; 0.25 for a constant 0.5."""
    return (values_B.double() - rewards_B.double()).square().mean().item()


def auroc(scores_B: Tensor, labels_B: Tensor) -> float:
    """Probability that a success (label > 0.5) scores above a failure, ties counting half; NaN with one class only."""
    positive_B = labels_B > 0.5
    num_positive, num_negative = int(positive_B.sum()), int((~positive_B).sum())
    if num_positive == 0 or num_negative == 0:
        return math.nan
    rank_sum = ranks(scores_B)[positive_B].sum().item()  # Mann-Whitney U
    return (rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)


def explained_variance(values_B: Tensor, rewards_B: Tensor) -> float:
    """1 - Var(R - V) / Var(R); NaN where all rewards are equal."""
    values_B, rewards_B = values_B.double(), rewards_B.double()
    variance = rewards_B.var(correction=0).item()
    return 1 - (rewards_B - values_B).var(correction=0).item() / variance if variance > 0 else math.nan


@dataclass(frozen=True)
class Reliability:
    """Responses grouped by V into equal-width bins of [0, 1]; empty bins are left out. K bins."""

    mean_value_K: Tensor
    mean_reward_K: Tensor
    count_K: Tensor


def reliability(values_B: Tensor, rewards_B: Tensor, num_bins: int = 10) -> Reliability:
    """The points of a calibration plot; V = 1 falls into the last bin."""
    bins_B = (values_B.double() * num_bins).long().clamp(0, num_bins - 1)
    zeros = torch.zeros(num_bins, dtype=torch.float64)
    count = zeros.index_add(0, bins_B, torch.ones_like(values_B, dtype=torch.float64))
    value_sum, reward_sum = zeros.index_add(0, bins_B, values_B.double()), zeros.index_add(0, bins_B, rewards_B.double())
    full = count > 0
    return Reliability(value_sum[full] / count[full], reward_sum[full] / count[full], count[full].long())


def expected_calibration_error(values_B: Tensor, rewards_B: Tensor, num_bins: int = 10) -> float:
    """Mean |mean V - mean R| over the bins of :func:`reliability`, weighted by their counts (Naeini et al. 2015)."""
    if values_B.numel() == 0:
        return math.nan
    points = reliability(values_B, rewards_B, num_bins)
    gap_K = (points.mean_value_K - points.mean_reward_K).abs()
    return ((gap_K * points.count_K).sum() / points.count_K.sum()).item()


def pearson(left_B: Tensor, right_B: Tensor) -> float:
    """Linear correlation; NaN where either side is constant."""
    left_B, right_B = left_B.double() - left_B.double().mean(), right_B.double() - right_B.double().mean()
    scale = (left_B.square().sum() * right_B.square().sum()).sqrt().item()
    return (left_B * right_B).sum().item() / scale if scale > 0 else math.nan


def spearman(left_B: Tensor, right_B: Tensor) -> float:
    """Rank correlation with averaged ties; NaN where either side is constant."""
    return pearson(ranks(left_B), ranks(right_B))


def ranks(values_B: Tensor) -> Tensor:
    """[B] float64 ranks from 1; equal values share the mean of theirs. ``[5, 3, 5]`` -> ``[2.5, 1, 2.5]``."""
    _, group_B, count_G = torch.unique(values_B, return_inverse=True, return_counts=True)
    last_G = torch.cumsum(count_G, 0).double()
    middle_G: Tensor = last_G - (count_G.double() - 1) / 2
    return middle_G[group_B]


# --- distributions ----------------------------------------------------------------------------------------------------


def calibration(values_B: Tensor, rewards_B: Tensor) -> dict[str, float]:
    """What the critic knew before its update, over the whole batch of a step (not for merging: AUROC is not a mean)."""
    return {
        "critic/brier": brier(values_B, rewards_B),
        "critic/auroc": auroc(values_B, rewards_B),
        "critic/explained_variance": explained_variance(values_B, rewards_B),
        "critic/calibration_error": expected_calibration_error(values_B, rewards_B),
    }


def length_summary(lengths_B: Tensor, truncated_B: Tensor) -> dict[str, float]:
    """Response lengths of a step, in tokens, and the share that hit the limit."""
    lengths_B = lengths_B.double()
    median, high = torch.quantile(lengths_B, torch.tensor([0.5, 0.95], dtype=torch.float64)).tolist()
    return {
        "response/length_mean": lengths_B.mean().item(),
        "response/length_median": median,
        "response/length_p95": high,
        "response/length_min": lengths_B.min().item(),
        "response/length_max": lengths_B.max().item(),
        "response/truncated": truncated_B.double().mean().item(),
    }
