"""Whether a response has the form asked for: reasoning, then one boxed answer."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_sppo.rewards.boxed import last_boxed
from megatron_sppo.rewards.protocol import Sample, Verdict

OPEN, CLOSE = "<think>", "</think>"


def form_of(sample: Sample) -> str:
    """What is wrong with the response's form; empty where nothing is.

    Right is ``reasoning</think>answer`` with exactly one ``</think>``, at most one ``<think>`` and that at the very start (R1's
    template writes it into the prompt), some text on both sides, and one finished box after it.
    """
    reasoning, close, answer = sample.response.partition(CLOSE)
    inside = reasoning.lstrip().removeprefix(OPEN)
    faults = (
        ("truncated", sample.truncated),
        ("no </think>", not close),
        ("thinks again", CLOSE in answer or OPEN in answer),
        ("misplaced <think>", OPEN in inside),
        ("no reasoning", not inside.strip()),
        ("no box", last_boxed(sample.response) is None),
        ("several boxes", answer.count("\\boxed") > 1),
    )
    return next((fault for fault, found in faults if found), "")


class FormatReward:
    """1 for the right form, 0 for any other. It says nothing about the answer: use it as a small term of a sum."""

    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        faults = [form_of(sample) for sample in samples]
        return [Verdict(float(not fault), reason=fault or "formatted") for fault in faults]
