"""What Transformer Engine keeps beside an FP8 model's weights. It is imported where FP8 is in use alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


def update_scales() -> None:
    """Delayed scales follow the maxima seen so far. TE does so at the end of passes with gradients alone, so that the first
    log-probs of a run would be computed with scales of one, which clip.
    """
    from transformer_engine.pytorch.quantization import FP8GlobalStateManager

    FP8GlobalStateManager.reduce_and_update_fp8_tensors(forward=True)


def drop_copies(model: nn.Module) -> None:
    """Let go of the weights' FP8 copies, two bytes a parameter, which would stay while vLLM samples.

    The next pass makes them anew, as after each optimizer step: for a 7B model about 10 ms of memory traffic.
    """
    for module in model.modules():
        copies = getattr(module, "_fp8_workspaces", None)
        if copies:
            copies.clear()


def share_scales(model: nn.Module, group: dist.ProcessGroup) -> None:
    """Delayed scales and the maxima behind them become those of all data-parallel replicas. Collective over them.

    A checkpoint holds one replica's, from which all would go on when it is resumed; after this all go on from the same anyway.
    """
    metas = [meta for module in model.modules() if (meta := getattr(module, "fp8_meta", None))]
    states = [meta[way] for meta in metas for way in ("scaling_fwd", "scaling_bwd") if way in meta]
    states = [state for state in states if hasattr(state, "amax_history")]
    _reduce([state.amax_history for state in states], dist.ReduceOp.MAX, group)
    _reduce([state.scale for state in states], dist.ReduceOp.MIN, group)


@torch.no_grad()
def _reduce(tensors: Sequence[Tensor], operation: dist.ReduceOp.RedOpType, group: dist.ProcessGroup) -> None:
    if not tensors:
        return
    together = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(together, op=operation, group=group)
    for tensor, part in zip(tensors, together.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
