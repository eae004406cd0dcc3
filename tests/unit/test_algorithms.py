"""The baselines as objects: what they sample, how they assign credit, and what their critics learn."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from megatron_sppo.algorithms import build_algorithm
from megatron_sppo.algorithms.base import Algorithm, ValueInputs
from megatron_sppo.batch import Outcomes, Prompts, Rollouts
from megatron_sppo.config.algorithms import PRESETS
from megatron_sppo.config.arithmetic import check
from megatron_sppo.config.load import load_config
from megatron_sppo.config.schema import Config
from megatron_sppo.errors import UserError
from megatron_sppo.ragged import Ragged

PROMPTS = Prompts(("a:0", "a:1"), ("x", "y"), ("1", "2"), ("a", "a"), Ragged.from_rows([[1, 2], [3]], torch.int64))
LENGTHS = torch.tensor([3, 1, 2, 2])
OLD = Ragged(torch.tensor([-1.0, -0.5, -0.25, -2.0, -0.125, -1.5, -0.75, -0.5]), LENGTHS)
REFERENCE = OLD.with_values(torch.tensor([-1.5, -0.5, -0.5, -1.0, -0.125, -1.0, -0.25, -1.0]))
RESPONSES = OLD.with_values(torch.arange(8))
ROLLOUTS = Rollouts(PROMPTS, torch.tensor([0, 0, 1, 1]), RESPONSES, OLD, torch.zeros(4, dtype=torch.bool), ("p", "q", "r", "s"))
REWARDS = torch.tensor([1.0, 0.0, 1.0, 1.0])
TOKEN_VALUES = OLD.with_values(torch.tensor([0.5, 0.75, 0.25, 0.5, 0.5, 1.0, 0.0, 0.25]))
PROMPT_VALUES = Ragged(torch.tensor([0.5, 0.25, 0.75, 0.5]), torch.ones(4, dtype=torch.int64))
NO_VALUES = Ragged(torch.empty(0), torch.zeros(4, dtype=torch.int64))


def config(*overrides: str) -> Config:
    return load_config(Config, [], ["actor.path=a", "data.train=[t.jsonl]", *overrides])


def algorithm(*overrides: str) -> Algorithm:
    return build_algorithm(config(*overrides))


def outcomes(values: Ragged, greedy: list[float] | None = None) -> Outcomes:
    greedy_B = torch.tensor(greedy) if greedy else torch.zeros(4)
    return Outcomes(ROLLOUTS, REWARDS, greedy_B, values, OLD, REFERENCE)


def rows(advantages: Ragged) -> list[list[float]]:
    return [row.tolist() for row in advantages.rows()]


@pytest.mark.parametrize(
    ("name", "samples", "greedy", "reads", "needs_reference"),
    [
        ("sppo", 1, False, "prompt", False),
        ("ppo", 1, False, "response", False),
        ("ppo_bce", 1, False, "response", False),
        ("grpo", 8, False, None, False),
        ("rloo", 5, False, None, True),
        ("remax", 1, True, None, True),
    ],
)
def test_each_algorithm_starts_from_the_papers_defaults(
    name: str, samples: int, greedy: bool, reads: str | None, needs_reference: bool
) -> None:
    found = algorithm(f"algorithm.name={name}")
    plan = found.sampling(3)
    assert (plan.num_samples, plan.greedy_baseline, plan.responses_per_prompt) == (samples, greedy, samples + greedy)
    assert (found.critic.reads if found.critic else None) == reads
    assert found.needs_reference == needs_reference


def test_what_somebody_wrote_goes_over_an_algorithms_defaults() -> None:
    written = config("algorithm.num_samples=4", "algorithm.name=grpo")
    assert written.algorithm.num_samples == 4, "in whatever order"
    assert config("algorithm.name=ppo", "critic.warmup_steps=0").critic.warmup_steps == 0
    assert config("algorithm.name=ppo").critic.optimizer.lr == 1e-5 and config().critic.optimizer.lr == 5e-6
    for name, preset in PRESETS.items():
        assert set(preset) <= set(_keys()), name


def _keys() -> list[str]:
    from megatron_sppo.config.load import describe

    return [knob.key for knob in describe(Config)]


def test_ppo_spreads_credit_over_tokens_by_gae() -> None:
    found = algorithm("algorithm.name=ppo", "algorithm.whiten_advantages=false").assign_credit(outcomes(TOKEN_VALUES))
    assert rows(found.actor.advantages) == [[0.5, 0.25, 0.75], [-0.5], [0.5, 0.0], [1.0, 0.75]], (
        "return less V at gamma = lambda = 1"
    )
    assert found.critic is not None
    assert rows(found.critic.targets) == [[1.0, 1.0, 1.0], [0.0], [1.0, 1.0], [1.0, 1.0]]
    assert found.critic.values is TOKEN_VALUES


def test_ppo_with_lambda_0_looks_one_token_ahead() -> None:
    ppo = algorithm("algorithm.name=ppo", "algorithm.whiten_advantages=false", "algorithm.gae_lambda=0", "algorithm.gamma=0.5")
    first = rows(ppo.assign_credit(outcomes(TOKEN_VALUES)).actor.advantages)[0]
    assert first == [0.5 * 0.75 - 0.5, 0.5 * 0.25 - 0.75, 1.0 - 0.25]


def test_ppo_whitens_by_default() -> None:
    found = algorithm("algorithm.name=ppo").assign_credit(outcomes(TOKEN_VALUES)).actor.advantages.values
    assert float(found.mean()) == pytest.approx(0, abs=1e-6) and float(found.std(correction=0)) == pytest.approx(1, abs=1e-5)


def test_a_kl_in_the_reward_reaches_ppo_token_by_token() -> None:
    kl = ("algorithm.kl.coefficient=0.1", "algorithm.kl.where=reward", "algorithm.kl.estimator=k1")
    found = algorithm("algorithm.name=ppo", "algorithm.whiten_advantages=false", *kl).assign_credit(outcomes(TOKEN_VALUES))
    k1 = [-1.0 + 1.5, 0.0, -0.25 + 0.5]
    to_go = [1.0 - 0.1 * sum(k1[t:]) for t in range(3)]
    assert rows(found.actor.advantages)[0] == pytest.approx([g - v for g, v in zip(to_go, [0.5, 0.75, 0.25], strict=True)])
    assert found.critic is not None and rows(found.critic.targets)[0] == pytest.approx(to_go)


@pytest.mark.parametrize("name", ["sppo", "ppo", "ppo_bce", "grpo"])
def test_credit_without_a_kl_in_the_reward_needs_no_logprobs(name: str) -> None:
    """With actor.reuse_first_forward they are known only in the update: NaN stands for them."""
    given = outcomes(PROMPT_VALUES if name == "sppo" else TOKEN_VALUES)
    unknown = replace(given, old_logprobs=given.old_logprobs.with_values(torch.full_like(given.old_logprobs.values, torch.nan)))
    samples = ("algorithm.num_samples=2",) if name == "grpo" else ()
    chosen = algorithm(f"algorithm.name={name}", *samples)
    found, expected = (chosen.assign_credit(each) for each in (unknown, given))
    assert torch.equal(found.actor.advantages.values, expected.actor.advantages.values)
    assert found.critic is None or torch.equal(found.critic.targets.values, expected.critic.targets.values)


def test_the_critic_of_ppo_with_bce_learns_probabilities() -> None:
    kl = ("algorithm.kl.coefficient=1", "algorithm.kl.where=reward", "algorithm.kl.estimator=k1")
    found = algorithm("algorithm.name=ppo_bce", *kl).assign_credit(outcomes(TOKEN_VALUES))
    assert found.critic is not None
    assert float(found.critic.targets.values.min()) >= 0 and float(found.critic.targets.values.max()) <= 1
    loss = algorithm("algorithm.name=ppo_bce").critic_loss(
        ValueInputs(torch.tensor([2]), torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))
    )
    assert loss.weight == 2 and float(loss.total) == pytest.approx(math.log(2) + math.log(1 + math.exp(2)))


def test_the_critic_of_ppo_learns_returns_within_its_clip() -> None:
    logits = torch.tensor([0.9, 0.2], requires_grad=True)
    seen = ValueInputs(torch.tensor([2]), logits, torch.tensor([1.0, 1.0]), torch.tensor([0.1, 0.3]))
    loss = algorithm("algorithm.name=ppo", "algorithm.value_clip=0.5").critic_loss(seen)
    assert float(loss.total.detach()) == pytest.approx((0.4**2 + 0.8**2) / 2), "the first is held at 0.6"
    loss.total.backward()
    assert logits.grad is not None and logits.grad.tolist() == pytest.approx([0.0, -0.8])
    assert loss.metrics["critic/mse"].value() == pytest.approx((0.4**2 + 0.8**2) / 2)
    assert loss.metrics["critic/value_clip_fraction"].value() == 0.5


def test_grpo_compares_with_the_group() -> None:
    found = algorithm("algorithm.name=grpo", "algorithm.num_samples=2").assign_credit(outcomes(NO_VALUES))
    scale = 0.5 / (math.sqrt(0.5) + 1e-6)
    want = [[scale] * 3, [-scale], [0.0] * 2, [0.0] * 2]
    assert [pytest.approx(row) for row in want] == rows(found.actor.advantages)
    assert found.critic is None
    dr = algorithm("algorithm.name=grpo", "algorithm.num_samples=2", "algorithm.normalize_std=false")
    assert rows(dr.assign_credit(outcomes(NO_VALUES)).actor.advantages) == [[0.5] * 3, [-0.5], [0.0] * 2, [0.0] * 2]


def test_rloo_takes_the_kl_out_of_the_reward_before_it_compares() -> None:
    found = algorithm("algorithm.name=rloo", "algorithm.num_samples=2", "algorithm.kl.coefficient=0.1")
    kl = [row.sum().item() for row in OLD.with_values(OLD.values - REFERENCE.values).rows()]
    rewards = [r - 0.1 * k for r, k in zip(REWARDS.tolist(), kl, strict=True)]
    want = [rewards[0] - rewards[1], rewards[1] - rewards[0], rewards[2] - rewards[3], rewards[3] - rewards[2]]
    advantages = rows(found.assign_credit(outcomes(NO_VALUES)).actor.advantages)
    assert [row[0] for row in advantages] == pytest.approx(want, abs=1e-6)


def test_remax_compares_with_the_greedy_response() -> None:
    remax = algorithm("algorithm.name=remax", "algorithm.kl.coefficient=0")
    found = remax.assign_credit(outcomes(NO_VALUES, greedy=[1.0, 1.0, 0.0, 0.0])).actor.advantages
    assert rows(found) == [[0.0] * 3, [-1.0], [1.0] * 2, [1.0] * 2]
    with_kl = algorithm("algorithm.name=remax", "algorithm.kl.coefficient=0.1")
    first = rows(with_kl.assign_credit(outcomes(NO_VALUES, greedy=[1.0] * 4)).actor.advantages)[0]
    k1 = [-1.0 + 1.5, 0.0, -0.25 + 0.5]
    assert first == pytest.approx([-0.1 * sum(k1[t:]) for t in range(3)], abs=1e-6), "what is still to come at each token"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("algorithm.name=grpo", "algorithm.num_samples=1"), "set algorithm.num_samples=8"),
        (("algorithm.name=rloo", "algorithm.num_samples=1"), "set algorithm.num_samples=5"),
        (("algorithm.dynamic_sampling_rounds=3",), "set algorithm.num_samples=8, or data.curriculum.by=variance"),
        (("algorithm.name=grpo", "critic.warmup_steps=2"), "set critic.warmup_steps=0"),
        (("algorithm.name=rloo", "data.curriculum.by=band"), "set data.curriculum.by=off"),
        (("algorithm.name=ppo", "data.curriculum.by=variance"), "set data.curriculum.by=off"),
        (("algorithm.num_samples=0",), "algorithm.num_samples=0 must be at least 1"),
        (("algorithm.gamma=0",), "algorithm.gamma=0.0 must be in (0, 1]"),
        (("algorithm.gae_lambda=1.5",), "algorithm.gae_lambda=1.5 must be in [0, 1]"),
        (("algorithm.value_clip=-1",), "algorithm.value_clip=-1.0 must be at least 0"),
        (("algorithm.name=a2c",), "pick one of sppo, ppo, ppo_bce, grpo, rloo, remax"),
        (
            ("rollout.placement=separate", "rollout.num_ranks=1", "rollout.stream=true", "algorithm.name=grpo"),
            "rollout.stream=true trains on one response at a time",
        ),
    ],
)
def test_what_contradicts_itself_is_told_with_its_mending(overrides: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        check(config(*overrides), 2, "cpu")
    assert sentence in str(caught.value)


def test_mini_batches_count_every_sample() -> None:
    given: dict[str, Any] = {"world_size": 1, "device": "cpu"}
    assert check(config("algorithm.name=grpo", "prompts_per_step=16", "actor.mini_batch_size=128"), **given) is not None
    with pytest.raises(UserError, match="does not divide the 128 responses of a step"):
        check(config("algorithm.name=grpo", "prompts_per_step=16", "actor.mini_batch_size=96"), **given)
    check(config("algorithm.name=grpo", "prompts_per_step=16", "critic.tp=3"), **given)  # a critic that is not built
