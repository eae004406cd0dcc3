"""The math grader behind the reward protocol."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from megatron_sppo.rewards.math import GraderName, Verdict, grade_detailed
from megatron_sppo.rewards.math.grader import NO_BOX, TIMEOUT, TOO_LONG, UNREADABLE
from megatron_sppo.rewards.math.workers import shared_pool
from megatron_sppo.rewards.protocol import Sample

COUNTED = {NO_BOX: "no_box", UNREADABLE: "unreadable", TOO_LONG: "unreadable", TIMEOUT: "timeouts"}


class MathReward:
    """1 for a right answer, 0 for everything else. ``metrics`` describes the last call, ``totals`` counts over all of them."""

    grader: GraderName = "strict"

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self.metrics: dict[str, float] = {}

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        started = time.perf_counter()
        verdicts = self.verdicts(samples)
        self._count(verdicts, time.perf_counter() - started)
        return [verdict.reward for verdict in verdicts]

    def verdicts(self, samples: Sequence[Sample]) -> list[Verdict]:
        """Threads wait for workers; what needs none is graded at once."""
        with ThreadPoolExecutor(shared_pool().size) as threads:
            return list(threads.map(lambda sample: grade_detailed(sample.gold, sample.response, self.grader), samples))

    def _count(self, verdicts: Sequence[Verdict], seconds: float) -> None:
        counts = Counter(COUNTED[verdict.reason] for verdict in verdicts if verdict.reason in COUNTED)
        counts["right"] = sum(verdict.reward == 1.0 for verdict in verdicts)
        counts["graded"] = len(verdicts)
        self.totals.update(counts)
        share = {name: counts[name] / max(1, len(verdicts)) for name in ("no_box", "unreadable", "timeouts")}
        self.metrics = {"accuracy": counts["right"] / max(1, len(verdicts)), **share, "seconds": seconds}


class Reasoning360Reward(MathReward):
    """The paper's grader with its faults; for reproduction."""

    grader: GraderName = "reasoning360"
