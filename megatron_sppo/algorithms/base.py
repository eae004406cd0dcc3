"""What the trainer asks of an algorithm: a sampling plan, credit assignment and the two losses.

The trainer does not know which algorithm it runs. A loss sees the tensors of one micro-batch and returns a sum and a weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from megatron_sppo.batch import ActorBatch, CriticBatch, Rollouts, SamplingPlan
from megatron_sppo.losses import LossSum
from megatron_sppo.ragged import Ragged


@dataclass(frozen=True)
class PolicyInputs:
    """The response tokens of one micro-batch. N tokens of S responses, laid end to end."""

    lengths_S: Tensor  # int64, host
    logprobs_N: Tensor  # differentiable
    entropy_N: Tensor  # differentiable where the entropy bonus is on
    old_logprobs_N: Tensor
    engine_logprobs_N: Tensor
    reference_logprobs_N: Tensor
    advantages_N: Tensor


class Algorithm(Protocol):
    uses_critic: bool
    needs_reference: bool

    def sampling(self, step: int) -> SamplingPlan: ...

    def assign_credit(
        self, rollouts: Rollouts, rewards_B: Tensor, values_B: Tensor, old_logprobs: Ragged, reference_logprobs: Ragged
    ) -> tuple[CriticBatch, ActorBatch]: ...

    def actor_loss(self, inputs: PolicyInputs) -> LossSum: ...

    def critic_loss(self, logits_S: Tensor, rewards_S: Tensor) -> LossSum: ...
