"""Stage 2: behaviour cloning of the expert's successes, stopped while the policy is still imperfect."""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_sppo.control.config import ControlConfig
from megatron_sppo.control.environments import make_batch
from megatron_sppo.control.networks import Policy, new_policy
from megatron_sppo.control.progress import Progress
from megatron_sppo.control.tasks import Task
from megatron_sppo.control.trajectories import address, success_rate
from megatron_sppo.errors import UserError


def clone(task: Task, config: ControlConfig, observations_ND: Tensor, actions_N: Tensor, progress: Progress) -> Policy:
    """A policy that imitates the demonstrations just until its sampled success rate reaches ``clone.target_success``."""
    c, seed = config.clone, config.seed
    policy = new_policy(task, config.network, address("clone", "policy", seed))
    optimizer = torch.optim.Adam(policy.parameters(), lr=c.lr)
    batch = make_batch(config.task, c.check_episodes)
    drawn = torch.Generator().manual_seed(address("clone", seed))
    rate = 0.0
    for step in range(1, c.max_steps + 1):
        at = torch.randint(len(actions_N), (c.batch_size,), generator=drawn)
        loss = -policy.logprobs(observations_ND[at], actions_N[at]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % c.check_every == 0 or step == c.max_steps:
            rate = success_rate(task, batch, policy, address("clone check", seed, step), c.check_episodes)
            progress.show("clone", step, c.max_steps, f"loss {loss.item():.3f}, success {rate:.2f}")
            if rate >= c.target_success:
                break
    progress.note(f"clone: success {rate:.2f} after {step} gradient steps")
    if rate == 0.0:
        raise UserError(f"the clone of task={config.task} never succeeds after clone.max_steps={c.max_steps}: set it higher")
    return policy
