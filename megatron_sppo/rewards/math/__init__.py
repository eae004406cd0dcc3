r"""Math grader: ``grade(gold, response)`` is 1.0 where the response's last ``\boxed{}`` holds the gold's value, else 0.0."""

from __future__ import annotations

from typing import Literal, TypeAlias

from megatron_sppo.rewards.math.grader import Verdict, grade_strict

GraderName: TypeAlias = Literal["strict", "reasoning360"]
__all__ = ["GraderName", "Verdict", "grade", "grade_detailed"]


def grade(gold: str, response: str, grader: GraderName = "strict") -> float:
    return grade_detailed(gold, response, grader).reward


def grade_detailed(gold: str, response: str, grader: GraderName = "strict") -> Verdict:
    """Callable from any thread. Never raises on what ``gold`` and ``response`` hold."""
    if grader == "reasoning360":
        from megatron_sppo.rewards.math.reasoning360 import grade_reasoning360

        return grade_reasoning360(gold, response)
    return grade_strict(gold, response)
