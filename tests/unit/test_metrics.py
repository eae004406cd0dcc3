"""Reductions do not depend on the cut; statistics equal their naive formulae."""

from __future__ import annotations

import math
import random

import pytest
import torch

from megatron_sppo import metrics
from megatron_sppo.metrics import Max, Mean, Min, Sum, merge, values


def sample(num: int = 60, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = (torch.rand(num, generator=generator) * 12).round() / 12  # coarse, so that there are ties
    return scores, (torch.rand(num, generator=generator) < scores).float()


def test_a_weighted_mean_does_not_depend_on_the_cut() -> None:
    tokens = torch.arange(10, dtype=torch.float32)
    whole = Mean.of(tokens).value()
    for cut in range(11):
        parts = [{"m": Mean.of(tokens[:cut])}, {"m": Mean.of(tokens[cut:])}]
        assert values(merge(parts)) == {"m": whole}


def test_each_type_reduces_in_its_own_way_and_names_may_be_missing() -> None:
    merged = values(
        merge(
            [
                {"sum": Sum(1.0), "max": Max(3.0), "min": Min(3.0), "mean": Mean(2.0, 1.0)},
                {"sum": Sum(4.0), "max": Max(5.0), "min": Min(1.0)},
                {"mean": Mean(6.0, 3.0), "only": Sum(7.0)},
            ]
        )
    )
    assert merged == {"sum": 5.0, "max": 5.0, "min": 1.0, "mean": 2.0, "only": 7.0}


def test_nothing_counted_and_nan_are_visible() -> None:
    assert math.isnan(Mean(0.0, 0.0).value())
    for first, second in ((1.0, math.nan), (math.nan, 1.0)):
        assert math.isnan(Max(first).joined(Max(second)).value())
        assert math.isnan(Min(first).joined(Min(second)).value())


def test_two_types_under_one_name_are_a_bug() -> None:
    with pytest.raises(AssertionError):
        merge([{"x": Sum(1.0)}, {"x": Max(1.0)}])


def test_auroc_equals_counting_pairs() -> None:
    scores, labels = sample()
    pairs = [1.0 if win > loss else 0.5 if win == loss else 0.0 for win in scores[labels == 1] for loss in scores[labels == 0]]
    assert metrics.auroc(scores, labels) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


def test_auroc_ends_and_one_class() -> None:
    labels = torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert metrics.auroc(torch.tensor([0.1, 0.2, 0.3, 0.4]), labels) == 1.0
    assert metrics.auroc(torch.tensor([0.4, 0.3, 0.2, 0.1]), labels) == 0.0
    assert metrics.auroc(torch.full((4,), 0.5), labels) == 0.5
    assert math.isnan(metrics.auroc(torch.rand(3), torch.ones(3)))


def test_brier_and_explained_variance() -> None:
    scores, labels = sample()
    pairs = list(zip(scores.double().tolist(), labels.double().tolist(), strict=True))
    assert metrics.brier(scores, labels) == pytest.approx(sum((v - r) ** 2 for v, r in pairs) / len(pairs))
    residual = [r - v for v, r in pairs]
    mean_residual, mean_reward = sum(residual) / len(pairs), labels.double().mean().item()
    expected = 1 - sum((d - mean_residual) ** 2 for d in residual) / sum((r - mean_reward) ** 2 for _, r in pairs)
    assert metrics.explained_variance(scores, labels) == pytest.approx(expected)
    assert metrics.explained_variance(torch.full((2,), 0.5), torch.tensor([0.0, 1.0])) == 0.0
    assert math.isnan(metrics.explained_variance(torch.rand(3), torch.ones(3)))


def test_calibration_error_equals_binning_by_hand() -> None:
    scores, labels = sample()
    bins: dict[int, list[tuple[float, float]]] = {}
    for score, label in zip(scores.double().tolist(), labels.tolist(), strict=True):
        bins.setdefault(min(int(score * 10), 9), []).append((score, label))
    gaps = [len(b) * abs(sum(v for v, _ in b) / len(b) - sum(r for _, r in b) / len(b)) for b in bins.values()]
    assert metrics.expected_calibration_error(scores, labels) == pytest.approx(sum(gaps) / len(scores))
    assert metrics.expected_calibration_error(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])) == 0.0
    assert math.isnan(metrics.expected_calibration_error(torch.empty(0), torch.empty(0)))


def test_correlations_equal_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    scores, labels = sample()
    other = scores + torch.rand(60, generator=torch.Generator().manual_seed(3))
    for right in (labels, other):
        assert metrics.pearson(scores, right) == pytest.approx(stats.pearsonr(scores.double(), right.double()).statistic)
        assert metrics.spearman(scores, right) == pytest.approx(stats.spearmanr(scores, right).statistic)
    assert metrics.ranks(scores).tolist() == stats.rankdata(scores).tolist()
    assert math.isnan(metrics.pearson(scores, torch.ones(60)))


def test_ranks_share_ties() -> None:
    assert metrics.ranks(torch.tensor([5.0, 3.0, 5.0])).tolist() == [2.5, 1.0, 2.5]


def test_spearman_ignores_a_monotone_map() -> None:
    scores, _ = sample(seed=5)
    shuffled = scores[torch.tensor(random.Random(0).sample(range(60), 60))]
    assert metrics.spearman(scores, shuffled) == pytest.approx(metrics.spearman(scores.exp(), shuffled))
    assert metrics.spearman(scores, scores.pow(3)) == pytest.approx(1.0)


def test_length_summary() -> None:
    summary = metrics.length_summary(torch.tensor([1, 2, 3, 10]), torch.tensor([False, False, False, True]))
    assert summary["response/length_mean"] == 4.0 and summary["response/length_median"] == 2.5
    assert summary["response/length_min"] == 1.0 and summary["response/length_max"] == 10.0
    assert summary["response/truncated"] == 0.25 and 3.0 < summary["response/length_p95"] < 10.0
