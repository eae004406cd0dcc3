"""The losses of the paper as pure functions of tensors: no config object, no rank, no logging.

Every loss returns per-token or per-sequence terms or a *sum*; dividing by the global weight is the engine's business, so
that gradients do not depend on micro-batches or parallel layout. Shapes: N response tokens of the S sequences of one
micro-batch laid end to end; ``lengths_S`` says where each sequence ends.

Equations are those of "SPPO: Sequence-Level PPO for Long-Horizon Reasoning Tasks" (arXiv 2604.08865).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from megatron_sppo.metrics import Metric
from megatron_sppo.ragged import expand, segment_sum


@dataclass(frozen=True)
class LossSum:
    """A micro-batch's loss before the engine divides the gradient once by the global weight."""

    total: Tensor  # scalar, differentiable
    weight: int  # tokens, sequences, ... of this micro-batch
    metrics: dict[str, Metric]


Aggregation = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "fixed-length"]


def value_bce(logits_S: Tensor, rewards_S: Tensor) -> Tensor:
    """Eq. 2: [S] binary cross-entropy of the outcome R in [0, 1] against V = sigmoid(logit)."""
    return F.binary_cross_entropy_with_logits(logits_S, rewards_S, reduction="none")


def value_mse(values_N: Tensor, returns_N: Tensor, old_values_N: Tensor, clip: float) -> Tensor:
    """[N] half the squared error of V against the return; ``clip`` > 0 takes the worse of V and of V within old +- clip (PPO)."""
    error_N = (values_N - returns_N).square()
    if clip:
        held_N = old_values_N + (values_N - old_values_N).clamp(-clip, clip)
        error_N = torch.maximum(error_N, (held_N - returns_N).square())
    return error_N / 2


def log_ratio(logprobs_N: Tensor, old_logprobs_N: Tensor, lengths_S: Tensor, kind: Literal["token", "sequence"]) -> Tensor:
    """[N] log of the importance ratio that multiplies each token's advantage.

    ``token``: log pi(y_t) - log pi_old(y_t), the paper's r_t. ``sequence``: the mean of these over the response
    (GSPO's length-normalised sequence ratio, arXiv 2507.18071 eq. 7), the same at each of its tokens.
    """
    difference = logprobs_N - old_logprobs_N
    if kind == "token":
        return difference
    mean_S = segment_sum(difference, lengths_S) / lengths_S.to(difference.device).clamp(min=1)
    return expand(mean_S, lengths_S)


@dataclass(frozen=True)
class PolicyTerms:
    loss_N: Tensor
    clipped_low_N: Tensor  # bool: the lower clip is what counts (negative advantage)
    clipped_high_N: Tensor  # bool: the upper clip is what counts (positive advantage)


def clipped_surrogate(
    log_ratio_N: Tensor, advantages_N: Tensor, clip_low: float, clip_high: float, dual_clip: float = 0.0
) -> PolicyTerms:
    """Eq. 3 with its sign turned: -min(r A, clip(r, 1 - low, 1 + high) A) per token.

    ``dual_clip`` = c > 1 bounds the loss of negative advantages by -c A (arXiv 1912.09729 eq. 5); 0 turns it off.
    """
    ratio_N = log_ratio_N.exp()
    clipped_N = ratio_N.clamp(1.0 - clip_low, 1.0 + clip_high)
    objective_N = torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)
    if dual_clip:
        objective_N = torch.where(advantages_N < 0, torch.maximum(objective_N, dual_clip * advantages_N), objective_N)
    with torch.no_grad():
        low_N = (ratio_N < 1.0 - clip_low) & (advantages_N < 0)
        high_N = (ratio_N > 1.0 + clip_high) & (advantages_N > 0)
    return PolicyTerms(-objective_N, low_N, high_N)


def kl_penalty(logprobs_N: Tensor, reference_logprobs_N: Tensor, estimator: Literal["k1", "k2", "k3"]) -> Tensor:
    """[N] estimate of KL(policy || reference) at the sampled tokens (Schulman, "Approximating KL divergence", 2020)."""
    log_r = reference_logprobs_N - logprobs_N
    if estimator == "k1":
        return -log_r
    if estimator == "k2":
        return log_r.square() / 2
    return log_r.exp() - 1 - log_r


def mismatch_weights(trainer_logprobs_N: Tensor, engine_logprobs_N: Tensor, truncate: float, mask_above: float) -> Tensor:
    """[N] constant weights that correct for the engine sampling from another distribution than the trainer's pi_old.

    min(C, pi_old / pi_engine) where ``truncate`` = C > 0 (truncated importance sampling), 1 otherwise; 0 where the ratio or its
    inverse exceeds ``mask_above`` > 0. A masked token still counts in the loss's weight.
    """
    log_w = (trainer_logprobs_N - engine_logprobs_N).detach()
    weights_N = log_w.exp().clamp(max=truncate) if truncate else torch.ones_like(log_w)
    if mask_above:
        weights_N = weights_N * (log_w.abs() <= torch.tensor(mask_above).log())
    return weights_N


def aggregate(loss_N: Tensor, lengths_S: Tensor, mode: Aggregation, fixed_length: int) -> tuple[Tensor, int]:
    """(sum, weight) of a micro-batch; the mini-batch's loss is the sum of sums over the sum of weights.

    token-mean: every token counts the same. seq-mean-token-mean: every response counts the same. seq-mean-token-sum: responses
    count with their length. fixed-length: token sum over responses x the longest allowed length (Dr.GRPO, arXiv 2503.20783).
    """
    num_sequences, num_tokens = int(lengths_S.numel()), int(lengths_S.sum())
    if mode == "token-mean":
        return loss_N.sum(), num_tokens
    if mode == "seq-mean-token-mean":
        means_S = segment_sum(loss_N, lengths_S) / lengths_S.to(loss_N.device).clamp(min=1)
        return means_S.sum(), num_sequences
    if mode == "seq-mean-token-sum":
        return loss_N.sum(), num_sequences
    return loss_N.sum(), num_sequences * fixed_length
