"""RLOO (arXiv 2402.14740): the baseline of a response is the mean reward of the prompt's other responses."""

from __future__ import annotations

from megatron_sppo import advantages
from megatron_sppo.algorithms.base import Credit
from megatron_sppo.algorithms.policy import ClippedPolicy, sequence_actor_batch
from megatron_sppo.batch import Outcomes


class RLOO(ClippedPolicy):
    def assign_credit(self, outcomes: Outcomes) -> Credit:
        advantages_B = advantages.leave_one_out(self.response_rewards(outcomes), self.config.num_samples)
        return Credit(sequence_actor_batch(outcomes, advantages_B), critic=None)
