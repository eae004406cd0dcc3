"""GRPO (arXiv 2402.03300): a group of responses per prompt is its own baseline. Dr.GRPO without the division by the deviation."""

from __future__ import annotations

from megatron_sppo import advantages
from megatron_sppo.algorithms.base import Credit
from megatron_sppo.algorithms.policy import ClippedPolicy, sequence_actor_batch
from megatron_sppo.batch import Outcomes


class GRPO(ClippedPolicy):
    def assign_credit(self, outcomes: Outcomes) -> Credit:
        """(R - mean of the group) / standard deviation of the group."""
        rewards_B = self.response_rewards(outcomes)
        advantages_B = advantages.group_normalized(rewards_B, self.config.num_samples, self.config.normalize_std)
        return Credit(sequence_actor_batch(outcomes, advantages_B), critic=None)
