"""What a reward is given and must return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Sample:
    """One response to grade."""

    prompt: str
    response: str  # special tokens dropped; may lack `<think>`, which R1's template puts into the prompt
    gold: str
    source: str
    truncated: bool


class Reward(Protocol):
    """One finite number per sample, in order; success is 1 and failure 0 (SPPO's critic reads R as a probability)."""

    def __call__(self, samples: Sequence[Sample]) -> list[float]: ...
