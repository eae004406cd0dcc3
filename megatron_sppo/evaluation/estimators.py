"""avg@k and its interval: pure functions of the graded responses."""

from __future__ import annotations

import torch
from torch import Tensor

RESAMPLES = 4000


def per_problem_mean(rewards_B: Tensor, prompt_index_B: Tensor, num_problems: int) -> Tensor:
    """[P] mean reward of each problem's samples."""
    zeros = torch.zeros(num_problems, dtype=torch.float64)
    total_P = zeros.index_add(0, prompt_index_B, rewards_B.double())
    count_P = zeros.index_add(0, prompt_index_B, torch.ones_like(rewards_B, dtype=torch.float64))
    return total_P / count_P


def bootstrap_interval(per_problem_P: Tensor, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over problems (resampling problems, not samples)."""
    generator = torch.Generator().manual_seed(seed)
    num_problems = per_problem_P.numel()
    means = torch.stack(
        [per_problem_P[torch.randint(num_problems, (num_problems,), generator=generator)].mean() for _ in range(RESAMPLES)]
    )
    tail = (1.0 - level) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1.0 - tail], dtype=means.dtype)).tolist()
    return low, high
