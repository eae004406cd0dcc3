"""Stage 1: an expert from a dense shaped reward, and its successful trajectories."""

from __future__ import annotations

import torch

from megatron_sppo.control.config import ControlConfig
from megatron_sppo.control.environments import make_batch
from megatron_sppo.control.learning import Learner
from megatron_sppo.control.networks import Policy, new_critic, new_policy
from megatron_sppo.control.progress import Progress
from megatron_sppo.control.tasks import Task
from megatron_sppo.control.trajectories import Trajectories, address, play, success_rate
from megatron_sppo.errors import UserError


def train_expert(task: Task, config: ControlConfig, progress: Progress) -> Policy:
    """Step-level PPO until the target success rate; UserError where the updates run out at no success at all."""
    c = config.expert
    policy = new_policy(task, config.network, address("expert", "policy", c.seed))
    learner = Learner("ppo", policy, new_critic(task, config.network, address("expert", "critic", c.seed)), c.ppo)
    batch, checks = make_batch(config.task, c.trajectories), make_batch(config.task, c.check_episodes)
    rate = 0.0
    for update in range(c.max_updates):
        played = play(task, batch, policy, address("expert", c.seed, update), c.horizon)
        learner.update(played, played.dense.with_values(c.reward_scale * played.dense.values), address("order", c.seed, update))
        if (update + 1) % c.check_every == 0 or update + 1 == c.max_updates:
            rate = success_rate(task, checks, policy, address("expert check", c.seed, update), c.check_episodes)
            if rate >= c.target_success:
                break
        dense, length = float(played.dense.row_sums().mean()), float(played.lengths.double().mean())
        progress.show("expert", update + 1, c.max_updates, f"success {rate:.2f}, dense return {dense:.1f}, length {length:.0f}")
    progress.note(f"expert: success {rate:.2f} after {update + 1} updates")
    if rate == 0.0:
        raise UserError(f"task={config.task} has no expert after expert.max_updates={c.max_updates}: set it higher")
    return policy


def demonstrations(task: Task, config: ControlConfig, policy: Policy) -> tuple[torch.Tensor, torch.Tensor]:
    """(observations [N, D], actions [N, ...]) of the expert's first ``demonstrations`` successful trajectories."""
    c = config.expert
    batch = make_batch(config.task, c.check_episodes)
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    for round_ in range(100):
        kept += successes(play(task, batch, policy, address("demonstrations", c.seed, round_)))
        if len(kept) >= c.demonstrations:
            break
    chosen = kept[: c.demonstrations]
    if not chosen:
        raise UserError(f"the expert of task={config.task} never succeeds: raise expert.max_updates")
    return torch.cat([observations for observations, _ in chosen]), torch.cat([actions for _, actions in chosen])


def successes(played: Trajectories) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The filter of stage 2: (observations, actions) of each trajectory whose outcome is verified."""
    rows = zip(played.observations.rows(), played.actions.rows(), played.successes_B.tolist(), strict=True)
    return [(observations, actions) for observations, actions, success in rows if success]
