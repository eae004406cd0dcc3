"""DAPO's overlong reward shaping (arXiv 2503.14476, eq. 13): the last tokens before the length limit cost more and more."""

from __future__ import annotations

from dataclasses import dataclass, replace

from megatron_sppo.rewards.protocol import Sample, Verdict


@dataclass(frozen=True)
class LengthPenalty:
    """0 up to ``limit - buffer`` response tokens, then rising linearly to ``penalty`` at ``limit``; cut off costs all of it.

    DAPO's setting is penalty 1, limit 20,480, buffer 4,096. With a buffer of 0 only truncated responses pay.
    """

    penalty: float
    buffer: int  # tokens
    limit: int  # rollout.max_response_tokens

    def __call__(self, sample: Sample) -> float:
        if sample.truncated:
            return self.penalty
        if not self.buffer:
            return 0.0
        excess = sample.num_tokens - (self.limit - self.buffer)
        return self.penalty * min(max(excess / self.buffer, 0.0), 1.0)

    def applied(self, verdict: Verdict, sample: Sample) -> Verdict:
        """The verdict less the penalty, which becomes one of its parts."""
        penalty = self(sample)
        return replace(verdict, reward=verdict.reward - penalty, parts={**verdict.parts, "length_penalty": penalty})
