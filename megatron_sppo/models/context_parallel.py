"""Context parallelism of packed rows: which rank holds which token, and the two exchanges between the ranks.

The layout is Transformer Engine's for packed (thd) rows: every sequence is padded to a multiple of 2 x cp tokens and cut into
2 x cp equal chunks; rank r holds chunks r and 2 x cp - 1 - r of *each* sequence, so that causal attention costs all ranks the
same. Example with cp = 2 and a sequence of 7 tokens, padded to 8: rank 0 holds tokens 0 1 6 7, rank 1 holds 2 3 4 5.

Losses never see this: scores read from the ranks' parts are assembled first, each rank computes the same loss of whole
responses, and the backward hands every rank the gradient of its own part. The data-parallel sum of gradients, which runs over
the context-parallel ranks too, then adds each part once; the engine counts the loss's weight on one of the ranks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def sequence_multiple(cp: int) -> int:
    """Each sequence of a row is padded to a multiple of this."""
    return 2 * cp if cp > 1 else 1


def held_offsets(length: int, cp: int, rank: int) -> Tensor:
    """[length / cp] offsets into a padded sequence of the tokens that ``rank`` holds, in its order."""
    if cp == 1:
        return torch.arange(length)
    chunks = torch.arange(length).view(2 * cp, -1)
    return torch.cat([chunks[rank], chunks[2 * cp - 1 - rank]])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        whole = part.new_empty(group.size() * part.shape[0], *part.shape[1:])
        dist.all_gather_into_tensor(whole, part.contiguous(), group=group)
        return whole

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        part = grad.new_empty(grad.shape[0] // ctx.group.size(), *grad.shape[1:])
        dist.reduce_scatter_tensor(part, grad.contiguous(), group=ctx.group)
        return part, None


def gather_keys_and_values(key: Tensor, value: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """[t, kv_heads, d] of each rank -> [cp * t, kv_heads, d] in rank order, in one exchange; the gradient is summed back."""
    whole = _Gather.apply(torch.cat([key, value], dim=1), group)
    return whole.split([key.shape[1], value.shape[1]], dim=1)


class _Assemble(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, slots_r: Tensor, num_wanted: int, group: dist.ProcessGroup, *values_r: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)  # an entropy that no loss reads costs no backward
        ctx.save_for_backward(slots_r)
        whole = values_r[0].new_zeros(len(values_r) + 1, num_wanted)
        whole[:-1, slots_r] = torch.stack(values_r)
        whole[-1, slots_r] = 1.0
        dist.all_reduce(whole, group=group)
        assert bool((whole[-1] == 1.0).all()), "every position must be held by exactly one context-parallel rank"
        return tuple(row.clone() for row in whole[:-1])

    @staticmethod
    def backward(ctx: Any, *grads_R: Tensor | None) -> tuple[Tensor | None, ...]:
        (slots_r,) = ctx.saved_tensors
        return None, None, None, *(None if grad is None else grad[slots_r] for grad in grads_R)


def assemble(values_r: tuple[Tensor, ...], slots_r: Tensor, num_wanted: int, group: dist.ProcessGroup) -> tuple[Tensor, ...]:
    """Each rank's values at its ``slots_r`` of R wanted ones -> all R [R], the same bits on every rank (x + 0 is exact).

    The gradient of a rank's values is the gradient that this rank's own loss has at their slots: nothing is summed over the
    ranks, because all of them compute the same loss.
    """
    if group.size() == 1:
        return values_r
    assembled: tuple[Tensor, ...] = _Assemble.apply(slots_r, num_wanted, group, *values_r)
    return assembled
