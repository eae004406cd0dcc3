"""Batches of environments that start together and are stepped together; nothing restarts before the batch is reset.

CartPole is gymnasium's vector environment. MountainCar and Pendulum have none there, so their two lines of dynamics are written
out over arrays, with the constants read off gymnasium's own environment (a test steps both side by side). Hopper and LunarLander
are stepped one by one, those alone that still run.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from megatron_sppo.control import gym
from megatron_sppo.control.config import TaskName
from megatron_sppo.control.tasks import Flags, Floats

Step = tuple[Floats, Floats, Flags]  # observations [B, D], the environment's own rewards [B], terminated [B]


class EnvironmentBatch(Protocol):
    num_envs: int

    def reset(self, seed: int) -> Floats:
        """[B, D] start states: a function of the seed alone."""
        ...

    def step(self, actions: NDArray[Any], running_B: Flags) -> Step:
        """What it says of a trajectory that does not run any more means nothing."""
        ...


def make_batch(task: TaskName, num_envs: int) -> EnvironmentBatch:
    """``num_envs`` environments; UserError where an extra is missing."""
    gymnasium = gym.require(task)
    match task:
        case "cartpole":
            return CartPoles(gymnasium, num_envs)
        case "mountaincar":
            return MountainCars(gymnasium, num_envs)
        case "pendulum":
            return Pendulums(gymnasium, num_envs)
        case "hopper":
            return Hoppers(gymnasium, num_envs)
    return LunarLanders(gymnasium, num_envs)


class CartPoles:
    def __init__(self, gymnasium: Any, num_envs: int) -> None:
        self.num_envs = num_envs
        self._env = gymnasium.make_vec("CartPole-v1", num_envs, vectorization_mode="vector_entry_point")

    def reset(self, seed: int) -> Floats:
        observations_BD: Floats = self._env.reset(seed=seed)[0]
        return observations_BD

    def step(self, actions: NDArray[Any], running_B: Flags) -> Step:
        observations_BD, rewards_B, terminated_B, _, _ = self._env.step(actions)
        return observations_BD, rewards_B, terminated_B


class MountainCars:
    def __init__(self, gymnasium: Any, num_envs: int) -> None:
        self.num_envs = num_envs
        self._c = gymnasium.make("MountainCarContinuous-v0").unwrapped

    def reset(self, seed: int) -> Floats:
        self._place_B = np.random.default_rng(seed).uniform(-0.6, -0.4, self.num_envs)
        self._speed_B = np.zeros(self.num_envs)
        return self._observations()

    def step(self, actions: NDArray[Any], running_B: Flags) -> Step:
        c = self._c
        force_B = np.clip(actions[:, 0], c.min_action, c.max_action)
        speed_B = np.clip(self._speed_B + force_B * c.power - 0.0025 * np.cos(3 * self._place_B), -c.max_speed, c.max_speed)
        self._place_B = np.clip(self._place_B + speed_B, c.min_position, c.max_position)
        self._speed_B = np.where((self._place_B == c.min_position) & (speed_B < 0), 0.0, speed_B)
        terminated_B = (self._place_B >= c.goal_position) & (self._speed_B >= c.goal_velocity)
        rewards_B = 100.0 * terminated_B - 0.1 * actions[:, 0] ** 2
        return self._observations(), rewards_B.astype(np.float32), terminated_B

    def _observations(self) -> Floats:
        return np.stack((self._place_B, self._speed_B), axis=1).astype(np.float32)


class Pendulums:
    def __init__(self, gymnasium: Any, num_envs: int) -> None:
        self.num_envs = num_envs
        self._c = gymnasium.make("Pendulum-v1").unwrapped

    def reset(self, seed: int) -> Floats:
        start_B2 = np.random.default_rng(seed).uniform((-np.pi, -1.0), (np.pi, 1.0), (self.num_envs, 2))
        self._angle_B, self._speed_B = start_B2[:, 0], start_B2[:, 1]
        return self._observations()

    def step(self, actions: NDArray[Any], running_B: Flags) -> Step:
        """An action of 1 is the largest torque."""
        c = self._c
        torque_B = np.clip(actions[:, 0].astype(np.float64) * c.max_torque, -c.max_torque, c.max_torque)
        turned_B = (self._angle_B + np.pi) % (2 * np.pi) - np.pi
        rewards_B = -(turned_B**2 + 0.1 * self._speed_B**2 + 0.001 * torque_B**2)
        gain_B = 3 * c.g / (2 * c.l) * np.sin(self._angle_B) + 3.0 / (c.m * c.l**2) * torque_B
        self._speed_B = np.clip(self._speed_B + gain_B * c.dt, -c.max_speed, c.max_speed)
        self._angle_B = self._angle_B + self._speed_B * c.dt
        return self._observations(), rewards_B.astype(np.float32), np.zeros(self.num_envs, dtype=np.bool_)

    def _observations(self) -> Floats:
        return np.stack((np.cos(self._angle_B), np.sin(self._angle_B), self._speed_B), axis=1).astype(np.float32)


class _OneByOne:
    """Environments without a batched form."""

    def __init__(self, envs: list[Any]) -> None:
        self.num_envs = len(envs)
        self._envs = envs

    def reset(self, seed: int) -> Floats:
        seeds = np.random.default_rng(seed).integers(2**31, size=self.num_envs).tolist()
        self._observations_BD = np.stack([self._start(*pair) for pair in zip(self._envs, seeds, strict=True)]).astype(np.float32)
        return self._observations_BD

    def step(self, actions: NDArray[Any], running_B: Flags) -> Step:
        observations_BD = self._observations_BD.copy()
        rewards_B, terminated_B = np.zeros(self.num_envs, dtype=np.float32), np.ones(self.num_envs, dtype=np.bool_)
        for i in np.flatnonzero(running_B):
            observations_BD[i], rewards_B[i], terminated_B[i], _, _ = self._envs[i].step(self._action(actions[i]))
        self._observations_BD = observations_BD
        return observations_BD, rewards_B, terminated_B

    def _start(self, env: Any, seed: int) -> Any:
        return env.reset(seed=seed)[0]

    def _action(self, action: Any) -> Any:
        return action


class Hoppers(_OneByOne):
    """With x as the observation's first number: the criterion asks for it."""

    def __init__(self, gymnasium: Any, num_envs: int) -> None:
        options = {"exclude_current_positions_from_observation": False, "disable_env_checker": True}
        super().__init__([gymnasium.make("Hopper-v5", **options).unwrapped for _ in range(num_envs)])

    def _action(self, action: Any) -> Any:
        return np.clip(action, -1.0, 1.0)


class LunarLanders(_OneByOne):
    def __init__(self, gymnasium: Any, num_envs: int) -> None:
        super().__init__([gymnasium.make("LunarLander-v3", disable_env_checker=True).unwrapped for _ in range(num_envs)])

    def _start(self, env: Any, seed: int) -> Any:
        """Terrain and first push are drawn; after that nothing is: the engines' dispersion would make transitions random."""
        observation = env.reset(seed=seed)[0]
        env.np_random = _Steady()
        return observation

    def _action(self, action: Any) -> Any:
        return int(action)


class _Steady:
    """A generator whose draws from symmetric ranges are their middle."""

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2
