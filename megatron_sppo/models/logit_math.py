"""What log-probs, entropies and their gradients ask of a chunk of logits, in plain PyTorch: on a CPU, and to test the kernels by.

n tokens, V columns of the vocabulary (this tensor-parallel rank's). See :mod:`megatron_sppo.models.logprobs` for the formulas.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = -3e38  # below every logit; finite, so that its products with zero are zero


def statistics(logits_nV: Tensor, labels_n: Tensor, temperature: float) -> Tensor:
    """[4, n] fp32, with x = logits / temperature: m = max x; sum e^(x - m); sum (x - m) e^(x - m); x of the label.

    The logits may be overwritten. ``labels_n`` is a column, or -1 where the label is another rank's: its x is then arbitrary.
    """
    x = logits_nV.float().div_(temperature)
    if not x.shape[1]:
        return torch.stack([x.new_full((len(x),), FLOOR), *x.new_zeros(3, len(x))])
    top, picked = x.amax(-1), x.gather(1, labels_n.clamp(min=0)[:, None])[:, 0]
    p = x.sub_(top[:, None]).exp()
    return torch.stack([top, p.sum(-1), x.mul_(p).sum(-1), picked])


def gradient(
    logits_nV: Tensor,
    labels_n: Tensor,
    log_z_n: Tensor,
    entropy_n: Tensor,
    of_logprobs_n: Tensor | None,
    of_entropy_n: Tensor | None,
    temperature: float,
) -> Tensor:
    """[n, V] of the logits, in their dtype and maybe their place. ``labels_n`` as in :func:`statistics`."""
    d_logits = logits_nV.float().div_(temperature).sub_(log_z_n[:, None])
    p = d_logits.exp()
    if of_entropy_n is None:
        d_logits.zero_()
    else:
        d_logits.add_(entropy_n[:, None]).mul_(p).mul_(-of_entropy_n[:, None])
    if of_logprobs_n is not None:
        d_logits.sub_(p.mul_(of_logprobs_n[:, None]))
        if d_logits.shape[1]:
            d_logits.scatter_add_(1, labels_n.clamp(min=0)[:, None], (of_logprobs_n * (labels_n >= 0))[:, None])
    return d_logits.div_(temperature).to(logits_nV.dtype)
