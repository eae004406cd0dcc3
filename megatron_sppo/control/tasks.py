"""The five tasks as a table: horizon, what counts as a success, and the dense reward of the expert.

Criteria are functions of the final state, so that an outcome can be verified from a trajectory alone. Shape legend: B
trajectories, D numbers of an observation, A numbers of an action. Horizons and criteria are those of arXiv 2604.08865, sec. 5.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Transition:
    """One step of every trajectory."""

    before_BD: Floats
    action_B: NDArray[np.generic]  # [B] of a discrete task, [B, A] of a continuous one
    after_BD: Floats
    native_B: Floats  # the environment's own reward
    terminated_B: Flags


@dataclass(frozen=True)
class Actions:
    """One of ``kinds``, or ``size`` numbers in units of their bound."""

    kinds: int = 0
    size: int = 0


@dataclass(frozen=True)
class Task:
    title: str
    horizon: int
    criterion: str  # in words, for tables and plots
    actions: Actions
    scale_D: tuple[float, ...]  # observations are divided by it before a network reads them
    dense: Callable[[Transition], Floats]  # [B] reward of stage 1
    success: Callable[[Floats, Flags], Flags]  # (final observations [B, D], ended before the horizon [B]) -> [B]


def _upright(t: Transition) -> Floats:
    """CartPole: 1 for an upright pole in the middle, less with angle and distance, and nothing after a fall."""
    angle_B, place_B = np.abs(t.after_BD[:, 2]), np.abs(t.after_BD[:, 0])
    return np.where(t.terminated_B, 0.0, 1.0 - angle_B / math.radians(12) - 0.2 * place_B / 2.4).astype(np.float32)


def _speed_bonus(t: Transition) -> Floats:
    """MountainCar: speed pays, and the flag pays more than going on would."""
    return (10.0 * np.abs(t.after_BD[:, 1]) + 100.0 * t.terminated_B).astype(np.float32)


def _native(t: Transition) -> Floats:
    return t.native_B


def _fixed_angle(final_BD: Floats, fell_B: Flags) -> Flags:
    return (np.abs(final_BD[:, 2]) <= math.radians(0.5)) & ~fell_B


def _at_flag(final_BD: Floats, _ended_B: Flags) -> Flags:
    return final_BD[:, 0] >= np.float32(0.45)


def _alive_and_forward(final_BD: Floats, fell_B: Flags) -> Flags:
    return (final_BD[:, 0] > 1.0) & ~fell_B


def _on_the_pad(final_BD: Floats, _ended_B: Flags) -> Flags:
    return (final_BD[:, 6] > 0.5) & (final_BD[:, 7] > 0.5) & (np.abs(final_BD[:, 0]) < 0.4)


def _pointing_up(final_BD: Floats, _ended_B: Flags) -> Flags:
    return final_BD[:, 0] > 0.8


_HOPPER_SCALE = (4.0, 1.0, 0.3, 0.5, 0.5, 0.5, 2.0, 2.0, 2.0, 4.0, 4.0, 4.0)

TASKS: Mapping[str, Task] = {
    "cartpole": Task(
        "Precision CartPole",
        200,
        "no fall, and the pole within 0.5 degrees",
        Actions(kinds=2),
        (2.4, 2.0, 0.21, 2.0),
        _upright,
        _fixed_angle,
    ),
    "mountaincar": Task("MountainCar", 1000, "car at x >= 0.45", Actions(size=1), (1.0, 0.07), _speed_bonus, _at_flag),
    "hopper": Task(
        "Hopper", 1000, "no fall, and x > 1 m at the end", Actions(size=3), _HOPPER_SCALE, _native, _alive_and_forward
    ),
    "lunarlander": Task(
        "LunarLander", 1000, "both legs down with |x| < 0.4 at the end", Actions(kinds=4), (1.0,) * 8, _native, _on_the_pad
    ),
    "pendulum": Task("Pendulum", 1000, "cos(angle) > 0.8 at the end", Actions(size=1), (1.0, 1.0, 4.0), _native, _pointing_up),
}
