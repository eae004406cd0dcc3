r"""Verifiers of the last ``\boxed{}`` answer: string equality and exact rational equality.

What counts is the last box after the last ``</think>``; no box, an unterminated box and an empty box are wrong. Model text
is hostile: every step is linear in its length, numbers are bounded before any arithmetic, nothing is evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from megatron_sppo.rewards.protocol import Sample

BOX_OPENING = re.compile(r"\\boxed\s*\{")
BRACE_OR_ESCAPE = re.compile(r"\\.|[{}]", re.DOTALL)  # `\{` and `\}` are characters, not braces

MAX_NUMBER_CHARACTERS = 300
MAX_EXPONENT = 400

DECIMAL = re.compile(
    r"(?P<sign>[+-]?)(?P<whole>[0-9]{1,3}(?:(?:,|\{,\})[0-9]{3})+|[0-9]*)(?:\.(?P<decimals>[0-9]*))?(?:[eE](?P<exponent>[+-]?[0-9]{1,4}))?"
)
LATEX_FRACTION = re.compile(r"(?P<sign>[+-]?)\\[dt]?frac\s*\{(?P<over>[^{}]*)\}\s*\{(?P<under>[^{}]*)\}")


def last_boxed(response: str) -> str | None:
    r"""Content of the last ``\boxed{}`` after the last ``</think>``, stripped; None where there is none to grade."""
    answer = response.rpartition("</think>")[2]
    start = answer.rfind("\\boxed")
    opening = BOX_OPENING.match(answer, start) if start >= 0 else None
    if opening is None:
        return None
    depth = 1
    for token in BRACE_OR_ESCAPE.finditer(answer, opening.end()):
        depth += {"{": 1, "}": -1}.get(token.group(), 0)
        if depth == 0:
            return answer[opening.end() : token.start()].strip() or None
    return None


def parse_number(text: str) -> Fraction | None:
    r"""Exact value of an integer, decimal, ``a/b`` or ``\frac{a}{b}``, thousands commas allowed; None for anything else.

    Bounded: more than 300 characters or an exponent beyond 400 is no number.
    """
    text = text.strip().replace("\u2212", "-")
    if len(text) > MAX_NUMBER_CHARACTERS:
        return None
    latex = LATEX_FRACTION.fullmatch(text)
    if latex is not None:
        value = quotient(latex["over"], latex["under"])
        return -value if value is not None and latex["sign"] == "-" else value
    over, slash, under = text.partition("/")
    return quotient(over, under) if slash else parse_decimal(text)


def quotient(over: str, under: str) -> Fraction | None:
    numerator, denominator = parse_decimal(over), parse_decimal(under)
    if numerator is None or not denominator:  # not a number, or zero
        return None
    return numerator / denominator


def parse_decimal(text: str) -> Fraction | None:
    """``-1,234.50e3`` and the like, exactly."""
    match = DECIMAL.fullmatch(text.strip())
    if match is None:
        return None
    whole, decimals = re.sub("[{},]", "", match["whole"]), match["decimals"] or ""
    exponent = int(match["exponent"] or 0)
    if not whole + decimals or abs(exponent) > MAX_EXPONENT:
        return None
    magnitude = int(whole + decimals) * Fraction(10) ** (exponent - len(decimals))
    return -magnitude if match["sign"] == "-" else magnitude


def same_number(answer: str, gold: str) -> bool:
    """Exact rational equality; a gold that is no number is compared as text."""
    value = parse_number(gold)
    return answer == gold.strip() if value is None else parse_number(answer) == value


class BoxedExact:
    """1 where the box holds the gold's characters, whitespace around them aside."""

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        return [float(last_boxed(sample.response) == sample.gold.strip()) for sample in samples]


class BoxedNumeric:
    """1 where the box holds the gold's number: 27 for ``27.0``, 25 for ``025``, 0.5 for ``1/2``, never a rounded value."""

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        answers = [last_boxed(sample.response) for sample in samples]
        return [
            float(answer is not None and same_number(answer, sample.gold))
            for answer, sample in zip(answers, samples, strict=True)
        ]
