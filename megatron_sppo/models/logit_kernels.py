"""The functions of :mod:`megatron_sppo.models.logit_math` on a GPU: one pass over a chunk of logits each way, in Triton.

The product with the vocabulary leaves a chunk's logits in the model's dtype. In plain PyTorch the fp32 copy, the maximum, the
exponential and the sums each read or write the chunk again: about 30 times two bytes a logit forward, 40 backward. Here the
forward reads each logit once and the backward overwrites it with its gradient. All arithmetic is in fp32, with a product by
1 / temperature, since a division rounded to the last bit would take longer than the memory.

Imports Triton, so it is imported where logits are on a GPU alone (and by its test, in Triton's interpreter).
"""

# ruff: noqa: ANN001, ANN202 - a kernel's arguments are pointers, and numbers whose types Triton finds

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from megatron_sppo.models.logit_math import FLOOR

_FORWARD_BLOCK, _BACKWARD_BLOCK, _WARPS = 8192, 4096, 8


@triton.jit
def _statistics_of_row(
    logits_ptr, labels_ptr, out_ptr, num_tokens, num_rows, sharpness, floor: tl.constexpr, block: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + token * num_rows
    top = tl.full((), floor, tl.float32)
    total = tl.zeros((), tl.float32)
    weighted = tl.zeros((), tl.float32)
    for begin in range(0, num_rows, block):
        column = begin + tl.arange(0, block)
        inside = column < num_rows
        x = tl.load(row_ptr + column, mask=inside, other=0.0).to(tl.float32) * sharpness
        x = tl.where(inside, x, floor)
        higher = tl.maximum(top, tl.max(x, 0))
        below = x - higher
        p = tl.exp(below)
        # What was summed below the old maximum, below the new one: e^(x - new) = e^(x - old) e^(old - new).
        step = top - higher
        scale = tl.exp(step)
        weighted = (weighted + step * total) * scale + tl.sum(below * p, 0)
        total = total * scale + tl.sum(p, 0)
        top = higher
    label = tl.load(labels_ptr + token)
    here = label >= 0
    picked = tl.load(row_ptr + label, mask=here, other=0.0).to(tl.float32) * sharpness
    tl.store(out_ptr + token, top)
    tl.store(out_ptr + num_tokens + token, total)
    tl.store(out_ptr + 2 * num_tokens + token, weighted)
    tl.store(out_ptr + 3 * num_tokens + token, picked)


@triton.jit
def _gradient_of_row(
    logits_ptr, labels_ptr, log_z_ptr, entropy_ptr, of_logprob_ptr, of_entropy_ptr, num_rows, sharpness, block: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < num_rows
    place = logits_ptr + token * num_rows + column
    below = tl.load(place, mask=inside, other=0.0).to(tl.float32) * sharpness - tl.load(log_z_ptr + token)
    p = tl.exp(below)
    chosen = tl.where(column == tl.load(labels_ptr + token), 1.0, 0.0)
    from_logprob = tl.load(of_logprob_ptr + token) * (chosen - p)
    from_entropy = tl.load(of_entropy_ptr + token) * p * (below + tl.load(entropy_ptr + token))
    gradient = (from_logprob - from_entropy) * sharpness
    tl.store(place, gradient.to(logits_ptr.dtype.element_ty), mask=inside)


def statistics(logits_nV: Tensor, labels_n: Tensor, temperature: float) -> Tensor:
    """See :func:`megatron_sppo.models.logit_math.statistics`. ``logits_nV`` is contiguous."""
    num_tokens, num_rows = logits_nV.shape
    out_4n = logits_nV.new_empty(4, num_tokens, dtype=torch.float32)
    if num_tokens:
        _statistics_of_row[(num_tokens,)](
            logits_nV, labels_n, out_4n, num_tokens, num_rows, 1 / temperature, FLOOR, _FORWARD_BLOCK, num_warps=_WARPS
        )
    return out_4n


def gradient(
    logits_nV: Tensor,
    labels_n: Tensor,
    log_z_n: Tensor,
    entropy_n: Tensor,
    of_logprobs_n: Tensor | None,
    of_entropy_n: Tensor | None,
    temperature: float,
) -> Tensor:
    """See :func:`megatron_sppo.models.logit_math.gradient`; in the place of ``logits_nV``."""
    num_tokens, num_rows = logits_nV.shape
    of_logprobs_n, of_entropy_n = (
        torch.zeros_like(log_z_n) if each is None else each.float().contiguous() for each in (of_logprobs_n, of_entropy_n)
    )
    if num_tokens and num_rows:
        grid = (num_tokens, triton.cdiv(num_rows, _BACKWARD_BLOCK))
        _gradient_of_row[grid](
            logits_nV,
            labels_n,
            log_z_n,
            entropy_n,
            of_logprobs_n,
            of_entropy_n,
            num_rows,
            1 / temperature,
            _BACKWARD_BLOCK,
            num_warps=_WARPS,
        )
    return logits_nV
