"""From a step's sequences to micro-batches: mini-batches, data-parallel shares, token-budget bins. Pure and deterministic.

Example: 8 responses, mini_batch_size 4, DP 2, budget 100 tokens: two optimizer steps; in each, every DP rank takes the
2 or so responses that balance the tokens and packs them into rows of at most 100 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from megatron_sppo.models.packing import fill_bins, split_over_ranks


@dataclass(frozen=True)
class MiniBatch:
    """One optimizer step: ``bins[r]`` are the micro-batches (row indices) of data-parallel rank r."""

    bins: tuple[tuple[tuple[int, ...], ...], ...]


def plan_mini_batches(
    lengths: Sequence[int], order: Sequence[int], mini_batch_size: int, num_ranks: int, token_budget: int
) -> list[MiniBatch]:
    """Cut ``order`` into mini-batches (0 = one of everything) and lay each out over ranks and bins."""
    size = mini_batch_size or len(order)
    plans = []
    for begin in range(0, len(order), size):
        members = list(order[begin : begin + size])
        shares = split_over_ranks([lengths[i] for i in members], num_ranks)
        bins = tuple(tuple(tuple(b) for b in fill_bins(lengths, [members[i] for i in share], token_budget)) for share in shares)
        plans.append(MiniBatch(bins))
    return plans


def epoch_order(num_rows: int, seed: int, epoch: int) -> list[int]:
    """Data order in the first pass over a rollout batch, a seeded permutation in later ones."""
    if epoch == 0:
        return list(range(num_rows))
    generator = torch.Generator().manual_seed(seed * 1009 + epoch)
    return torch.randperm(num_rows, generator=generator).tolist()
