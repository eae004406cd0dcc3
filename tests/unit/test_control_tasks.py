"""What counts as a success, where the reward is, and whether the batched environments are gymnasium's."""

from __future__ import annotations

import math
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from megatron_sppo.config.load import load_config
from megatron_sppo.control import gym
from megatron_sppo.control.config import ControlConfig, NetworkConfig, check
from megatron_sppo.control.environments import MountainCars, Pendulums, make_batch
from megatron_sppo.control.learning import terminal_rewards
from megatron_sppo.control.networks import new_policy
from megatron_sppo.control.tasks import TASKS
from megatron_sppo.control.trajectories import play
from megatron_sppo.errors import UserError

EXAMPLES = Path(__file__).parents[2] / "examples" / "control"
PAPER = {"cartpole": (200, 64), "mountaincar": (1000, 8), "hopper": (1000, 8), "lunarlander": (1000, 16), "pendulum": (1000, 16)}


def half_degree(angle: float) -> list[float]:
    return [0.0, 0.0, math.radians(angle), 0.0]


@pytest.mark.parametrize(
    ("task", "final", "ended", "wanted"),
    [
        ("cartpole", half_degree(0.49), False, True),
        ("cartpole", half_degree(-0.49), False, True),
        ("cartpole", half_degree(0.51), False, False),
        ("cartpole", half_degree(0.1), True, False),  # the cart left the track
        ("mountaincar", [0.45, 0.01], True, True),
        ("mountaincar", [0.449, 0.01], False, False),
        ("hopper", [1.01, *[0.0] * 11], False, True),
        ("hopper", [1.01, *[0.0] * 11], True, False),  # far enough, but fell
        ("hopper", [0.99, *[0.0] * 11], False, False),
        ("lunarlander", [0.39, *[0.0] * 5, 1.0, 1.0], True, True),
        ("lunarlander", [-0.41, *[0.0] * 5, 1.0, 1.0], True, False),
        ("lunarlander", [0.0, *[0.0] * 5, 1.0, 0.0], True, False),
        ("pendulum", [0.81, 0.5, 0.0], False, True),
        ("pendulum", [0.79, 0.6, 0.0], False, False),
    ],
)
def test_success(task: str, final: list[float], ended: bool, wanted: bool) -> None:
    found = TASKS[task].success(np.array([final], dtype=np.float32), np.array([ended]))
    assert found.tolist() == [wanted]


@pytest.mark.parametrize("name", PAPER)
def test_horizons_and_trajectories_are_the_papers(name: str) -> None:
    horizon, trajectories = PAPER[name]
    config = load_config(ControlConfig, [EXAMPLES / f"{name}.yaml"])
    check(config)
    assert (config.task, TASKS[name].horizon, config.rl.trajectories) == (name, horizon, trajectories)
    assert (config.rl.ppo.gamma, config.rl.ppo.gae_lambda, config.rl.ppo.clip) == (1.0, 1.0, 0.2)


def test_the_reward_is_the_outcome_at_the_last_step_and_nothing_before() -> None:
    task = TASKS["cartpole"]
    played = play(task, make_batch("cartpole", 32), new_policy(task, NetworkConfig(), 0), seed=1)
    rewards = terminal_rewards(played)
    assert played.lengths.min() < played.lengths.max() <= 200
    for row, success in zip(rewards.rows(), played.successes_B.tolist(), strict=True):
        assert row[:-1].abs().sum() == 0 and row[-1] == success


def test_a_trajectory_ends_where_its_environment_does() -> None:
    """Its last state before the end is inside CartPole's bounds, whatever the batch does afterwards."""
    task = TASKS["cartpole"]
    played = play(task, make_batch("cartpole", 16), new_policy(task, NetworkConfig(), 0), seed=2)
    angles = torch.cat([row[:, 2] for row in played.observations.rows()])
    assert angles.abs().max() <= math.radians(12)
    assert all(row[-1] == 0 for row in played.dense.rows()), "each of these fell, which its last dense reward says"


@pytest.mark.parametrize("name", ["cartpole", "mountaincar", "pendulum"])
def test_the_same_seed_plays_the_same_trajectories(name: str) -> None:
    task, policy = TASKS[name], new_policy(TASKS[name], NetworkConfig(), 0)
    batch = make_batch(name, 4)
    first, other = play(task, batch, policy, seed=3, horizon=100), play(task, batch, policy, seed=4, horizon=100)
    again = play(task, make_batch(name, 4), policy, seed=3, horizon=100)
    assert torch.equal(first.observations.values, again.observations.values)
    assert torch.equal(first.actions.values, again.actions.values)
    assert not torch.equal(first.start_states, other.start_states)


def test_batched_pendulums_are_gymnasiums() -> None:
    batch, one = Pendulums(gymnasium, 3), gymnasium.make("Pendulum-v1").unwrapped
    batch.reset(0)
    one.reset(seed=0)
    one.state = np.array([batch._angle_B[1], batch._speed_B[1]])
    for t in range(200):
        action = np.full((3, 1), 1.3 * math.sin(0.1 * t), dtype=np.float32)
        observations, rewards, _ = batch.step(action, np.ones(3, dtype=np.bool_))
        wanted, reward, *_ = one.step(action[1].astype(np.float64) * 2.0)
        np.testing.assert_allclose(observations[1], wanted, atol=1e-5)
        assert rewards[1] == pytest.approx(reward, abs=1e-5)


def test_batched_mountain_cars_are_gymnasiums() -> None:
    batch, one = MountainCars(gymnasium, 2), gymnasium.make("MountainCarContinuous-v0").unwrapped
    start = batch.reset(0)
    one.reset(seed=0)
    one.state = start[1].astype(np.float64)
    ends = []
    for _ in range(300):
        push = np.sign(start[:, 1:]) + (start[:, 1:] == 0)
        start, rewards, terminated = batch.step(push.astype(np.float32), np.ones(2, dtype=np.bool_))
        wanted, reward, end, *_ = one.step(push[1].astype(np.float32))
        np.testing.assert_allclose(start[1], wanted, atol=1e-4)
        assert rewards[1] == pytest.approx(reward, abs=1e-4) and terminated[1] == end
        ends.append(end)
        if end:
            break
    assert ends[-1], "a push along the speed reaches the flag"


@pytest.mark.parametrize(("name", "module", "size"), [("hopper", "mujoco", 12), ("lunarlander", "Box2D", 8)])
def test_environments_of_the_extras_are_deterministic(name: str, module: str, size: int) -> None:
    pytest.importorskip(module)
    task, policy = TASKS[name], new_policy(TASKS[name], NetworkConfig(), 0)
    first, again = (play(task, make_batch(name, 3), policy, seed=5) for _ in range(2))
    assert first.observations.values.shape[1] == size
    assert torch.equal(first.observations.values, again.observations.values)


def test_a_missing_extra_is_one_sentence_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gym.MODULES, "hopper", ("gymnasium", "no_such_simulator"))
    with pytest.raises(
        UserError, match=r"task=hopper needs the package no_such_simulator: pip install 'megatron_sppo\[control\]'"
    ):
        gym.require("hopper")


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("rl.updates=0", "rl.updates=0 must be at least 1: set rl.updates=100"),
        ("rl.ppo.minibatches=9", "cannot share out rl.trajectories=8"),
        (
            "network.hidden=[]",
            r"network.hidden=\(\) must be one or more layers of 1 or more units: set network.hidden=\[32, 32\]",
        ),
        ("rl.ppo.clip=0", "rl.ppo.clip=0.0 must be strictly between 0 and 1: set rl.ppo.clip=0.2"),
        ("expert.ppo.gamma=0", r"expert.ppo.gamma=0.0 must be in \(0, 1\]: set expert.ppo.gamma=1.0"),
        ("clone.target_success=0", r"clone.target_success=0.0 must be in \(0, 1\]: set clone.target_success=0.3"),
    ],
)
def test_mistakes(override: str, wanted: str) -> None:
    with pytest.raises(UserError, match=wanted):
        check(load_config(ControlConfig, [EXAMPLES / "mountaincar.yaml"], [override]))
