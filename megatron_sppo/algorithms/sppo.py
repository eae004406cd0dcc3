"""Sequence-level PPO (arXiv 2604.08865): one sample per prompt, A = R - V(s_p), token-level clip, BCE critic."""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_sppo import advantages
from megatron_sppo.algorithms.base import PolicyInputs
from megatron_sppo.batch import ActorBatch, CriticBatch, Rollouts, SamplingPlan
from megatron_sppo.config.schema import AlgorithmConfig, RolloutConfig
from megatron_sppo.losses import LossSum, aggregate, clipped_surrogate, kl_penalty, log_ratio, mismatch_weights, value_bce
from megatron_sppo.metrics import Max, Mean, Metric
from megatron_sppo.ragged import Ragged


class SPPO:
    uses_critic = True

    def __init__(self, config: AlgorithmConfig, rollout: RolloutConfig, seed: int) -> None:
        self.config, self.rollout, self.seed = config, rollout, seed
        self.needs_reference = config.kl.coefficient > 0

    def sampling(self, step: int) -> SamplingPlan:
        """N = 1: the critic replaces the group. The step is part of every response's seed."""
        r = self.rollout
        return SamplingPlan(
            1, r.temperature, r.top_p, r.top_k, r.max_response_tokens, r.stop_token_ids, seed=self.seed * 1_000_003 + step
        )

    def assign_credit(
        self, rollouts: Rollouts, rewards_B: Tensor, values_B: Tensor, old_logprobs: Ragged, reference_logprobs: Ragged
    ) -> tuple[CriticBatch, ActorBatch]:
        """Eq. 1, with V from before the critic's update; the critic learns the outcome itself, without any KL."""
        kl, outcome_B = self.config.kl, rewards_B
        if kl.coefficient and kl.where == "reward":
            outcome_B = advantages.kl_in_reward(rewards_B, old_logprobs, reference_logprobs, kl.coefficient, kl.estimator)
        advantages_B = advantages.sequence_level(outcome_B, values_B)
        critic = CriticBatch(
            rollouts.prompt_tokens, rewards_B.clamp(0.0, 1.0), values_B
        )  # BCE needs a probability; penalties may not be
        actor = ActorBatch(
            prompt_tokens=rollouts.prompt_tokens,
            response_tokens=rollouts.response_tokens,
            advantages=advantages.over_tokens(advantages_B, rollouts.response_tokens),
            old_logprobs=old_logprobs,
            engine_logprobs=rollouts.engine_logprobs,
            reference_logprobs=reference_logprobs,
        )
        return critic, actor

    def critic_loss(self, logits_S: Tensor, rewards_S: Tensor) -> LossSum:
        """Eq. 2 as a sum over prompts."""
        bce_S = value_bce(logits_S, rewards_S)
        count = logits_S.numel()
        return LossSum(bce_S.sum(), count, {"critic/bce": Mean(float(bce_S.detach().sum()), count)})

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
            count = inputs.logprobs_N.numel()
            moved_N = inputs.logprobs_N - inputs.old_logprobs_N
            metrics: dict[str, Metric] = {
                "actor/loss": Mean(float(total), weight),
                "actor/clip_fraction_low": Mean(float(terms.clipped_low_N.sum()), count),
                "actor/clip_fraction_high": Mean(float(terms.clipped_high_N.sum()), count),
                "actor/entropy": Mean(float(inputs.entropy_N.sum()), count),
                # k3 estimate of KL(pi_old || pi): how far this update has moved from the policy that sampled.
                "actor/kl_rollout": Mean(float((moved_N.exp() - 1 - moved_N).sum()), count),
                "actor/ratio_max": Max(float(moved_N.max().exp())),
                "actor/mismatch_weight": Mean(float(weights_N.sum()), count),
            }
            if correction.truncate:
                gap_N = inputs.old_logprobs_N - inputs.engine_logprobs_N
                metrics["actor/mismatch_truncated"] = Mean(float((gap_N.exp() > correction.truncate).sum()), count)
            if self.needs_reference:
                drift_N = kl_penalty(inputs.logprobs_N, inputs.reference_logprobs_N, "k3")  # of KL(pi || initial policy)
                metrics["actor/kl_reference"] = Mean(float(drift_N.sum()), count)
        return LossSum(total, weight, metrics)
