"""Grade responses while others are still sampled (``reward.while_sampling``).

A rank grades what its own engine hands over, in one thread beside the engine; what has piled up meanwhile is one call of the
reward. The verdicts are those that :func:`~megatron_sppo.rewards.spread.grade_rollouts` would find; only when and where differ.
It pays where grading waits (for programs that run, for other processes): Python code of the reward itself takes turns with
the engine's.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from megatron_sppo.parallel.collectives import gather_objects
from megatron_sppo.rewards.protocol import Reward, Sample, Verdict
from megatron_sppo.rewards.spread import Graded, portable


class EarlyGrading:
    """The verdicts of one round of sampling. :meth:`finish` is collective and must be called in the end."""

    def __init__(self, reward: Reward) -> None:
        self._reward = reward
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reward")
        self._lock, self._waiting = Lock(), dict[int, Sample]()
        self._calls: list[Future[dict[int, Verdict]]] = []

    def submit(self, index: int, sample: Sample) -> None:
        """Response ``index`` is there; returns at once."""
        with self._lock:
            self._waiting[index] = sample
        self._calls.append(self._thread.submit(self._grade_waiting))

    def finish(self) -> tuple[Graded, float]:
        """Verdicts of all ranks' responses, and the share that was graded before this call. Raises what the reward raised."""
        early = _joined([call for call in self._calls if call.done()])
        found = _joined(self._calls)
        self._thread.shutdown()
        by_rank = gather_objects((found, len(early)))
        verdicts = {index: verdict for part, _ in by_rank for index, verdict in part.items()}
        num_early = sum(count for _, count in by_rank)
        return Graded(tuple(verdicts[index] for index in range(len(verdicts)))), num_early / max(1, len(verdicts))

    def _grade_waiting(self) -> dict[int, Verdict]:
        """{} where an earlier call took this one's response too."""
        with self._lock:
            samples, self._waiting = self._waiting, {}
        if not samples:
            return {}
        found = self._reward(list(samples.values()))
        return {index: portable(verdict) for index, verdict in zip(samples, found, strict=True)}


def _joined(calls: list[Future[dict[int, Verdict]]]) -> dict[int, Verdict]:
    return {index: verdict for call in calls for index, verdict in call.result().items()}
