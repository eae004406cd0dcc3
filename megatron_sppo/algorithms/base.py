"""What the trainer asks of an algorithm: a sampling plan, credit assignment and the two losses.

The trainer does not know which algorithm it runs. A loss sees the tensors of one micro-batch and returns a sum and a weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from megatron_sppo.batch import ActorBatch, CriticBatch, Outcomes, SamplingPlan
from megatron_sppo.config.algorithms import CriticForm
from megatron_sppo.losses import LossSum


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


@dataclass(frozen=True)
class ValueInputs:
    """The values of one micro-batch: one of each of S prompts (N = S), or one before each of their N response tokens."""

    lengths_S: Tensor  # int64, host
    logits_N: Tensor  # differentiable
    targets_N: Tensor
    old_values_N: Tensor  # V before this step's first update


@dataclass(frozen=True)
class Credit:
    """What each model learns from."""

    actor: ActorBatch
    critic: CriticBatch | None  # None where there is no critic


class Algorithm(Protocol):
    critic: CriticForm | None
    needs_reference: bool

    def sampling(self, step: int) -> SamplingPlan: ...
    def assign_credit(self, outcomes: Outcomes) -> Credit: ...
    def actor_loss(self, inputs: PolicyInputs) -> LossSum: ...
    def critic_loss(self, inputs: ValueInputs) -> LossSum: ...
