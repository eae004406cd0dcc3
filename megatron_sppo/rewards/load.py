"""A reward from its name or import path, wrapped once: its result is checked and the overlong penalty applied."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megatron_sppo.config.schema import RewardConfig
from megatron_sppo.errors import UserError
from megatron_sppo.rewards.boxed import BoxedExact, BoxedNumeric
from megatron_sppo.rewards.math.reward import MathReward, Reasoning360Reward
from megatron_sppo.rewards.protocol import Reward, Sample

REWARDS: dict[str, type[Reward]] = {
    "math": MathReward,
    "math_reasoning360": Reasoning360Reward,
    "boxed_exact": BoxedExact,
    "boxed_numeric": BoxedNumeric,
}


@dataclass(frozen=True)
class CheckedReward:
    """``reward`` with its result checked, less ``overlong_penalty`` where the response was cut off."""

    name: str
    reward: Reward
    overlong_penalty: float

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        grades = self.grade(samples)
        return [grade - self.overlong_penalty * sample.truncated for grade, sample in zip(grades, samples, strict=True)]

    def grade(self, samples: Sequence[Sample]) -> list[float]:
        """The reward's own verdict, without the penalty (accuracy reads this)."""
        result = self.reward(samples)
        try:
            grades = [float(value) for value in result]
        except (TypeError, ValueError) as error:
            raise self._fault(f"returned {repr(result)[:80]}") from error
        if len(grades) != len(samples):
            raise self._fault(f"returned {len(grades)} values for {len(samples)} samples")
        bad = next((index for index, grade in enumerate(grades) if not math.isfinite(grade)), None)
        if bad is not None:
            raise self._fault(f"returned {grades[bad]} for sample {bad} (gold {samples[bad].gold!r})")
        return grades

    def _fault(self, what: str) -> UserError:
        return UserError(f"reward.name={self.name!r} {what}; return one finite number per sample, in order.")


def load_reward(config: RewardConfig) -> CheckedReward:
    """The reward that ``config`` names; :class:`UserError` if there is no such thing."""
    factory = REWARDS.get(config.name)
    reward = factory() if factory is not None else import_reward(config.name)
    return CheckedReward(config.name, reward, config.overlong_penalty)


def import_reward(name: str) -> Reward:
    """``package.module:attribute``: a function, a callable object, or a class that is made without arguments."""
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise UserError(
            f"reward.name={name!r} is neither {' nor '.join(REWARDS)} nor an import path; write package.module:attribute."
        )
    try:
        found: Any = getattr(importlib.import_module(module_name), attribute, None)
    except ImportError as error:
        raise UserError(
            f"reward.name={name!r} cannot be imported ({error}); correct it or add its folder to PYTHONPATH."
        ) from error
    if found is None:
        raise UserError(f"reward.name={name!r}: module {module_name} has no `{attribute}`; correct the name after the colon.")
    if inspect.isclass(found):
        found = instantiate(found, name)
    if not callable(found):
        raise UserError(
            f"reward.name={name!r} is a {type(found).__name__} and cannot be called; name a function or a class with __call__."
        )
    return found  # type: ignore[no-any-return]


def instantiate(kind: type, name: str) -> Any:
    try:
        inspect.signature(kind).bind()
    except TypeError as error:
        raise UserError(f"reward.name={name!r} is a class that needs arguments ({error}); give them defaults.") from error
    return kind()
