"""Sequence-level PPO (arXiv 2604.08865): one sample per prompt, A = R - V(s_p), token-level clip, BCE critic."""

from __future__ import annotations

import torch

from megatron_sppo import advantages
from megatron_sppo.algorithms.base import Credit
from megatron_sppo.algorithms.policy import ClippedPolicy, sequence_actor_batch
from megatron_sppo.batch import CriticBatch, Outcomes
from megatron_sppo.config.algorithms import CRITICS
from megatron_sppo.ragged import Ragged


class SPPO(ClippedPolicy):
    critic = CRITICS["sppo"]

    def assign_credit(self, outcomes: Outcomes) -> Credit:
        """Eq. 1, with V from before the critic's update; the critic learns the outcome itself, without any KL."""
        rollouts, values = outcomes.rollouts, outcomes.values
        advantages_B = advantages.sequence_level(self.response_rewards(outcomes), values.values)
        outcomes_B = outcomes.rewards_B.clamp(0.0, 1.0)  # BCE needs a probability; penalties may not be
        one_each = torch.ones(len(rollouts), dtype=torch.int64)
        critic = CriticBatch(rollouts.prompt_tokens, rollouts.response_tokens, Ragged(outcomes_B, one_each), values)
        return Credit(sequence_actor_batch(outcomes, advantages_B), critic)
