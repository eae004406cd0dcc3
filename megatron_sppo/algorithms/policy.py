"""What all algorithms share: how to sample, and PPO's clipped policy loss with its options. They differ in their credit."""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_sppo import advantages
from megatron_sppo.algorithms.base import PolicyInputs, ValueInputs
from megatron_sppo.batch import ActorBatch, Outcomes, SamplingPlan
from megatron_sppo.config.algorithms import CriticForm
from megatron_sppo.config.schema import AlgorithmConfig, RolloutConfig
from megatron_sppo.losses import (
    LossSum,
    PolicyTerms,
    aggregate,
    clipped_surrogate,
    kl_penalty,
    log_ratio,
    mismatch_weights,
    value_bce,
)
from megatron_sppo.metrics import Max, Mean, Metric
from megatron_sppo.ragged import Ragged


class ClippedPolicy:
    """A subclass says what its critic reads and gives :meth:`~megatron_sppo.algorithms.base.Algorithm.assign_credit`."""

    critic: CriticForm | None = None
    greedy_baseline = False

    def __init__(self, config: AlgorithmConfig, rollout: RolloutConfig, seed: int) -> None:
        self.config, self.rollout, self.seed = config, rollout, seed
        self.needs_reference = config.kl.coefficient > 0

    def sampling(self, step: int) -> SamplingPlan:
        """The step is part of every response's seed."""
        r = self.rollout
        return SamplingPlan(
            num_samples=self.config.num_samples,
            temperature=r.temperature,
            top_p=r.top_p,
            top_k=r.top_k,
            max_response_tokens=r.max_response_tokens,
            stop_token_ids=r.stop_token_ids,
            seed=self.seed * 1_000_003 + step,
            greedy_baseline=self.greedy_baseline,
        )

    def critic_loss(self, inputs: ValueInputs) -> LossSum:
        """Eq. 2 as a sum over values: binary cross-entropy of sigmoid(logit) against the target."""
        bce_N = value_bce(inputs.logits_N, inputs.targets_N)
        count = bce_N.numel()
        return LossSum(bce_N.sum(), count, {"critic/bce": Mean(float(bce_N.detach().sum()), count)})

    def actor_loss(self, inputs: PolicyInputs) -> LossSum:
        """Eq. 3 as a sum over tokens, with the configured ratio, clips, KL and aggregation."""
        c = self.config
        log_ratio_N = log_ratio(inputs.logprobs_N, inputs.old_logprobs_N, inputs.lengths_S, c.ratio)
        terms = clipped_surrogate(log_ratio_N, inputs.advantages_N, c.clip_low, c.clip_high, c.dual_clip)
        correction = c.importance_sampling
        weights_N = mismatch_weights(inputs.old_logprobs_N, inputs.engine_logprobs_N, correction.truncate, correction.mask_above)
        loss_N = terms.loss_N * weights_N
        if c.kl.coefficient and c.kl.where == "loss":
            loss_N = loss_N + c.kl.coefficient * kl_penalty(inputs.logprobs_N, inputs.reference_logprobs_N, c.kl.estimator)
        if c.entropy_coefficient:
            loss_N = loss_N - c.entropy_coefficient * inputs.entropy_N
        total, weight = aggregate(loss_N, inputs.lengths_S, c.aggregation, self.rollout.max_response_tokens)
        with torch.no_grad():
            found = {"actor/loss": Mean(float(total), weight), **self._policy_metrics(inputs, terms, weights_N)}
        return LossSum(total, weight, found)

    def _policy_metrics(self, inputs: PolicyInputs, terms: PolicyTerms, weights_N: Tensor) -> dict[str, Metric]:
        count, truncate = inputs.logprobs_N.numel(), self.config.importance_sampling.truncate
        moved_N = inputs.logprobs_N - inputs.old_logprobs_N
        found: dict[str, Metric] = {
            "actor/clip_fraction_low": Mean(float(terms.clipped_low_N.sum()), count),
            "actor/clip_fraction_high": Mean(float(terms.clipped_high_N.sum()), count),
            "actor/entropy": Mean(float(inputs.entropy_N.sum()), count),
            # k3 estimate of KL(pi_old || pi): how far this update has moved from the policy that sampled.
            "actor/kl_rollout": Mean(float((moved_N.exp() - 1 - moved_N).sum()), count),
            "actor/ratio_max": Max(float(moved_N.max().exp())),
            "actor/mismatch_weight": Mean(float(weights_N.sum()), count),
        }
        if truncate:
            gap_N = inputs.old_logprobs_N - inputs.engine_logprobs_N
            found["actor/mismatch_truncated"] = Mean(float((gap_N.exp() > truncate).sum()), count)
        if self.needs_reference:
            drift_N = kl_penalty(inputs.logprobs_N, inputs.reference_logprobs_N, "k3")  # of KL(pi || initial policy)
            found["actor/kl_reference"] = Mean(float(drift_N.sum()), count)
        return found

    def response_rewards(self, outcomes: Outcomes) -> Tensor:
        """[B] each response's reward; where the KL is in the reward, less its sum over the response."""
        kl = self.config.kl
        if not kl.is_in_reward:
            return outcomes.rewards_B
        old, reference = outcomes.old_logprobs, outcomes.reference_logprobs
        return advantages.kl_in_reward(outcomes.rewards_B, old, reference, kl.coefficient, kl.estimator)

    def token_rewards(self, outcomes: Outcomes) -> Ragged:
        """[B] a reward per token: the outcome at the last one; where the KL is in the reward, less its estimate at each."""
        kl, old = self.config.kl, outcomes.old_logprobs
        if not kl.is_in_reward:  # then the log-probs may not be known yet: actor.reuse_first_forward
            return advantages.terminal_rewards(outcomes.rewards_B, old)
        kl_N = kl_penalty(old.values, outcomes.reference_logprobs.values, kl.estimator)
        return advantages.token_rewards(outcomes.rewards_B, old.with_values(kl_N), kl.coefficient)


def actor_batch(outcomes: Outcomes, token_advantages: Ragged) -> ActorBatch:
    """What the policy learns from, given an advantage per token."""
    rollouts = outcomes.rollouts
    return ActorBatch(
        prompt_tokens=rollouts.prompt_tokens,
        response_tokens=rollouts.response_tokens,
        advantages=token_advantages,
        old_logprobs=outcomes.old_logprobs,
        engine_logprobs=rollouts.engine_logprobs,
        reference_logprobs=outcomes.reference_logprobs,
    )


def sequence_actor_batch(outcomes: Outcomes, advantages_B: Tensor) -> ActorBatch:
    """As :func:`actor_batch`, every token with its response's advantage."""
    return actor_batch(outcomes, advantages.over_tokens(advantages_B, outcomes.rollouts.response_tokens))
