"""One task and seed of the control benchmark as a frozen value; the same file serves SPPO and PPO."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from megatron_sppo.config.bounds import CONTROL, check_bounds
from megatron_sppo.config.knobs import knob, section
from megatron_sppo.config.load import as_dict
from megatron_sppo.errors import UserError

TaskName = Literal["cartpole", "mountaincar", "hopper", "lunarlander", "pendulum"]
AlgorithmName = Literal["sppo", "ppo", "ppo_bce"]


@dataclass(frozen=True)
class NetworkConfig:
    hidden: tuple[int, ...] = knob((64, 64), "units of each hidden layer, of policy and critic alike")
    initial_log_std: float = knob(-0.5, "log of the Gaussian's deviation before any training, in units of the action's bound")


@dataclass(frozen=True)
class PPOConfig:
    """What one update does; the same for every algorithm."""

    actor_lr: float = knob(3e-4, "Adam's learning rate of the policy")
    critic_lr: float = knob(1e-3, "Adam's learning rate of V")
    epochs: int = knob(4, "passes over the trajectories of an update, for policy and critic alike")
    minibatches: int = knob(4, "gradient steps per pass, each on a share of the trajectories")
    clip: float = knob(0.2, "the paper's epsilon, on both sides")
    value_clip: float = knob(0.0, "clip of V around its value before the update, for the MSE critic; 0 = off")
    whiten_advantages: bool = knob(True, "GAE's advantages get mean 0 and deviation 1 per update; SPPO's never (eq. 1)")
    max_grad_norm: float = knob(0.5, "gradients of a longer norm are scaled down to it")
    gamma: float = knob(1.0, "discount per step (ppo, ppo_bce)")
    gae_lambda: float = knob(1.0, "GAE's lambda (ppo, ppo_bce)")


@dataclass(frozen=True)
class ExpertConfig:
    """Stage 1: step-level PPO on a dense shaped reward."""

    seed: int = knob(0, "seed of the expert, which all seeds of stages 2 and 3 share")
    horizon: int = knob(0, "steps of a training episode; 0 = the task's own horizon")
    trajectories: int = knob(32, "episodes per update")
    max_updates: int = knob(300, "give up after so many updates")
    target_success: float = knob(0.9, "stop once this share of episodes at the task's own horizon succeeds")
    check_every: int = knob(10, "updates between two looks at the success rate")
    check_episodes: int = knob(32, "episodes of such a look")
    reward_scale: float = knob(1.0, "factor on the dense reward")
    demonstrations: int = knob(64, "successful trajectories kept for stage 2")
    ppo: PPOConfig = section(PPOConfig, "its updates")


@dataclass(frozen=True)
class CloneConfig:
    """Stage 2: behaviour cloning, stopped early on purpose."""

    lr: float = knob(1e-3, "Adam's learning rate")
    batch_size: int = knob(256, "steps of demonstrations per gradient step")
    check_every: int = knob(20, "gradient steps between two looks at the success rate")
    check_episodes: int = knob(32, "episodes of such a look")
    target_success: float = knob(0.3, "stop once this share of episodes succeeds: the warm start is imperfect on purpose")
    max_steps: int = knob(4000, "give up after so many gradient steps")


@dataclass(frozen=True)
class RLConfig:
    """Stage 3: reinforcement learning on the binary terminal reward."""

    updates: int = knob(100, "updates of policy and critic")
    trajectories: int = knob(16, "trajectories per update")
    critic_epochs: int = knob(0, "passes of V over the trajectories of an update; 0 = rl.ppo.epochs, as many as the policy's")
    checkpoint_every: int = knob(10, "updates between two checkpoints")
    evaluation_episodes: int = knob(256, "episodes that measure the final policy, and the warm start")
    ppo: PPOConfig = section(PPOConfig, "its updates")


@dataclass(frozen=True)
class ControlConfig:
    task: TaskName = knob("cartpole", "which environment")
    algorithm: AlgorithmName = knob("sppo", "sppo: V(s_0) with BCE; ppo: V(s_t) with MSE and GAE; ppo_bce: V(s_t) with BCE")
    seed: int = knob(0, "of stages 2 and 3: start states, actions, initial weights, order of minibatches")
    run_dir: str = knob("runs/control", "folder of all runs; experts and warm starts are kept in it and shared")
    network: NetworkConfig = section(NetworkConfig, "policy and critic")
    expert: ExpertConfig = section(ExpertConfig, "stage 1")
    clone: CloneConfig = section(CloneConfig, "stage 2")
    rl: RLConfig = section(RLConfig, "stage 3")


def check(config: ControlConfig) -> None:
    """UserError for values that no run could have."""
    check_bounds(config, CONTROL)
    for stage, c in (("expert", config.expert), ("rl", config.rl)):
        if c.ppo.minibatches > c.trajectories:
            raise UserError(
                f"{stage}.ppo.minibatches={c.ppo.minibatches} cannot share out {stage}.trajectories={c.trajectories}: "
                f"set it to {c.trajectories} or less"
            )


def fingerprint(*parts: Any) -> str:
    """Eight hex digits that name these configs (or plain values)."""
    plain = [as_dict(part) if hasattr(part, "__dataclass_fields__") else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]
