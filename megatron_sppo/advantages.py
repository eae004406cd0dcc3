"""Credit assignment as pure functions: what the rewards and values of a step say about each response."""

from __future__ import annotations

from torch import Tensor

from megatron_sppo.losses import kl_penalty
from megatron_sppo.ragged import Ragged, expand


def sequence_level(rewards_B: Tensor, values_B: Tensor) -> Tensor:
    """Eq. 1: A = R - V(s_p), [B]; no whitening, no GAE, no group. V is taken before this step's critic update."""
    return rewards_B - values_B


def over_tokens(advantages_B: Tensor, responses: Ragged) -> Ragged:
    """Every token of a response gets its response's advantage."""
    return Ragged(expand(advantages_B, responses.lengths), responses.lengths)


def kl_in_reward(rewards_B: Tensor, logprobs: Ragged, reference: Ragged, coefficient: float, estimator: str) -> Tensor:
    """[B] rewards less ``coefficient`` x the summed KL estimate of each response to the reference policy."""
    kl_N = kl_penalty(logprobs.values, reference.values, estimator)  # type: ignore[arg-type]
    return rewards_B - coefficient * logprobs.with_values(kl_N).row_sums()
