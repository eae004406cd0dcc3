"""avg@k, pass@k, maj@k, intervals and p-values against closed forms and brute force."""

from __future__ import annotations

import math
from itertools import combinations, product

import pytest
import torch

from megatron_sppo.evaluation.answers import answer_classes
from megatron_sppo.evaluation.estimators import (
    bootstrap_interval,
    estimate,
    majority,
    mean_over_benchmarks,
    pass_at_k,
    pass_ks,
    per_problem_mean,
    sign_flip_p_value,
)
from megatron_sppo.rewards.boxed import BoxedNumeric


def test_per_problem_mean() -> None:
    means = per_problem_mean(torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 1]), 2)
    assert means.tolist() == [0.5, 1.0]


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n: int) -> None:
    for correct, k in product(range(n + 1), range(1, n + 1)):
        subsets = list(combinations(range(n), k))
        hits = sum(min(subset) < correct for subset in subsets)  # samples below `correct` are the right ones
        assert pass_at_k(correct, n, k) == pytest.approx(hits / len(subsets), abs=1e-12)


@pytest.mark.parametrize("p", [0.03, 0.5, 0.9])
def test_pass_at_k_is_unbiased(p: float) -> None:
    n = 16
    for k in pass_ks(n):
        expected = sum(math.comb(n, c) * p**c * (1 - p) ** (n - c) * pass_at_k(c, n, k) for c in range(n + 1))
        assert expected == pytest.approx(1 - (1 - p) ** k, abs=1e-12)


def test_pass_at_1_is_avg_and_pass_at_n_is_any() -> None:
    assert [pass_at_k(c, 16, 1) for c in range(17)] == pytest.approx([c / 16 for c in range(17)])
    assert [pass_at_k(c, 16, 16) for c in range(17)] == [0.0] + [1.0] * 16
    assert pass_at_k(1, 4096, 64) == pytest.approx(64 / 4096)  # no overflow


def test_the_reported_ks() -> None:
    assert pass_ks(1) == (1,) and pass_ks(16) == (1, 2, 4, 8, 16) and pass_ks(6) == (1, 2, 4, 6)


@pytest.mark.parametrize(
    ("classes", "rewards", "expected"),
    [
        ([0, 0, 1], [1, 1, 0], 1.0),
        ([0, 1, 1], [1, 0, 0], 0.0),
        ([0, None, None, None], [1, 0, 0, 0], 1.0),  # who abstains has no vote
        ([None, None], [0, 0], 0.0),
        ([0, 1], [1, 0], 0.5),  # a tie is broken at random
        ([0, 0, 1, 1, 2, 2, 3], [0, 0, 1, 1, 0, 0, 1], 1 / 3),
        ([0, 0], [1, 0], 0.5),
    ],
)
def test_majority(classes: list[int | None], rewards: list[float], expected: float) -> None:
    assert majority(classes, rewards) == pytest.approx(expected)


def test_majority_is_the_mode_for_every_vote_of_four() -> None:
    """Against counting, with answer 0 the right one."""
    for votes in product([0, 1, 2, None], repeat=4):
        counts = [votes.count(answer) for answer in (0, 1, 2)]
        winners = [answer for answer in (0, 1, 2) if counts[answer] == max(counts) > 0]
        expected = winners.count(0) / len(winners) if winners else 0.0
        assert majority(votes, [float(vote == 0) for vote in votes]) == pytest.approx(expected)


def test_answers_are_grouped_by_value_and_per_problem() -> None:
    answers = [["1/2", None, "0.5", "x", "\\frac{1}{2}", "x"], ["x", "0.5"], [None]]
    assert answer_classes(answers, BoxedNumeric()) == [[0, None, 0, 1, 0, 1], [0, 1], [None]]


def test_answers_that_are_no_numbers_are_compared_by_the_grader() -> None:
    asked = []

    def same_letters(samples):
        asked.extend((sample.gold, sample.response) for sample in samples)
        return [float(sorted(sample.gold) == sorted(sample.response.removeprefix("\\boxed{")[:-1])) for sample in samples]

    assert answer_classes([["ab", "ba", "7", "7.0", "c"]], same_letters) == [[0, 0, 1, 1, 2]]
    assert ("7", "\\boxed{7.0}") not in asked and ("ab", "\\boxed{ba}") in asked


def test_interval_of_many_problems_is_the_normal_one() -> None:
    per_problem = torch.zeros(900, dtype=torch.float64)
    per_problem[:300] = 1.0
    standard_error = math.sqrt((1 / 3) * (2 / 3) / 900)
    low, high = bootstrap_interval(per_problem)
    assert low == pytest.approx(1 / 3 - 1.96 * standard_error, abs=0.1 * standard_error)
    assert high == pytest.approx(1 / 3 + 1.96 * standard_error, abs=0.1 * standard_error)
    assert (low, high) == bootstrap_interval(per_problem)


def test_interval_covers_the_truth_in_95_of_100_worlds() -> None:
    generator = torch.Generator().manual_seed(5)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_interval(torch.rand(40, generator=generator, dtype=torch.float64))
        covered += low <= 0.5 <= high
    assert 0.91 <= covered / 300 <= 0.98  # 95 % less the bootstrap's known shortfall at 40 problems; two standard errors


def test_interval_of_equal_problems_is_a_point() -> None:
    found = estimate(torch.full((30,), 0.25, dtype=torch.float64))
    assert (found.value, found.low, found.high) == (0.25, 0.25, 0.25)


def test_mean_over_benchmarks_weighs_benchmarks_not_problems() -> None:
    small, large = torch.tensor([0.0, 1.0] * 50).double(), torch.tensor([1.0] * 300 + [0.0] * 100).double()
    found = mean_over_benchmarks([small, large])
    standard_error = 0.5 * math.sqrt(0.25 / 100 + 0.1875 / 400)
    assert found.value == pytest.approx((0.5 + 0.75) / 2)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * standard_error, rel=0.05)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_p_value_is_that_of_all_sign_patterns(seed: int) -> None:
    differences = torch.randint(-4, 7, (9,), generator=torch.Generator().manual_seed(seed)).double() / 16
    sums = [abs(sum(sign * float(d) for sign, d in zip(signs, differences, strict=True))) for signs in product([1, -1], repeat=9)]
    exact = sum(total >= abs(float(differences.sum())) - 1e-12 for total in sums) / len(sums)
    assert sign_flip_p_value(differences) == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000) + 1e-4)


def test_p_value_of_no_difference_and_of_a_clear_one() -> None:
    assert sign_flip_p_value(torch.zeros(30, dtype=torch.float64)) == 1.0
    assert sign_flip_p_value(torch.full((40,), 0.1, dtype=torch.float64)) == pytest.approx(1 / 20_001)


def test_p_values_of_equal_models_are_uniform() -> None:
    generator = torch.Generator().manual_seed(3)
    p_values = [sign_flip_p_value(torch.randn(20, generator=generator, dtype=torch.float64), seed) for seed in range(100)]
    assert 0.4 < sum(p_values) / 100 < 0.6 and sum(p < 0.1 for p in p_values) <= 18
