"""What a reward is given and must return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Sample:
    """One response to grade."""

    prompt: str  # as the policy saw it, chat template and all
    response: str  # special tokens dropped; may lack `<think>`, which R1's template puts into the prompt
    gold: str
    source: str
    truncated: bool
    num_tokens: int = 0  # of the response
    messages: tuple[tuple[str, str], ...] = ()  # (role, content) of the data row's prompt, for another model's template


@dataclass(frozen=True)
class Verdict:
    """A reward with what there is to say about it; ``reason`` is one of a few words, counted in the metrics."""

    reward: float
    answer: str | None = None
    reason: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)  # terms of a sum, penalties: each is a metric of its own

    def __float__(self) -> float:
        return self.reward


class Reward(Protocol):
    """One finite number or :class:`Verdict` per sample, in order.

    Success is 1 and failure 0: SPPO's critic reads R as a probability, and what lies outside [0, 1] is clamped for it (not
    for the advantage) and counted in ``critic/target_clamped``.
    """

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float | Verdict]: ...
