"""What stages 1 and 2 leave on disk for others, and the loop of stage 3."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from megatron_sppo.control.cloning import clone
from megatron_sppo.control.config import ControlConfig, fingerprint
from megatron_sppo.control.environments import make_batch
from megatron_sppo.control.expert import demonstrations, train_expert
from megatron_sppo.control.learning import Learner, terminal_rewards
from megatron_sppo.control.networks import Policy, new_critic, new_policy
from megatron_sppo.control.progress import Progress
from megatron_sppo.control.tasks import Task
from megatron_sppo.control.trajectories import address, play
from megatron_sppo.monitor.jsonl import JsonlFile


def expert_data(task: Task, config: ControlConfig, progress: Progress) -> tuple[dict[str, torch.Tensor], str]:
    """The demonstrations, and the fingerprint of what they came from; one expert serves all seeds."""
    name = fingerprint(config.task, config.network, config.expert)

    def build() -> dict[str, Any]:
        started = time.monotonic()
        policy = train_expert(task, config, progress)
        observations_ND, actions_N = demonstrations(task, config, policy)
        seconds = time.monotonic() - started
        return {"policy": policy.state_dict(), "observations": observations_ND, "actions": actions_N, "seconds": seconds}

    return _cached(Path(config.run_dir) / config.task / f"expert-{name}.pt", build), name


def warm_start(task: Task, config: ControlConfig, progress: Progress) -> tuple[Policy, str]:
    """The cloned policy of this seed, the same for every algorithm, and its fingerprint."""
    folder = Path(config.run_dir) / config.task
    name = fingerprint(config.task, config.network, config.expert, config.clone, config.seed)

    def build() -> dict[str, Any]:
        data, _ = expert_data(task, config, progress)
        started = time.monotonic()
        policy = clone(task, config, data["observations"], data["actions"], progress)
        return {"policy": policy.state_dict(), "seconds": time.monotonic() - started}

    saved = _cached(folder / f"warm-seed{config.seed}-{name}.pt", build)
    policy = new_policy(task, config.network, 0)
    policy.load_state_dict(saved["policy"])
    return policy, name


def finetune(task: Task, config: ControlConfig, policy: Policy, folder: Path, progress: Progress) -> None:
    """Stage 3 into ``folder``, from its checkpoint where there is one; ``policy`` is trained in place.

    Every draw is a function of (seed, update), so policy, critic, optimizers and a count are the whole state.
    """
    c, seed = config.rl, config.seed
    learner = Learner(config.algorithm, policy, new_critic(task, config.network, address("critic", seed)), c.ppo, c.critic_epochs)
    checkpoint = folder / "checkpoint.pt"
    done = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        learner.restore(saved["learner"])
        done = saved["done"]
        progress.note(f"goes on after update {done}")
    batch = make_batch(config.task, c.trajectories)
    recent: list[float] = []
    with JsonlFile(folder / "metrics.jsonl", first_step=done) as rows:
        for update in range(done, c.updates):
            started = time.monotonic()
            played = play(task, batch, policy, address("rl", seed, update))
            found = learner.update(played, terminal_rewards(played), address("rl order", seed, update))
            success, length = float(played.successes_B.mean()), float(played.lengths.double().mean())
            found = {"success": success, "length": length, "time/update": time.monotonic() - started, **found}
            rows.append({"step": update, **found})
            recent = [*recent, success][-10:]
            if (update + 1) % c.checkpoint_every == 0 or update + 1 == c.updates:
                _save({"learner": learner.state(), "done": update + 1}, checkpoint)
            text = f"success {sum(recent) / len(recent):.2f} (last {len(recent)} updates)"
            progress.show("rl", update + 1, c.updates, text)


def _cached(path: Path, build: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``path`` holds; made and written first where there is nothing."""
    if not path.exists():
        _save(build(), path)
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    return loaded


def _save(content: dict[str, Any], path: Path) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    torch.save(content, draft)
    draft.replace(path)
