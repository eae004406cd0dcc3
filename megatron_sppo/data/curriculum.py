"""Which prompts of a pool are worth a rollout, by the critic's V(s_p): their difficulty is known before any token is sampled.

``variance`` prefers prompts whose outcome is uncertain, weight V (1 - V): the variance of R and, at temperature and length
fixed, what the size of the policy gradient follows. ``band`` takes those with V in [low, high] alike and no others. A share
``uniform`` of the draws ignores V, so that every prompt keeps a chance while the critic is wrong.

Prompts are drawn without replacement and each one's probability to be drawn is known exactly: systematic sampling (Madow 1949)
over inclusion probabilities that are proportional to the weights and capped at 1. It is logged with the outcome, for anyone
who wants unbiased estimates over the data set. What was not drawn is counted, and comes up again in the next epoch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megatron_sppo.batch import Prompts
from megatron_sppo.config.schema import CurriculumConfig
from megatron_sppo.data.prompts import select_prompts

ONE = 2**40  # a probability of 1 in whole units


@dataclass(frozen=True)
class Drawn:
    """P prompts out of a pool of M, in the pool's order."""

    prompts: Prompts
    probability_P: Tensor  # float64, to be drawn from this pool
    metrics: dict[str, float]


def everything(prompts: Prompts) -> Drawn:
    """No curriculum: each prompt for certain."""
    return Drawn(prompts, torch.ones(len(prompts), dtype=torch.float64), {})


def draw(pool: Prompts, values_M: Tensor, count: int, config: CurriculumConfig, seed: int, step: int) -> Drawn:
    """``count`` prompts of the pool, a pure function of its arguments: every rank draws the same."""
    probability_M = inclusion_probabilities(weights(values_M, config), count)
    drawn = systematic_sample(probability_M, count, seed, step)
    values_P = values_M[drawn]
    return Drawn(
        select_prompts(pool, drawn),
        probability_M[drawn],
        {
            "curriculum/pool": len(pool),
            "curriculum/passed_over": len(pool) - count,
            "curriculum/pool_value_mean": float(values_M.mean()),
            "curriculum/drawn_value_mean": float(values_P.mean()),
            "curriculum/probability_min": float(probability_M[drawn].min()),
            "curriculum/probability_max": float(probability_M[drawn].max()),
        },
    )


def weights(values_M: Tensor, config: CurriculumConfig) -> Tensor:
    """[M] float64, summing to 1; uniform where no prompt has any weight of its own."""
    values_M = values_M.double()
    if config.by == "variance":
        preference_M = values_M * (1 - values_M)
    else:
        preference_M = ((values_M >= config.low) & (values_M <= config.high)).double()
    uniform_M = torch.full_like(preference_M, 1 / len(preference_M))
    total = preference_M.sum()
    if total == 0:
        return uniform_M
    return (1 - config.uniform) * preference_M / total + config.uniform * uniform_M


def inclusion_probabilities(weights_M: Tensor, count: int) -> Tensor:
    """[M] float64 in [0, 1] that sum to ``count``: proportional to the weights where these do not ask for more than certainty.

    Fewer weights above 0 than ``count`` leave places over; the rest shares them alike.
    """
    assert count <= len(weights_M)
    certain_M = torch.zeros(len(weights_M), dtype=torch.bool)
    while True:
        left = count - int(certain_M.sum())
        if not left:
            return certain_M.double()
        rest_M = torch.where(certain_M, 0.0, weights_M)
        if rest_M.sum() == 0:
            rest_M = (~certain_M).double()
        scaled_M = left * rest_M / rest_M.sum()
        above_M = ~certain_M & (scaled_M >= 1)
        if not bool(above_M.any()):
            return torch.where(certain_M, 1.0, scaled_M)
        certain_M |= above_M


def systematic_sample(probability_M: Tensor, count: int, seed: int, step: int) -> list[int]:
    """``count`` distinct indices in rising order, index i with probability ``probability_M[i]`` exactly.

    In a random order the probabilities are laid end to end on [0, count); the points u, u + 1, ..., u + count - 1 hit one each.
    """
    key = hashlib.blake2b(f"curriculum:{seed}:{step}".encode(), digest_size=16).digest()
    bits = np.random.Philox(key=np.frombuffer(key, dtype="<u8")).random_raw(len(probability_M) + 1)
    order = np.argsort(bits[1:], kind="stable")
    ends = np.cumsum(in_units(probability_M.numpy()[order], count))
    points = int(bits[0] % np.uint64(ONE)) + ONE * np.arange(count)
    return sorted(order[np.searchsorted(ends, points, side="right")].tolist())


def in_units(probability_M: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """[M] the probabilities as whole numbers of 2^-40 that sum to ``count`` exactly, none above 1.

    With floats a certain prompt could be longer than 1 by a rounding error and be hit twice.
    """
    units = np.minimum(np.rint(probability_M * ONE).astype(np.int64), ONE)
    missing = count * ONE - int(units.sum())
    for index in range(len(units)):
        change = min(max(missing, -int(units[index])), ONE - int(units[index]))
        units[index] += change
        missing -= change
    return units
