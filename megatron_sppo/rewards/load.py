"""From ``reward.*`` to a reward: names, import paths, weighted sums, a choice by source."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from megatron_sppo.config.rewards import RewardConfig
from megatron_sppo.errors import UserError
from megatron_sppo.rewards.boxed import BoxedExact, BoxedNumeric
from megatron_sppo.rewards.checked import CheckedReward
from megatron_sppo.rewards.code.reward import CodeReward
from megatron_sppo.rewards.format import FormatReward
from megatron_sppo.rewards.length import LengthPenalty
from megatron_sppo.rewards.math.reward import MathReward, Reasoning360Reward
from megatron_sppo.rewards.mixture import BySource, Term, WeightedSum, heaviest_term, parse_terms
from megatron_sppo.rewards.protocol import Reward


def _reward_model(config: RewardConfig) -> Reward:
    from megatron_sppo.rewards.learned import RewardModel  # here: it imports transformers, which `plan` does without

    return RewardModel(config.model)


REWARDS: dict[str, Callable[[RewardConfig], Reward]] = {
    "math": lambda config: MathReward(),
    "math_reasoning360": lambda config: Reasoning360Reward(),
    "boxed_exact": lambda config: BoxedExact(),
    "boxed_numeric": lambda config: BoxedNumeric(),
    "code": lambda config: CodeReward(config.code),
    "model": _reward_model,
    "format": lambda config: FormatReward(),
}
MATH_GRADERS = ("math", "math_reasoning360", "boxed_exact", "boxed_numeric")


def load_reward(config: RewardConfig, max_response_tokens: int) -> CheckedReward:
    """What training optimises; UserError if ``config`` names something that does not exist."""
    penalty = LengthPenalty(config.overlong_penalty, config.overlong_buffer, max_response_tokens)
    return CheckedReward(config.name, _by_source(config, lambda terms: terms), penalty if config.overlong_penalty else None)


def load_accuracy(config: RewardConfig, knob: str = "reward.name") -> CheckedReward:
    """What validation reports: of each sum the term with the largest weight alone, no penalty; ``knob`` holds the name."""
    return CheckedReward(config.name, _by_source(config, lambda terms: (Term(1.0, heaviest_term(terms).name),), knob))


def _by_source(
    config: RewardConfig, chosen: Callable[[Sequence[Term]], Sequence[Term]], name_knob: str = "reward.name"
) -> Reward:
    def of(knob: str, expression: str) -> Reward:
        return _sum_of(config, knob, chosen(parse_terms(knob, expression)))

    otherwise = of(name_knob, config.name)
    if not config.by_source:
        return otherwise
    pairs = [_pattern_and_expression(entry) for entry in config.by_source]
    return BySource([pattern for pattern, _ in pairs], [of("reward.by_source", expression) for _, expression in pairs], otherwise)


def _pattern_and_expression(entry: str) -> tuple[str, str]:
    pattern, equals, expression = entry.partition("=")
    if not (pattern.strip() and equals and expression.strip()):
        raise UserError(f"reward.by_source={entry!r} is not source=reward; write for example taco*=code.")
    return pattern.strip(), expression.strip()


def _sum_of(config: RewardConfig, knob: str, terms: Sequence[Term]) -> Reward:
    rewards = [_one(config, knob, term.name) for term in terms]
    return rewards[0] if len(terms) == 1 and terms[0].weight == 1.0 else WeightedSum(terms, rewards)


def _one(config: RewardConfig, knob: str, name: str) -> Reward:
    factory = REWARDS.get(name)
    return factory(config) if factory is not None else import_reward(knob, name)


def check_names(config: RewardConfig) -> None:
    """UserError for a reward that is neither known nor an import path; imports and builds nothing."""
    by_source = [("reward.by_source", _pattern_and_expression(entry)[1]) for entry in config.by_source]
    for knob, expression in (("reward.name", config.name), *by_source):
        for term in parse_terms(knob, expression):
            if term.name not in REWARDS:
                _import_path(knob, term.name)


def _import_path(knob: str, name: str) -> tuple[str, str]:
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise UserError(f"{knob}={name!r} is neither {' nor '.join(REWARDS)} nor an import path; write package.module:attribute.")
    return module_name, attribute


def import_reward(knob: str, name: str) -> Reward:
    """``package.module:attribute``: a function, a callable object, or a class that is made without arguments."""
    module_name, attribute = _import_path(knob, name)
    try:
        found: Any = getattr(importlib.import_module(module_name), attribute, None)
    except ImportError as error:
        raise UserError(f"{knob}={name!r} cannot be imported ({error}); correct it or add its folder to PYTHONPATH.") from error
    if found is None:
        raise UserError(f"{knob}={name!r}: module {module_name} has no `{attribute}`; correct the name after the colon.")
    if inspect.isclass(found):
        found = instantiate(knob, name, found)
    if not callable(found):
        raise UserError(
            f"{knob}={name!r} cannot be called (type {type(found).__name__}); name a function or a class with __call__."
        )
    return found  # type: ignore[no-any-return]


def instantiate(knob: str, name: str, kind: type) -> Any:
    try:
        inspect.signature(kind).bind()
    except TypeError as error:
        raise UserError(f"{knob}={name!r} is a class that needs arguments ({error}); give them defaults.") from error
    return kind()
