"""SPPO as an object: its sampling plan, its credit and its losses on one micro-batch."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from megatron_sppo.actor import loss_of_first_forward
from megatron_sppo.algorithms import build_algorithm
from megatron_sppo.algorithms.base import PolicyInputs, ValueInputs
from megatron_sppo.algorithms.sppo import SPPO
from megatron_sppo.batch import ActorBatch, CriticBatch, Outcomes, Prompts, Rollouts
from megatron_sppo.config.algorithms import CriticForm
from megatron_sppo.config.schema import AlgorithmConfig, Config, ImportanceSamplingConfig, KLConfig, RolloutConfig
from megatron_sppo.ragged import Ragged

LIMIT = 5
PROMPTS = Prompts(("a:0", "a:1"), ("x", "y"), ("1", "2"), ("a", "a"), Ragged.from_rows([[1, 2], [3]], torch.int64))
RESPONSES = Ragged.from_rows([[4, 5, 6], [7]], torch.int64)
ENGINE = Ragged.from_rows([[-1.0, -1.2, -0.2], [-0.4]], torch.float32)
OLD = Ragged.from_rows([[-1.1, -1.0, -0.2], [-0.5]], torch.float32)
REFERENCE = Ragged.from_rows([[-0.6, -1.5, -0.2], [-1.5]], torch.float32)
ROLLOUTS = Rollouts(PROMPTS, torch.tensor([0, 1]), RESPONSES, ENGINE, torch.tensor([False, False]), ("p", "q"))
REWARDS, VALUES = torch.tensor([1.0, 0.0]), torch.tensor([0.25, 0.5])


def sppo(**overrides: Any) -> SPPO:
    return SPPO(AlgorithmConfig(**overrides), RolloutConfig(max_response_tokens=LIMIT), seed=3)


def credit(algorithm: SPPO, rewards_B: torch.Tensor, reference: Ragged) -> tuple[CriticBatch, ActorBatch]:
    values = Ragged(VALUES, torch.ones(2, dtype=torch.int64))
    found = algorithm.assign_credit(Outcomes(ROLLOUTS, rewards_B, torch.zeros(2), values, OLD, reference))
    assert found.critic is not None
    return found.critic, found.actor


def inputs(now: list[float]) -> PolicyInputs:
    return PolicyInputs(
        lengths_S=RESPONSES.lengths,
        logprobs_N=torch.tensor(now, requires_grad=True),
        entropy_N=torch.tensor([0.5, 0.6, 0.7, 0.8], requires_grad=True),
        old_logprobs_N=OLD.values,
        engine_logprobs_N=ENGINE.values,
        reference_logprobs_N=REFERENCE.values,
        advantages_N=torch.tensor([0.75, 0.75, 0.75, -0.5]),
    )


def test_one_sample_per_prompt_at_the_rollout_temperature() -> None:
    algorithm = build_algorithm(Config(rollout=RolloutConfig(temperature=0.9, top_p=0.8, stop_token_ids=(7,))))
    plan = algorithm.sampling(step=4)
    assert (plan.num_samples, plan.temperature, plan.top_p, plan.stop_token_ids) == (1, 0.9, 0.8, (7,))
    assert algorithm.critic == CriticForm("prompt", "probability") and not algorithm.needs_reference


def test_seeds_of_steps_and_runs_differ() -> None:
    seeds = {SPPO(AlgorithmConfig(), RolloutConfig(), seed=s).sampling(step).seed for s in range(5) for step in range(200)}
    assert len(seeds) == 1000


def test_credit_is_reward_less_value_at_every_token() -> None:
    critic, actor = credit(sppo(), REWARDS, OLD)
    assert [row.tolist() for row in actor.advantages.rows()] == [[0.75, 0.75, 0.75], [-0.5]]
    assert critic.targets.values.tolist() == [1.0, 0.0] and critic.values.values.tolist() == [0.25, 0.5]
    assert [row.tolist() for row in critic.prompt_tokens.rows()] == [[1, 2], [3]]
    assert actor.old_logprobs is OLD and actor.engine_logprobs is ENGINE


def test_kl_in_the_reward_reaches_the_advantage_and_not_the_critic() -> None:
    algorithm = sppo(kl=KLConfig(coefficient=0.1, where="reward", estimator="k1"))
    assert algorithm.needs_reference
    critic, actor = credit(algorithm, REWARDS, REFERENCE)
    kl = [(-1.1 + 0.6) + (-1.0 + 1.5) + 0.0, -0.5 + 1.5]
    want = [[0.75 - 0.1 * kl[0]] * 3, [-0.5 - 0.1 * kl[1]]]
    for row, expected in zip(actor.advantages.rows(), want, strict=True):
        torch.testing.assert_close(row, torch.tensor(expected))
    assert critic.targets.values.tolist() == [1.0, 0.0]
    quiet = credit(sppo(kl=KLConfig(coefficient=0.1, where="loss")), REWARDS, REFERENCE)[1]
    assert quiet.advantages.rows()[0].tolist() == [0.75] * 3


def test_a_reward_below_zero_counts_in_the_advantage_and_is_a_failure_to_the_critic() -> None:
    critic, actor = credit(sppo(), torch.tensor([1.0, -0.5]), OLD)
    assert actor.advantages.rows()[1].tolist() == [-1.0]
    assert critic.targets.values.tolist() == [1.0, 0.0]


NOW = [-1.1 + math.log(1.5), -1.0 + math.log(0.9), -0.2, -0.5 + math.log(0.7)]  # ratios 1.5, 0.9, 1, 0.7


def test_actor_loss_and_its_metrics_on_paper() -> None:
    loss = sppo().actor_loss(inputs(NOW))
    want = -(1.2 * 0.75) - 0.9 * 0.75 - 0.75 + 0.8 * 0.5  # clipped high, free, free, clipped low
    assert loss.weight == 4 and float(loss.total.detach()) == pytest.approx(want, abs=1e-6)
    values = {name: metric.value() for name, metric in loss.metrics.items()}
    assert values["actor/clip_fraction_high"] == values["actor/clip_fraction_low"] == 0.25
    assert values["actor/ratio_max"] == pytest.approx(1.5, abs=1e-5)
    assert values["actor/entropy"] == pytest.approx(0.65) and values["actor/mismatch_weight"] == 1.0
    assert values["actor/kl_rollout"] == pytest.approx(sum(r - 1 - math.log(r) for r in (1.5, 0.9, 1.0, 0.7)) / 4, abs=1e-6)


@pytest.mark.parametrize(
    ("mode", "weight"), [("token-mean", 4), ("seq-mean-token-mean", 2), ("seq-mean-token-sum", 2), ("fixed-length", 2 * LIMIT)]
)
def test_the_weight_of_each_aggregation(mode: str, weight: int) -> None:
    loss = sppo(aggregation=mode).actor_loss(inputs(NOW))
    assert loss.weight == weight


def test_the_first_forward_is_its_own_old_policy() -> None:
    """NaN in place of the old log-probs is not read; gradient and loss are those of old log-probs that equal the present ones."""
    algorithm = sppo(importance_sampling=ImportanceSamplingConfig(truncate=2.0))
    now = [-1.0, -0.9, -0.3, -0.4]
    unknown, known = inputs(now), replace(inputs(now), old_logprobs_N=torch.tensor(now))
    unknown = replace(unknown, old_logprobs_N=torch.full((4,), math.nan))
    found, want = loss_of_first_forward(algorithm.actor_loss)(unknown), algorithm.actor_loss(known)
    for loss in (found, want):
        loss.total.backward()
    assert found.total.item() == want.total.item() and torch.equal(unknown.logprobs_N.grad, known.logprobs_N.grad)
    assert found.metrics["actor/ratio_max"].value() == 1.0
    gap_N = torch.tensor(now) - ENGINE.values
    assert found.metrics["mismatch/logprob_abs_mean"].value() == pytest.approx(float(gap_N.abs().mean()))
    assert found.metrics["mismatch/logprob_abs_max"].value() == pytest.approx(0.3)
    assert found.metrics["mismatch/kl"].value() == pytest.approx(float((gap_N.exp() - 1 - gap_N).mean()))


def test_extra_terms_add_up() -> None:
    base = float(sppo().actor_loss(inputs(NOW)).total.detach())
    with_entropy = sppo(entropy_coefficient=0.01).actor_loss(inputs(NOW))
    assert float(with_entropy.total.detach()) == pytest.approx(base - 0.01 * 2.6, abs=1e-6)
    with_kl = sppo(kl=KLConfig(coefficient=0.1, where="loss", estimator="k2")).actor_loss(inputs(NOW))
    k2 = sum((q - p) ** 2 / 2 for p, q in zip(NOW, REFERENCE.values.tolist(), strict=True))
    assert float(with_kl.total.detach()) == pytest.approx(base + 0.1 * k2, abs=1e-6)
    in_reward = sppo(kl=KLConfig(coefficient=0.1, where="reward")).actor_loss(inputs(NOW))
    assert float(in_reward.total.detach()) == base


def test_importance_weights_scale_the_surrogate_alone() -> None:
    correction = ImportanceSamplingConfig(truncate=1.1, mask_above=1.15)
    weights = [math.exp(-0.1), 0.0, 1.0, math.exp(-0.1)]  # exp(0.2) is above the mask
    loss = sppo(importance_sampling=correction, entropy_coefficient=0.5).actor_loss(inputs(NOW))
    terms = [-1.2 * 0.75, -0.9 * 0.75, -0.75, 0.8 * 0.5]
    want = sum(w * t for w, t in zip(weights, terms, strict=True)) - 0.5 * 2.6
    assert float(loss.total.detach()) == pytest.approx(want, abs=1e-6)


def test_the_entropy_graph_is_used_with_the_bonus_alone() -> None:
    plain, bonus = inputs(NOW), inputs(NOW)
    sppo().actor_loss(plain).total.backward()
    sppo(entropy_coefficient=0.25).actor_loss(bonus).total.backward()
    assert plain.entropy_N.grad is None
    assert bonus.entropy_N.grad is not None and bonus.entropy_N.grad.tolist() == [-0.25] * 4


def test_the_sequence_ratio_clips_whole_responses() -> None:
    now = [-1.1 + 0.5, -1.0 - 0.1, -0.2 + 0.5, -0.5]  # mean log ratio 0.3 and 0
    loss = sppo(ratio="sequence").actor_loss(inputs(now))
    assert float(loss.total.detach()) == pytest.approx(-3 * 1.2 * 0.75 + 0.5, abs=1e-6)
    assert loss.metrics["actor/clip_fraction_high"].value() == 0.75


def test_critic_loss_is_a_sum_over_prompts() -> None:
    logits = torch.tensor([0.0, 2.0], requires_grad=True)
    loss = sppo().critic_loss(ValueInputs(torch.tensor([1, 1]), logits, REWARDS, VALUES))
    assert loss.weight == 2
    assert float(loss.total.detach()) == pytest.approx(math.log(2) + math.log(1 + math.exp(2)), abs=1e-6)
    loss.total.backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.sigmoid(logits.detach()) - REWARDS)


def test_dual_clip_bounds_the_loss_of_a_bad_response() -> None:
    drifted = replace(inputs(NOW), logprobs_N=torch.tensor([-1.1, -1.0, -0.2, -0.5 + math.log(9)]))
    assert float(sppo().actor_loss(drifted).total) == pytest.approx(-3 * 0.75 + 9 * 0.5, abs=1e-5)
    assert float(sppo(dual_clip=3.0).actor_loss(drifted).total) == pytest.approx(-3 * 0.75 + 3 * 0.5, abs=1e-5)
