"""Playing a policy: B trajectories, laid end to end as the rows of a :class:`Ragged`, whose "tokens" are their steps."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from megatron_sppo.control.environments import EnvironmentBatch
from megatron_sppo.control.networks import Policy
from megatron_sppo.control.tasks import Task, Transition
from megatron_sppo.ragged import Ragged


@dataclass(frozen=True)
class Trajectories:
    observations: Ragged  # [N, D] before each step
    actions: Ragged  # [N] int64 or [N, A]
    dense: Ragged  # [N] the expert's reward of each step
    successes_B: Tensor  # 1 or 0: the verified outcome

    @property
    def lengths(self) -> Tensor:
        return self.observations.lengths

    @property
    def start_states(self) -> Tensor:
        """The start states: what a prompt is to a language model."""
        return self.observations.values[self.observations.starts]


def address(*parts: int | str) -> int:
    """A seed from what it is for: randomness is a function of (seed, stage, update), so that a resumed run needs no generator."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def play(task: Task, batch: EnvironmentBatch, policy: Policy, seed: int, horizon: int = 0) -> Trajectories:
    """Sample one trajectory per environment of at most ``horizon`` steps (0: the task's own).

    A trajectory is what its environment shows until it ends by itself or the horizon is reached.
    """
    horizon = horizon or task.horizon
    num_rows = batch.num_envs
    noise = policy.noise(horizon, num_rows, torch.Generator().manual_seed(seed))
    sample = policy.sampler()
    observations_BD = batch.reset(address(seed, "start"))
    running_B = np.ones(num_rows, dtype=np.bool_)
    ended_B = np.zeros(num_rows, dtype=np.bool_)
    final_BD = observations_BD.copy()
    steps = []
    for t in range(horizon):
        actions = sample(observations_BD, noise[t])
        after_BD, native_B, terminated_B = batch.step(actions, running_B)
        transition = Transition(observations_BD, actions, after_BD, native_B, terminated_B)
        steps.append((observations_BD, actions, task.dense(transition), running_B))
        final_BD[running_B] = after_BD[running_B]
        ended_B = ended_B | (running_B & terminated_B)
        running_B = running_B & ~terminated_B
        observations_BD = after_BD
        if not running_B.any():
            break
    observations_TBD, actions_TB, dense_TB, running_TB = (
        torch.from_numpy(np.stack(column)) for column in zip(*steps, strict=True)
    )
    lengths, running_BT = running_TB.sum(0), running_TB.T

    def rows(per_step: Tensor) -> Ragged:
        return Ragged(per_step.transpose(0, 1)[running_BT], lengths)

    successes_B = torch.from_numpy(task.success(final_BD, ended_B).astype(np.float32))
    return Trajectories(rows(observations_TBD), rows(actions_TB), rows(dense_TB), successes_B)


def success_rate(task: Task, batch: EnvironmentBatch, policy: Policy, seed: int, episodes: int) -> float:
    """Of at least ``episodes`` episodes: as many whole batches as that takes."""
    rounds = -(-episodes // batch.num_envs)
    rates = [float(play(task, batch, policy, address(seed, i)).successes_B.mean()) for i in range(rounds)]
    return sum(rates) / rounds
