"""FP8 weights: copies that Transformer Engine keeps beside bf16 parameters, or parameters that are FP8 themselves.

With ``fp8.parameters`` a layer's matrix is bytes and inverse scales (one, or one a block), cast after each optimizer step from
the optimizer's fp32 weights, and gathered as bytes. It holds the very numbers that a bf16 parameter's FP8 copy would, so that
losses, gradients and updates are those of a run without it to the last bit (tests/transformer_engine). What leaves the trainer is
these numbers, in bf16: an HF folder, a checkpoint's model, and what vLLM samples from.

Such a parameter claims to be a bf16 tensor. It is not one where memory is meant, and what this file offers is for there. Without
Transformer Engine every parameter is a plain tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

# What an FP8 parameter of one scale, or of one for each block, keeps; its transpose is made of these.
_STORED = ("data", "fp8_scale_inv", "rowwise_data", "rowwise_scale_inv")


def is_fp8(parameter: Tensor) -> bool:
    """Whether it is bytes and scales that claim to be a tensor of a plain dtype."""
    # Here, because a reader of HF folders does without Megatron, whose import takes seconds.
    from megatron.core.fp8_utils import is_float8tensor

    return bool(is_float8tensor(parameter))


def plain(parameter: Tensor) -> Tensor:
    """A tensor of the parameter's dtype with its values: the parameter's own memory, or new memory for one in FP8."""
    tensor = parameter.detach()
    return tensor.dequantize(dtype=tensor.dtype) if is_fp8(tensor) else tensor  # type: ignore[call-arg]


def stored(parameter: Tensor) -> list[Tensor]:
    """The tensors that hold a parameter's values, which share its memory."""
    if not is_fp8(parameter):
        return [parameter.detach()]
    held: dict[str, Any] = parameter.get_metadata()  # type: ignore[attr-defined]
    return [held[name] for name in _STORED if held.get(name) is not None]


@torch.no_grad()
def restore(parameter: Tensor, values: Sequence[Tensor]) -> None:
    """Give a parameter the ``values`` that :func:`stored` held at another time."""
    for held, value in zip(stored(parameter), values, strict=True):
        held.copy_(value)
    drop_transpose(parameter)


@torch.no_grad()
def load(parameter: Tensor, value: Tensor) -> None:
    """Fill a parameter. The fp32 weights of an optimizer that is made later begin with ``value`` in the parameter's dtype, not
    with what FP8 leaves of it.
    """
    if not is_fp8(parameter):
        parameter.copy_(value)
        return
    kept = [value.to(parameter.dtype)]
    parameter.copy_(kept[0])
    # What Megatron's distributed optimizer asks of an FP8 parameter, once.
    parameter.get_high_precision_init_val = lambda: kept[0]  # type: ignore[attr-defined]
    parameter.clear_high_precision_init_val = kept.clear  # type: ignore[attr-defined]


def drop_transpose(parameter: Tensor) -> None:
    """Let go of an FP8 parameter's transpose, a byte an element. The next backward pass makes it anew."""
    if is_fp8(parameter):
        parameter.update_usage(rowwise_usage=True, columnwise_usage=False)  # type: ignore[attr-defined]


def drop_copies(model: nn.Module) -> None:
    """Let go of what a training phase leaves beside the weights, which would stay while vLLM samples: FP8 copies of bf16 ones,
    two bytes a parameter, or transposes of FP8 ones.

    The next pass makes them anew, as after each optimizer step: for a 7B model about 10 ms of memory traffic.
    """
    for module in model.modules():
        copies = getattr(module, "_fp8_workspaces", None)
        if copies:
            copies.clear()
    for parameter in model.parameters():
        drop_transpose(parameter)


def update_scales() -> None:
    """Delayed scales follow the maxima seen so far. TE does so at the end of passes with gradients alone, so that the first
    log-probs of a run would be computed with scales of one, which clip.
    """
    from transformer_engine.pytorch.quantization import FP8GlobalStateManager

    FP8GlobalStateManager.reduce_and_update_fp8_tensors(forward=True)


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
