"""Small exact collectives over host memory: everyone ends with the same bits."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_sppo.parallel import platform
from megatron_sppo.ragged import Ragged

Value = TypeVar("Value")


def gather_rows(rows: dict[int, Tensor], lengths_B: Tensor, contribute: bool) -> Ragged:
    """Rows computed here and there become one float32 :class:`Ragged` on every rank. Collective over the world.

    ``rows`` maps a row's index to its values [length]; each row is contributed by exactly one rank (``contribute``). The sum with
    zeros is exact, and the count of contributions is checked.
    """
    starts = (torch.cumsum(lengths_B, 0) - lengths_B).tolist()
    total = int(lengths_B.sum())
    flat = torch.zeros(total + len(lengths_B), dtype=torch.float32)
    if contribute:
        for index, values in rows.items():
            start = starts[index]
            flat[start : start + int(lengths_B[index])] = values.float().cpu()
            flat[total + index] = 1.0
    dist.all_reduce(flat, group=platform.host_group())
    assert bool((flat[total:] == 1.0).all()), "every row must be contributed by exactly one rank"
    return Ragged(flat[:total], lengths_B)


def gather_objects(value: Value) -> list[Value]:
    """One object per rank, in rank order, on every rank. Collective over the world; for small metadata of our own."""
    gathered: list[Value] = [value] * dist.get_world_size()
    dist.all_gather_object(gathered, value, group=platform.host_group())
    return gathered


def broadcast_object(value: Value) -> Value:
    """Rank 0's object on every rank. Collective over the world."""
    box = [value]
    dist.broadcast_object_list(box, src=0, group=platform.host_group())
    return box[0]


def any_rank(flag: bool) -> bool:
    """Whether any rank says so. Collective over the world."""
    answer = torch.tensor([int(flag)])
    dist.all_reduce(answer, op=dist.ReduceOp.MAX, group=platform.host_group())
    return bool(answer.item())
