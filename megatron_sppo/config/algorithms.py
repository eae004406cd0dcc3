"""What is known of each algorithm by its name: what its critic reads, and the paper's defaults (app. E) where they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from megatron_sppo.errors import UserError

if TYPE_CHECKING:
    from megatron_sppo.config.schema import Config


@dataclass(frozen=True)
class CriticForm:
    """``prompt``: one value, at the prompt's last token. ``response``: one before each response token."""

    reads: Literal["prompt", "response"]
    output: Literal["probability", "return"]  # V = sigmoid(logit), or V = logit


CRITICS: Mapping[str, CriticForm] = {
    "sppo": CriticForm("prompt", "probability"),
    "ppo": CriticForm("response", "return"),
    "ppo_bce": CriticForm("response", "probability"),
}

_TOKEN_CRITIC = {"critic.warmup_steps": 50, "critic.optimizer.lr": 1e-5, "algorithm.whiten_advantages": True}
_KL_IN_REWARD = {"algorithm.kl.coefficient": 0.001, "algorithm.kl.where": "reward", "algorithm.kl.estimator": "k1"}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "ppo": _TOKEN_CRITIC,
    "ppo_bce": _TOKEN_CRITIC,
    "grpo": {"algorithm.num_samples": 8},
    "rloo": {"algorithm.num_samples": 5, **_KL_IN_REWARD},
    "remax": _KL_IN_REWARD,
}


def critic_form(config: Config) -> CriticForm | None:
    """Of the config's algorithm; None where it has no critic."""
    return CRITICS.get(config.algorithm.name)


def check_algorithm(config: Config) -> None:
    """UserError where the algorithm's knobs contradict each other or the rest of the config; needs no file."""
    algorithm, rollout, name = config.algorithm, config.rollout, config.algorithm.name
    samples, rounds = algorithm.num_samples, algorithm.dynamic_sampling_rounds
    if name in {"grpo", "rloo"} and samples < 2:
        raise UserError(
            f"algorithm.num_samples={samples} leaves algorithm.name={name} no other response of a prompt to compare with: "
            f"set algorithm.num_samples={PRESETS[name]['algorithm.num_samples']}"
        )
    if rounds and samples < 2:
        raise UserError(
            f"algorithm.dynamic_sampling_rounds={rounds} keeps prompts whose responses differ and "
            f"algorithm.num_samples={samples} makes one: "
            "set algorithm.num_samples=8, or data.curriculum.by=variance, which asks the critic instead"
        )
    if rounds and rollout.max_staleness:
        raise UserError(
            f"algorithm.dynamic_sampling_rounds={rounds} grades a round before it asks for the next, which "
            "rollout.max_staleness=1 has no time for: set one of them to 0"
        )
    if rollout.stream and (name != "sppo" or samples > 1):
        raise UserError(
            f"rollout.stream=true trains on one response at a time but algorithm.name={name} with "
            f"algorithm.num_samples={samples} needs more: set algorithm.name=sppo with algorithm.num_samples=1, "
            "or rollout.stream=false"
        )
    _check_critic(config)


def _check_critic(config: Config) -> None:
    name, form = config.algorithm.name, critic_form(config)
    if form is None and config.critic.warmup_steps:
        raise UserError(
            f"critic.warmup_steps={config.critic.warmup_steps} keeps the actor still for a critic that "
            f"algorithm.name={name} does not have: set critic.warmup_steps=0"
        )
    by = config.data.curriculum.by
    if by != "off" and (form is None or form.reads != "prompt"):
        raise UserError(
            f"data.curriculum.by={by} asks a critic that reads the prompt alone and algorithm.name={name} has none: "
            "set data.curriculum.by=off or algorithm.name=sppo"
        )
