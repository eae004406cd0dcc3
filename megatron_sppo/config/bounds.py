"""The range of each numeric knob, as a table: one line per knob, checked before anything is built."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from megatron_sppo.config.code_limits import MINIMA
from megatron_sppo.errors import UserError


@dataclass(frozen=True)
class Bound:
    key: str
    holds: Callable[[Any], bool]
    wanted: str  # completes "<key>=<value> must be ..."
    fix: str = ""  # completes "set <key>=..."; empty: the default


def at_least(least: float, *keys: str) -> tuple[Bound, ...]:
    return tuple(Bound(key, lambda value: value >= least, f"at least {least}") for key in keys)


def _optimizer(section: str) -> tuple[Bound, ...]:
    return (
        *at_least(0, f"{section}.warmup_steps"),
        Bound(f"{section}.lr", lambda lr: lr >= 0, "0 or more", "1e-6"),
        Bound(f"{section}.min_lr", lambda lr: lr >= 0, "0 or more", "0"),
        Bound(f"{section}.weight_decay", lambda decay: decay >= 0, "0 or more", "0.01"),
        Bound(f"{section}.beta1", lambda beta: 0 <= beta < 1, "in [0, 1)", "0.9"),
        Bound(f"{section}.beta2", lambda beta: 0 <= beta < 1, "in [0, 1)", "0.999"),
        Bound(f"{section}.eps", lambda eps: eps > 0, "above 0", "1e-8"),
        Bound(f"{section}.clip_grad", lambda norm: norm >= 0, "0 (off) or more", "1.0"),
    )


def _model(section: str) -> tuple[Bound, ...]:
    sizes = [f"{section}.{name}" for name in ("tp", "pp", "cp", "micro_batch_tokens", "logprob_chunk_tokens")]
    counts = [f"{section}.{name}" for name in ("mini_batch_size", "fp8.bf16_first_layers", "fp8.bf16_last_layers")]
    return (*at_least(1, *sizes), *at_least(0, *counts), *_optimizer(f"{section}.optimizer"))


def _sampling(section: str) -> tuple[Bound, ...]:
    return (Bound(f"{section}.top_p", lambda top_p: 0 < top_p <= 1, "in (0, 1]", "1.0"),)


TRAINING: tuple[Bound, ...] = (
    *_model("actor"),
    *_model("critic"),
    *at_least(1, "steps", "prompts_per_step", "actor.epochs", "critic.epochs", "rollout.tp", "rollout.max_prompt_tokens"),
    *at_least(1, "rollout.max_response_tokens", "rollout.max_num_seqs", "validation.samples", "checkpoint.keep_last"),
    *at_least(0, "critic.warmup_steps", "rollout.max_num_batched_tokens", "rollout.verify_weights_every", "validation.every"),
    *at_least(0, "profile.first_step", "profile.last_step"),
    *at_least(0, "rollout.num_ranks", "validation.limit", "validation.dump_samples", "checkpoint.every"),
    *_sampling("rollout"),
    *_sampling("validation"),
    Bound("rollout.max_staleness", lambda updates: updates in {0, 1}, "0 or 1", "1"),
    Bound("rollout.reshard_cap_mib", lambda mib: mib >= 1, "at least 1", "32"),
    Bound("collective_timeout_minutes", lambda minutes: 1 <= minutes <= 1440, "from 1 to 1440 (a day)", "30"),
    Bound("critic.prior", lambda prior: 0 < prior < 1, "strictly between 0 and 1", "0.5"),
    *at_least(1, "algorithm.num_samples"),
    *at_least(0, "algorithm.dynamic_sampling_rounds", "algorithm.value_clip"),
    Bound("algorithm.gamma", lambda discount: 0 < discount <= 1, "in (0, 1]", "1.0"),
    Bound("algorithm.gae_lambda", lambda share: 0 <= share <= 1, "in [0, 1]", "1.0"),
    Bound("algorithm.clip_low", lambda clip: 0 < clip < 1, "strictly between 0 and 1", "0.2"),
    Bound("algorithm.clip_high", lambda clip: clip > 0, "above 0", "0.2"),
    Bound("algorithm.dual_clip", lambda clip: clip == 0 or clip > 1, "0 (off) or above 1", "3"),
    Bound("algorithm.entropy_coefficient", lambda weight: weight >= 0, "0 or more", "0"),
    Bound("algorithm.kl.coefficient", lambda weight: weight >= 0, "0 (off) or more", "0.001"),
    Bound("algorithm.importance_sampling.truncate", lambda bound: bound >= 0, "0 (off) or more", "2"),
    Bound("algorithm.importance_sampling.mask_above", lambda bound: bound == 0 or bound > 1, "0 (off) or above 1", "5"),
    Bound("rollout.temperature", lambda value: value > 0, "above 0 (training needs samples, not the greedy text)", "0.6"),
    Bound("rollout.top_k", lambda top_k: top_k == -1 or top_k >= 1, "-1 (off) or at least 1", "-1"),
    Bound("rollout.gpu_memory_utilization", lambda share: 0 < share <= 1, "in (0, 1]", "0.8"),
    Bound("rollout.cpu_kv_cache_gib", lambda size: size > 0, "above 0", "1.0"),
    Bound("rollout.max_logprob_gap", lambda gap: gap > 0, "above 0", "0.5"),
    Bound("reward.overlong_penalty", lambda penalty: penalty >= 0, "0 or more", "0"),
    *at_least(1, "data.curriculum.pool"),
    Bound("data.curriculum.low", lambda value: 0 <= value <= 1, "in [0, 1]", "0.1"),
    Bound("data.curriculum.high", lambda value: 0 <= value <= 1, "in [0, 1]", "0.9"),
    Bound("data.curriculum.uniform", lambda share: 0 <= share <= 1, "in [0, 1]", "0.1"),
    *at_least(0, "reward.overlong_buffer", "reward.model.label"),
    *(bound for knob, least in MINIMA.items() for bound in at_least(least, f"reward.code.{knob}")),
    Bound("reward.model.low", math.isfinite, "a finite number", "-5"),
    Bound("reward.model.high", math.isfinite, "a finite number", "5"),
    *at_least(1, "reward.model.max_tokens", "reward.model.batch_tokens"),
    Bound("validation.temperature", lambda value: value >= 0, "0 (greedy) or more", "0.6"),
)

SFT: tuple[Bound, ...] = (
    *_model("model"),
    *at_least(1, "steps", "batch_size", "data.max_tokens"),
    *at_least(0, "validate_every"),
)

EVAL: tuple[Bound, ...] = (
    *at_least(1, "samples", "max_tokens", "tp", "chunk", "max_num_seqs"),
    *at_least(0, "limit"),
    Bound("temperature", lambda value: value >= 0, "0 (greedy) or more", "0.6"),
    Bound("top_p", lambda top_p: 0 < top_p <= 1, "in (0, 1]", "1.0"),
    Bound("gpu_memory_utilization", lambda share: 0 < share <= 1, "in (0, 1]", "0.9"),
    Bound("cpu_kv_cache_gib", lambda size: size > 0, "above 0", "1.0"),
)


def _control_ppo(stage: str) -> tuple[Bound, ...]:
    """A stage's PPO settings; what TRAINING allows of the same knob, and the control benchmark's own."""
    section = f"{stage}.ppo"
    return (
        *at_least(1, f"{section}.epochs", f"{section}.minibatches"),
        *at_least(0, f"{section}.actor_lr", f"{section}.critic_lr", f"{section}.value_clip"),
        Bound(f"{section}.clip", lambda clip: 0 < clip < 1, "strictly between 0 and 1", "0.2"),
        Bound(f"{section}.max_grad_norm", lambda norm: norm > 0, "above 0", "0.5"),
        Bound(f"{section}.gamma", lambda discount: 0 < discount <= 1, "in (0, 1]", "1.0"),
        Bound(f"{section}.gae_lambda", lambda share: 0 <= share <= 1, "in [0, 1]", "1.0"),
    )


CONTROL: tuple[Bound, ...] = (
    *at_least(
        1, *(f"expert.{name}" for name in ("trajectories", "max_updates", "check_every", "check_episodes", "demonstrations"))
    ),
    *at_least(1, *(f"clone.{name}" for name in ("batch_size", "max_steps", "check_every", "check_episodes"))),
    *at_least(1, *(f"rl.{name}" for name in ("updates", "trajectories", "checkpoint_every", "evaluation_episodes"))),
    *at_least(0, "expert.horizon", "clone.lr", "rl.critic_epochs"),
    Bound("network.hidden", lambda units: len(units) > 0 and min(units) > 0, "one or more layers of 1 or more units", "[32, 32]"),
    Bound("expert.target_success", lambda share: 0 < share <= 1, "in (0, 1]", "0.9"),
    Bound("clone.target_success", lambda share: 0 < share <= 1, "in (0, 1]", "0.3"),
    *_control_ppo("expert"),
    *_control_ppo("rl"),
)


def check_bounds(config: Any, bounds: Sequence[Bound]) -> None:
    """UserError for the first knob outside its range; a NaN is outside of every range."""
    for bound in bounds:
        value = attrgetter(bound.key)(config)
        if not bound.holds(value):
            fix = bound.fix or attrgetter(bound.key)(type(config)())
            raise UserError(f"{bound.key}={value} must be {bound.wanted}: set {bound.key}={fix}")
