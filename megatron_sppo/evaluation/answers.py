"""Which of a problem's sampled answers are the same answer: the equivalence classes that maj@k votes over."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from megatron_sppo.rewards.boxed import last_boxed, parse_number
from megatron_sppo.rewards.protocol import Reward, Sample


def extracted(response: str) -> str | None:
    """The boxed answer; None, which abstains, where there is none."""
    return last_boxed(response)


def answer_classes(answers: Sequence[Sequence[str | None]], reward: Reward) -> list[list[int | None]]:
    """[P][K] class number of each answer, counted per problem in order of first appearance; None abstains.

    ``reward`` decides whether two spellings are the same by grading one against the other; equal texts and plain numbers
    need no grader. All questions of all problems go to it in one call.
    """
    questions = [(row, first, other) for row, found in enumerate(answers) for first, other in unsettled(found)]
    verdicts = reward([Sample("", f"\\boxed{{{other}}}", first, "", truncated=False) for _, first, other in questions])
    same = {question for question, verdict in zip(questions, verdicts, strict=True) if float(verdict) > 0.5}
    return [group(found, row, same) for row, found in enumerate(answers)]


def unsettled(answers: Sequence[str | None]) -> list[tuple[str, str]]:
    """Pairs of distinct texts, earlier one first, that only a grader can compare."""
    distinct = list(dict.fromkeys(answer for answer in answers if answer is not None))
    numbers = {answer: parse_number(answer) for answer in distinct}
    return [(a, b) for a, b in combinations(distinct, 2) if numbers[a] is None or numbers[b] is None]


def group(answers: Sequence[str | None], row: int, same: set[tuple[int, str, str]]) -> list[int | None]:
    """Each text joins the first class whose first member it equals."""
    heads: list[str] = []
    class_of: dict[str, int] = {}
    for answer in answers:
        if answer is None or answer in class_of:
            continue
        value = parse_number(answer)
        equal = (
            number
            for number, head in enumerate(heads)
            if (row, head, answer) in same or (value is not None and parse_number(head) == value)
        )
        class_of[answer] = next(equal, len(heads))
        if class_of[answer] == len(heads):
            heads.append(answer)
    return [None if answer is None else class_of[answer] for answer in answers]
