"""The strict grader: fail closed, exact, numbers first, text never evaluated."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from megatron_sppo.rewards.math.ast import Node
from megatron_sppo.rewards.math.bounds import MAX_CHARACTERS, TooComplex, Unreadable
from megatron_sppo.rewards.math.compare import same
from megatron_sppo.rewards.math.extract import last_box
from megatron_sppo.rewards.math.judge import Judge
from megatron_sppo.rewards.math.meaning import Interpreter
from megatron_sppo.rewards.math.numbers import plain_number
from megatron_sppo.rewards.math.parser import parse
from megatron_sppo.rewards.math.presentation import bare, choice, choice_letter
from megatron_sppo.rewards.math.tokenizer import Reading
from megatron_sppo.rewards.math.words import same_words, words_of
from megatron_sppo.rewards.math.workers import Pool, shared_pool
from megatron_sppo.rewards.protocol import Verdict

NO_BOX, UNREADABLE, DIFFERENT, TIMEOUT, TOO_LONG = "no box", "unreadable", "different", "timeout", "too long"
SIGNED_EXPONENT = re.compile(r"[0-9][eE][+-][0-9]")
LETTER_UNIT = re.compile(r"(?:[ ~]|\\[,;: ])[a-zA-Z][\s.$]*(?:\^\{?[2-3]\}?)?[\s.$]*$|(?:[ ~]|\\[,;: ])[a-zA-Z]/[a-zA-Z]")
UNIT_QUOTIENT = re.compile(r"[0-9] +[a-zA-Z]/[a-zA-Z](?:\^\{?[2-3]\}?)?$")  # `9.8 m/s^2`
PHRASES = {
    "all real numbers": r"\mathbb{R}", "all reals": r"\mathbb{R}", "real numbers": r"\mathbb{R}",
    "infinity": r"\infty", "empty set": r"\emptyset", "no solution": r"\emptyset", "no solutions": r"\emptyset",
}  # fmt: skip


def grade_strict(gold: str, response: str, pool: Pool | None = None) -> Verdict:
    """The reason says which comparison decided: "same text", "number", "words", "mathematics" for right answers."""
    answer = last_box(response)
    if answer is None:
        return Verdict(0.0, None, NO_BOX)
    right, reason = compare_answers(gold.strip(), answer, pool)
    return Verdict(float(right), answer, reason)


def compare_answers(gold: str, answer: str, pool: Pool | None = None) -> tuple[bool, str]:  # noqa: PLR0911  (a cascade)
    """(equal, which comparison decided) for two answers without box."""
    if answer == gold:
        return bool(gold), "same text"
    value = plain_number(gold)
    found = plain_number(answer) if value is not None else None
    if value is not None and found is not None:
        return value == found, "number" if value == found else DIFFERENT
    if max(len(gold), len(answer)) > MAX_CHARACTERS:
        return False, TOO_LONG
    answer = bare(answer)
    if _squeeze(gold) == _squeeze(answer) != "":
        return True, "same text"
    gold_words, answer_words = words_of(gold), words_of(answer)
    if gold_words is not None and answer_words is not None and same_words(gold_words, answer_words):
        return True, "words"
    if (labelled := choice(answer)) is not None:
        letter, answer = labelled
        wanted = choice_letter(gold)
        if wanted is not None:
            return letter == wanted, "words" if letter == wanted else DIFFERENT
    if gold_words is not None and gold_words.is_plain_word and " ".join(gold_words.folded) not in PHRASES:
        return False, DIFFERENT
    return _compare_mathematics(_spelled_out(gold), _spelled_out(answer), pool or shared_pool())


def _spelled_out(text: str) -> str:
    words = words_of(text)
    return text if words is None else PHRASES.get(" ".join(words.folded), text)


SPACES = re.compile(r"(?<![a-zA-Z0-9])\s+|\s+(?![a-zA-Z0-9])")


def _squeeze(text: str) -> str:
    r"""Without what TeX does not print differently; ``1 2`` and ``\cos t`` keep their space."""
    for command in (r"\left", r"\right", r"\!", r"\displaystyle", "$"):
        text = text.replace(command, "") if command != r"\left" else re.sub(r"\\left(?![a-z])", "", text)
    text = text.replace("dfrac", "frac").replace("tfrac", "frac")
    return SPACES.sub("", text).rstrip(".")


def _compare_mathematics(gold: str, answer: str, pool: Pool) -> tuple[bool, str]:
    judge = Judge(pool)
    interpreter = Interpreter(judge)
    golds = list(_trees(gold, gold_readings(gold, answer)))
    readable = False
    for tree in _trees(answer, answer_readings(answer)):
        readable = True
        for gold_tree in golds:
            try:
                if same(interpreter.meaning(gold_tree), interpreter.meaning(tree), judge):
                    return True, "mathematics"
            except (Unreadable, TooComplex, ZeroDivisionError, RecursionError):
                continue
    if judge.timed_out:
        return False, TIMEOUT
    return False, DIFFERENT if readable and golds else UNREADABLE if golds else "unreadable gold"


def _trees(text: str, readings: list[Reading]) -> Iterator[Node]:
    """Each tree once."""
    seen: set[Node] = set()
    for reading in readings:
        try:
            tree = parse(text, reading)
        except (Unreadable, ZeroDivisionError, RecursionError):
            continue
        if tree not in seen:
            seen.add(tree)
            yield tree


def gold_readings(gold: str, answer: str) -> list[Reading]:
    """A gold ``100,200`` is a list if the answer writes one with spaces."""
    readings = [Reading()]
    if "," in gold and ", " in answer:
        readings.append(Reading(thousands=False))
    if UNIT_QUOTIENT.search(gold):
        readings.append(Reading(letter_units=True))
    return readings


def answer_readings(answer: str) -> list[Reading]:
    """The usual reading first; others where the text is ambiguous."""
    usual = Reading()
    readings = [usual]
    if "," in answer:
        readings += [replace(usual, thousands=False), replace(usual, thousands_in_brackets=True)]
    if SIGNED_EXPONENT.search(answer):
        readings.append(replace(usual, science=False))
    if "/" in answer:
        readings.append(replace(usual, tight_products=True))
    if LETTER_UNIT.search(answer):
        readings.append(replace(usual, letter_units=True))
    return readings
