"""Rows produced by some ranks become one :class:`Ragged` on every rank, bit for bit, by sums with zeros."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_sppo.parallel import platform
from megatron_sppo.ragged import Ragged


def exchange_rows(rows: Mapping[int, Tensor], num_rows: int, dtype: torch.dtype) -> Ragged:
    """All ``num_rows`` rows on every rank, in index order. Collective over the world.

    ``rows`` maps a row's index to its values [length], on the host; each index comes from exactly one rank (checked) and a rank
    that has none passes an empty mapping. Lengths need not be known beforehand.
    """
    lengths_and_counts = torch.zeros(2, num_rows, dtype=torch.int64)
    for index, values in rows.items():
        lengths_and_counts[0, index], lengths_and_counts[1, index] = len(values), 1
    dist.all_reduce(lengths_and_counts, group=platform.host_group())
    lengths_B, counts_B = lengths_and_counts
    assert bool((counts_B == 1).all()), "every row must come from exactly one rank"
    starts = (torch.cumsum(lengths_B, 0) - lengths_B).tolist()
    flat_N = torch.zeros(int(lengths_B.sum()), dtype=dtype)
    for index, values in rows.items():
        flat_N[starts[index] : starts[index] + len(values)] = values
    dist.all_reduce(flat_N, group=platform.host_group())
    return Ragged(flat_N, lengths_B.clone())
