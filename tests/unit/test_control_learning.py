"""The update is the LLM trainer's: SPPO is PPO with BCE where a trajectory has one step, and credit is what the paper says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from megatron_sppo.control.config import NetworkConfig, PPOConfig
from megatron_sppo.control.learning import Learner, terminal_rewards
from megatron_sppo.control.networks import new_critic, new_policy
from megatron_sppo.control.tasks import TASKS
from megatron_sppo.control.trajectories import Trajectories
from megatron_sppo.ragged import Ragged

TASK, NETWORK = TASKS["cartpole"], NetworkConfig(hidden=(8,))
CONFIG = PPOConfig(whiten_advantages=False)


def trajectories(lengths: list[int]) -> Trajectories:
    draw = torch.Generator().manual_seed(0)
    count, rows = sum(lengths), torch.tensor(lengths)
    return Trajectories(
        Ragged(torch.randn(count, 4, generator=draw), rows),
        Ragged(torch.randint(2, (count,), generator=draw), rows),
        Ragged(torch.randn(count, generator=draw), rows),
        torch.tensor([float(i % 3 == 0) for i in range(len(lengths))]),
    )


def learner(algorithm: str, config: PPOConfig = CONFIG) -> Learner:
    return Learner(algorithm, new_policy(TASK, NETWORK, 1), new_critic(TASK, NETWORK, 2), config)


def test_sppo_is_ppo_with_bce_at_horizon_one() -> None:
    played = trajectories([1] * 12)
    sppo, ppo = learner("sppo"), learner("ppo_bce")
    for update in range(3):
        sppo.update(played, terminal_rewards(played), update)
        ppo.update(played, terminal_rewards(played), update)
    for left, right in zip((sppo.policy, sppo.critic), (ppo.policy, ppo.critic), strict=True):
        for name, weight in left.state_dict().items():
            torch.testing.assert_close(weight, right.state_dict()[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("critic_epochs", [1, 3])
def test_the_critic_may_have_passes_of_its_own(critic_epochs: int) -> None:
    """Of the policy's two passes nothing changes; the critic goes as far as one whose updates have that many passes."""
    played = trajectories([4] * 12)
    parts = (new_policy(TASK, NETWORK, 1), new_critic(TASK, NETWORK, 2))
    own, two, as_many = (
        Learner("sppo", *parts, replace(CONFIG, epochs=2), critic_epochs),
        learner("sppo", replace(CONFIG, epochs=2)),
        learner("sppo", replace(CONFIG, epochs=critic_epochs)),
    )
    for each in (own, two, as_many):
        each.update(played, terminal_rewards(played), 0)
    same = ((own.policy, two.policy, as_many.policy), (own.critic, as_many.critic, two.critic))
    for found, expected, other in same:
        for name, weight in found.state_dict().items():
            assert torch.equal(weight, expected.state_dict()[name])
        assert not torch.equal(found.state_dict()["body.layers.0.weight"], other.state_dict()["body.layers.0.weight"])


def test_sppo_is_not_ppo_beyond_horizon_one() -> None:
    played = trajectories([4] * 12)
    sppo, ppo = learner("sppo"), learner("ppo_bce")
    sppo.update(played, terminal_rewards(played), 0)
    ppo.update(played, terminal_rewards(played), 0)
    name = "body.layers.0.weight"
    assert not torch.allclose(sppo.policy.state_dict()[name], ppo.policy.state_dict()[name], atol=1e-5)


def test_sppo_gives_every_step_the_outcome_less_the_value_of_the_start() -> None:
    played, sppo = trajectories([3, 1, 5]), learner("sppo")
    credit = sppo.assign_credit(played, terminal_rewards(played))
    with torch.no_grad():
        values = sppo.critic(played.start_states).sigmoid()
    for row, outcome, value in zip(credit.advantages.rows(), played.successes_B, values, strict=True):
        torch.testing.assert_close(row, (outcome - value).expand(len(row)))
    assert torch.equal(credit.critic_states.values, played.start_states)
    assert torch.equal(credit.critic_targets.values, played.successes_B)


@pytest.mark.parametrize("algorithm", ["ppo", "ppo_bce"])
def test_ppo_gives_each_step_the_outcome_less_its_own_value(algorithm: str) -> None:
    """GAE with gamma = lambda = 1."""
    played, ppo = trajectories([3, 1, 5]), learner(algorithm)
    credit = ppo.assign_credit(played, terminal_rewards(played))
    outcomes = torch.repeat_interleave(played.successes_B, played.lengths)
    with torch.no_grad():
        outputs = ppo.critic(played.observations.values)
    values = outputs.sigmoid() if algorithm == "ppo_bce" else outputs
    torch.testing.assert_close(credit.advantages.values, outcomes - values, atol=1e-6, rtol=0)
    torch.testing.assert_close(credit.critic_targets.values, outcomes, atol=1e-6, rtol=0)


def test_whitening_is_for_steps_alone() -> None:
    played, white = trajectories([3, 1, 5]), replace(CONFIG, whiten_advantages=True)
    ppo = learner("ppo", white).assign_credit(played, terminal_rewards(played)).advantages.values
    assert abs(float(ppo.mean())) < 1e-6 and float(ppo.std(correction=0)) == pytest.approx(1, abs=1e-4)
    plain, same = (learner("sppo", c).assign_credit(played, terminal_rewards(played)) for c in (CONFIG, white))
    assert torch.equal(plain.advantages.values, same.advantages.values)


@pytest.mark.parametrize("name", ["cartpole", "pendulum"])
def test_arrays_sample_what_torch_would(name: str) -> None:
    """Play reads weights as arrays; log-probs come from torch: they must be of one policy."""
    task = TASKS[name]
    policy = new_policy(task, NETWORK, 3)
    observations = torch.randn(50, len(task.scale_D), generator=torch.Generator().manual_seed(1))
    noise = policy.noise(1, 50, torch.Generator().manual_seed(2))[0]
    actions = torch.from_numpy(policy.sampler()(observations.numpy(), noise))
    with torch.no_grad():
        outputs = policy.body(observations)
    if name == "cartpole":
        assert torch.equal(actions, (outputs + torch.from_numpy(noise)).argmax(-1))
    else:
        torch.testing.assert_close(actions, outputs + policy.log_std_A.detach().exp() * torch.from_numpy(noise))
