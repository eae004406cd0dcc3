"""avg@k, pass@k, maj@k, their intervals and the comparison of two models: pure functions of the graded responses.

Shape legend: P problems, K samples of each, R resamples. Problems are the unit of resampling everywhere: samples of one
problem are not independent of each other, and it is over problems that a claim wants to generalise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RESAMPLES = 4000
LEVEL = 0.95
SIGN_FLIPS = 20_000
BLOCK = 500  # resamples drawn at once


@dataclass(frozen=True)
class Estimate:
    value: float
    low: float  # 95 % interval over problems
    high: float


def per_problem_mean(rewards_B: Tensor, prompt_index_B: Tensor, num_problems: int) -> Tensor:
    """[P] mean reward of each problem's samples."""
    zeros = torch.zeros(num_problems, dtype=torch.float64)
    total_P = zeros.index_add(0, prompt_index_B, rewards_B.double())
    count_P = zeros.index_add(0, prompt_index_B, torch.ones_like(rewards_B, dtype=torch.float64))
    return total_P / count_P


def pass_at_k(num_correct: int, num_samples: int, k: int) -> float:
    """Unbiased 1 - C(n-c, k) / C(n, k): the chance that k of the n samples, drawn without return, hold a right one."""
    assert 0 <= num_correct <= num_samples and 1 <= k <= num_samples
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def pass_ks(num_samples: int) -> tuple[int, ...]:
    """The k that are reported: powers of two, and n itself."""
    powers = [2**power for power in range(num_samples.bit_length()) if 2**power < num_samples]
    return (*powers, num_samples)


def majority(classes: Sequence[int | None], rewards: Sequence[float]) -> float:
    """Reward of the answer with most votes; ``classes`` are equivalence classes, None abstains.

    A tie is broken at random, so its expectation is returned; so is that of a class whose members were graded differently.
    """
    members: dict[int, list[float]] = {}
    for vote, reward in zip(classes, rewards, strict=True):
        if vote is not None:
            members.setdefault(vote, []).append(reward)
    most = max(map(len, members.values()), default=0)
    winners = [sum(found) / most for found in members.values() if len(found) == most]
    return sum(winners) / len(winners) if winners else 0.0


def resampled_means(per_problem_P: Tensor, seed: int = 0) -> Tensor:
    """[R] means of as many problems, drawn with return."""
    generator = torch.Generator().manual_seed(seed)
    num_problems = per_problem_P.numel()
    blocks = [
        per_problem_P[torch.randint(num_problems, (BLOCK, num_problems), generator=generator)].mean(1)
        for _ in range(RESAMPLES // BLOCK)
    ]
    return torch.cat(blocks)


def percentile_interval(means_R: Tensor, level: float = LEVEL) -> tuple[float, float]:
    tail = (1.0 - level) / 2
    low, high = torch.quantile(means_R, torch.tensor([tail, 1.0 - tail], dtype=means_R.dtype)).tolist()
    return low, high


def bootstrap_interval(per_problem_P: Tensor, seed: int = 0, level: float = LEVEL) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over problems (resampling problems, not samples)."""
    return percentile_interval(resampled_means(per_problem_P, seed), level)


def estimate(per_problem_P: Tensor) -> Estimate:
    """Mean over problems with its bootstrap interval."""
    return Estimate(float(per_problem_P.mean()), *bootstrap_interval(per_problem_P))


def mean_over_benchmarks(per_problem: Sequence[Tensor]) -> Estimate:
    """Unweighted mean of the benchmarks' means; each benchmark's problems are resampled on their own."""
    value = sum(float(per_problem_P.mean()) for per_problem_P in per_problem) / len(per_problem)
    means_R = torch.stack([resampled_means(values, seed) for seed, values in enumerate(per_problem)]).mean(0)
    return Estimate(value, *percentile_interval(means_R))


def sign_flip_p_value(differences_P: Tensor, seed: int = 0) -> float:
    """Two-sided p-value of "the two models are exchangeable on every problem" (paired randomisation test of the mean).

    Under it each difference keeps its size and has a random sign. The plus one in (b + 1) / (R + 1) counts what was seen.
    """
    generator = torch.Generator().manual_seed(seed)
    seen = differences_P.sum().abs() * (1 - 1e-12)  # sums of the same numbers in another order are ties
    extreme = 0
    for _ in range(SIGN_FLIPS // BLOCK):
        signs = torch.randint(2, (BLOCK, differences_P.numel()), generator=generator).double() * 2 - 1
        extreme += int(((signs @ differences_P).abs() >= seen).sum())
    return (extreme + 1) / (SIGN_FLIPS + 1)
