"""How well V tells right responses from wrong ones, by how much of the response was read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from megatron_sppo import metrics
from megatron_sppo.analysis.probe_files import Trajectory

POSITIONS = tuple(round(0.05 * step, 2) for step in range(21))
RESAMPLES = 1000


@dataclass(frozen=True)
class Separation:
    """AUROC at each of :data:`POSITIONS`: chance that V of a right response is above V of a wrong one, ties counting half.

    ``within``: over pairs of responses to the same problem, so that knowing which problems are hard does not help; with its 95 %
    interval by bootstrap over problems. ``pooled``: over all pairs. NaN where there are no pairs.
    """

    within: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    pooled: tuple[float, ...]
    num_problems: int  # with right and wrong responses
    num_responses: int  # to them

    @classmethod
    def of(cls, trajectories: Sequence[Trajectory]) -> Separation:
        trajectories = one_value_per_prompt(trajectories)
        problems = list(mixed(trajectories).values())
        pairs_P = torch.tensor([_num_pairs(problem) for problem in problems], dtype=torch.float64)
        rewards_B = torch.tensor([float(found.right) for found in trajectories])
        within, low, high, pooled = [], [], [], []
        for position in POSITIONS:
            wins_P = torch.tensor([_auroc(problem, position) for problem in problems], dtype=torch.float64) * pairs_P
            within.append((wins_P.sum() / pairs_P.sum()).item() if problems else math.nan)
            ends = _bootstrap(wins_P, pairs_P)
            low.append(ends[0])
            high.append(ends[1])
            values_B = torch.tensor([found.at(position) for found in trajectories], dtype=torch.float64)
            pooled.append(metrics.auroc(values_B, rewards_B))
        count = sum(map(len, problems))
        return cls(tuple(within), tuple(low), tuple(high), tuple(pooled), len(problems), count)


def one_value_per_prompt(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """With V of the prompt alone equal in all its responses, as it is but for rounding, which must not rank them."""
    first: dict[str, list[float]] = {}
    for found in trajectories:
        first.setdefault(found.prompt, []).append(found.values[0])
    means = {prompt: sum(values) / len(values) for prompt, values in first.items()}
    return [replace(found, values=(means[found.prompt], *found.values[1:])) for found in trajectories]


def mixed(trajectories: Sequence[Trajectory]) -> dict[str, list[Trajectory]]:
    """Prompt -> its responses, of the prompts that have right and wrong ones."""
    found: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        found.setdefault(trajectory.prompt, []).append(trajectory)
    return {prompt: group for prompt, group in found.items() if len({member.right for member in group}) == 2}


def _num_pairs(problem: Sequence[Trajectory]) -> int:
    right = sum(found.right for found in problem)
    return right * (len(problem) - right)


def _auroc(problem: Sequence[Trajectory], position: float) -> float:
    values_B = torch.tensor([found.at(position) for found in problem], dtype=torch.float64)
    return metrics.auroc(values_B, torch.tensor([float(found.right) for found in problem]))


def _bootstrap(wins_P: Tensor, pairs_P: Tensor) -> tuple[float, float]:
    """Problems drawn with replacement, the same draws at each position and each time."""
    if len(pairs_P) < 2:
        return math.nan, math.nan
    drawn_RP = torch.randint(len(pairs_P), (RESAMPLES, len(pairs_P)), generator=torch.Generator().manual_seed(0))
    shares_R = wins_P[drawn_RP].sum(1) / pairs_P[drawn_RP].sum(1)
    low, high = torch.quantile(shares_R, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
