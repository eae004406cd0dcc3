"""A checksum of tensor bits that adds over any partition of the tensor and notices a changed, moved or swapped element.

``sum over elements of bits x weight(position in the whole tensor)`` in 64-bit integers that wrap around. Weights are odd, so one
changed element always changes the sum; they are scattered by a multiplicative hash, so a permutation does too (but for
one chance in 2^64). Since positions are those of the whole tensor, shards of any layout sum to the same number.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK_ELEMENTS = 1 << 22  # elements whose 64-bit products exist at once: 32 MiB each
_GOLDEN = -0x61C8864680B583EB  # 2^64 / golden ratio, as a signed integer
_MIX = -0x40A7B892E31B1A47


def _weights(positions: Tensor) -> Tensor:
    mixed = positions * _GOLDEN
    mixed = (mixed ^ (mixed >> 29)) * _MIX
    return (mixed ^ (mixed >> 32)) | 1


def box_checksum(box: Tensor, start: Sequence[int], shape: Sequence[int]) -> int:
    """Checksum of a 1-D or 2-D ``box`` whose first element sits at ``start`` in a tensor of ``shape``; a 64-bit integer."""
    rows = box.unsqueeze(1) if box.ndim == 1 else box
    row_start, column_start = (start[0], 0) if box.ndim == 1 else start
    row_stride = 1 if box.ndim == 1 else shape[1]
    columns = torch.arange(rows.shape[1], device=box.device) + column_start
    total = torch.zeros((), dtype=torch.int64, device=box.device)
    chunk = max(1, _CHUNK_ELEMENTS // max(1, rows.shape[1]))
    for first in range(0, rows.shape[0], chunk):
        part = rows[first : first + chunk].contiguous()
        row_ids = torch.arange(first, first + part.shape[0], device=box.device) + row_start
        positions = row_ids[:, None] * row_stride + columns
        total += (part.view(_BITS[part.element_size()]).long() * _weights(positions)).sum()
    return int(total.item())
