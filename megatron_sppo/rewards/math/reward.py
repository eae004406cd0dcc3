"""The math grader behind the reward protocol."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from megatron_sppo.rewards.math import GraderName, grade_detailed
from megatron_sppo.rewards.math.workers import shared_pool
from megatron_sppo.rewards.protocol import Sample, Verdict


class MathReward:
    """1 for a right answer, 0 for everything else; the reasons are those of the grader."""

    grader: GraderName = "strict"

    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        """Threads wait for workers; what needs none is graded at once."""
        with ThreadPoolExecutor(shared_pool().size) as threads:
            return list(threads.map(lambda sample: grade_detailed(sample.gold, sample.response, self.grader), samples))


class Reasoning360Reward(MathReward):
    """The paper's grader with its faults; for reproduction."""

    grader: GraderName = "reasoning360"
