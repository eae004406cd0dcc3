"""The outermost reward of a run: results checked, response length shaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from megatron_sppo.errors import UserError
from megatron_sppo.rewards.length import LengthPenalty
from megatron_sppo.rewards.protocol import Reward, Sample, Verdict


@dataclass(frozen=True)
class CheckedReward:
    """``reward`` with its result checked, less the penalty for long responses where there is one."""

    name: str
    reward: Reward
    length_penalty: LengthPenalty | None = None

    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        verdicts = self._checked(self.reward(samples), samples)
        if self.length_penalty is None:
            return verdicts
        return [self.length_penalty.applied(verdict, sample) for verdict, sample in zip(verdicts, samples, strict=True)]

    def _checked(self, result: Any, samples: Sequence[Sample]) -> list[Verdict]:
        try:
            verdicts = [_verdict(value) for value in result]
        except (TypeError, ValueError) as error:
            raise self._fault(f"returned {repr(result)[:80]}") from error
        if len(verdicts) != len(samples):
            raise self._fault(f"returned {len(verdicts)} values for {len(samples)} samples")
        bad = next((index for index, verdict in enumerate(verdicts) if not math.isfinite(verdict.reward)), None)
        if bad is not None:
            raise self._fault(f"returned {verdicts[bad].reward} for sample {bad} (gold {samples[bad].gold!r})")
        return verdicts

    def _fault(self, what: str) -> UserError:
        return UserError(f"reward.name={self.name!r} {what}; return one finite number or Verdict per sample, in order.")


def _verdict(value: Any) -> Verdict:
    return replace(value, reward=float(value.reward)) if isinstance(value, Verdict) else Verdict(float(value))
