"""ReMax (arXiv 2310.10505): the baseline of a response is the reward of the greedy response to the same prompt."""

from __future__ import annotations

from megatron_sppo import advantages
from megatron_sppo.algorithms.base import Credit
from megatron_sppo.algorithms.policy import ClippedPolicy, actor_batch
from megatron_sppo.batch import Outcomes
from megatron_sppo.ragged import expand


class ReMax(ClippedPolicy):
    greedy_baseline = True

    def assign_credit(self, outcomes: Outcomes) -> Credit:
        """Reward still to come at each token, less the baseline; without a KL in the reward the same at every token."""
        rewards = self.token_rewards(outcomes)
        nothing = rewards.with_values(rewards.values.new_zeros(rewards.values.shape))
        to_go, _ = advantages.gae(rewards, nothing, gamma=1.0, lam=1.0)
        baseline_N = expand(outcomes.greedy_rewards_B, rewards.lengths)
        return Credit(actor_batch(outcomes, to_go.with_values(to_go.values - baseline_N)), critic=None)
