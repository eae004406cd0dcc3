"""PPO with a token-level critic (arXiv 1707.06347, GAE of 1506.02438), and the paper's control whose critic has SPPO's BCE."""

from __future__ import annotations

from megatron_sppo import advantages
from megatron_sppo.algorithms.base import Credit, ValueInputs
from megatron_sppo.algorithms.policy import ClippedPolicy, actor_batch
from megatron_sppo.batch import CriticBatch, Outcomes
from megatron_sppo.config.algorithms import CRITICS
from megatron_sppo.losses import LossSum, value_mse
from megatron_sppo.metrics import Mean
from megatron_sppo.ragged import Ragged


class PPO(ClippedPolicy):
    critic = CRITICS["ppo"]

    def assign_credit(self, outcomes: Outcomes) -> Credit:
        """GAE over the tokens of each response, the outcome at its last; the critic learns the returns."""
        c, rollouts = self.config, outcomes.rollouts
        token_advantages, returns = advantages.gae(self.token_rewards(outcomes), outcomes.values, c.gamma, c.gae_lambda)
        if c.whiten_advantages:
            token_advantages = advantages.whitened(token_advantages)
        targets = self.value_targets(returns)
        critic = CriticBatch(rollouts.prompt_tokens, rollouts.response_tokens, targets, outcomes.values)
        return Credit(actor_batch(outcomes, token_advantages), critic)

    def value_targets(self, returns: Ragged) -> Ragged:
        return returns

    def critic_loss(self, inputs: ValueInputs) -> LossSum:
        """Half the squared error of V, clipped around its old value, as a sum over tokens."""
        clip = self.config.value_clip
        error_N = value_mse(inputs.logits_N, inputs.targets_N, inputs.old_values_N, clip)
        count = error_N.numel()
        moved_N = (inputs.logits_N.detach() - inputs.old_values_N).abs()
        found = {
            "critic/mse": Mean(2 * float(error_N.detach().sum()), count),
            "critic/value_clip_fraction": Mean(float((moved_N > clip).sum()) if clip else 0.0, count),
        }
        return LossSum(error_N.sum(), count, found)


class PPOWithBCE(PPO):
    """Fig. 4's control: PPO whose token-level V is a probability under eq. 2."""

    critic = CRITICS["ppo_bce"]

    def value_targets(self, returns: Ragged) -> Ragged:
        return returns.with_values(returns.values.clamp(0.0, 1.0))  # a KL or a penalty in the reward may lead out of [0, 1]

    def critic_loss(self, inputs: ValueInputs) -> LossSum:
        return ClippedPolicy.critic_loss(self, inputs)
