"""From a step's sequences to micro-batches: mini-batches, data-parallel shares, token-budget bins. Pure and deterministic.

Example: 8 responses, mini_batch_size 4, DP 2, budget 100 tokens: two optimizer steps; in each, every DP rank takes the
2 or so responses that balance the work and packs them into rows of at most 100 tokens. Work is not length: every token attends
to all before it, so that one sequence of 8k tokens costs a 7B model 1.06 times what two of 4k do, and a 1.5B model 1.12 times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from megatron_sppo.models.packing import fill_bins, split_over_ranks


@dataclass(frozen=True)
class MiniBatch:
    """One optimizer step: ``bins[r]`` are the micro-batches (row indices) of data-parallel rank r."""

    bins: tuple[tuple[tuple[int, ...], ...], ...]


def plan_mini_batches(
    lengths: Sequence[int],
    order: Sequence[int],
    mini_batch_size: int,
    num_ranks: int,
    token_budget: int,
    cost: Callable[[int], float] = float,
) -> list[MiniBatch]:
    """Cut ``order`` into mini-batches (0 = one of everything) and lay each out over ranks and bins.

    ``cost(length)`` is a sequence's work, in any unit (:meth:`MegatronEngine.cost`); a rank's bins hold the longest first.
    """
    size = mini_batch_size or len(order)
    plans = []
    for begin in range(0, len(order), size):
        members = list(order[begin : begin + size])
        shares = split_over_ranks([cost(lengths[i]) for i in members], num_ranks)
        bins = tuple(tuple(tuple(b) for b in fill_bins(lengths, [members[i] for i in share], token_budget)) for share in shares)
        plans.append(MiniBatch(bins))
    return plans


def epoch_order(num_rows: int, seed: int, epoch: int) -> list[int]:
    """Data order in the first pass over a rollout batch, a seeded permutation in later ones."""
    if epoch == 0:
        return list(range(num_rows))
    generator = torch.Generator().manual_seed(seed * 1009 + epoch)
    return torch.randperm(num_rows, generator=generator).tolist()
