r"""Exact rational value of plain numbers, ``a/b`` and ``\frac{a}{b}``: enough for most golds, in microseconds."""

from __future__ import annotations

import re
from fractions import Fraction

from megatron_sppo.rewards.math.bounds import MAX_CHARACTERS, MAX_DIGITS, MAX_EXPONENT

INTEGER = re.compile(r"[+-]?[0-9]{1,300}")
DECIMAL = re.compile(r"(?P<whole>[0-9]*)(?:\.(?P<decimals>[0-9]*))?(?:[eE](?P<exponent>[+-]?[0-9]{1,5}))?")
SIGNED = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
LATEX_FRACTION = re.compile(r"(?P<sign>[+-]?)\\[dt]?frac\{(?P<over>-?[0-9]{1,300})\}\{(?P<under>[0-9]{1,300})\}")
SLASH_FRACTION = re.compile(r"(?P<sign>[+-]?)(?P<over>[0-9]{1,300})/(?P<under>[0-9]{1,300})")


def plain_number(text: str) -> Fraction | None:
    """None for anything that needs the parser."""
    if len(text) > MAX_CHARACTERS:
        return None
    if INTEGER.fullmatch(text):
        return Fraction(int(text))
    if SIGNED.fullmatch(text) and len(text) <= MAX_DIGITS:
        magnitude = decimal(text.lstrip("+-"))
        return -magnitude if text.startswith("-") and magnitude is not None else magnitude
    match = LATEX_FRACTION.fullmatch(text) or SLASH_FRACTION.fullmatch(text)
    if match is None or not int(match["under"]):
        return None
    value = Fraction(int(match["over"]), int(match["under"]))
    return -value if match["sign"] == "-" else value


def decimal(text: str) -> Fraction | None:
    """Unsigned ``12``, ``1.50``, ``.5``, ``4.5e33`` exactly; None beyond the limits."""
    match = DECIMAL.fullmatch(text)
    if match is None or len(text) > MAX_DIGITS:
        return None
    whole, decimals = match["whole"], match["decimals"] or ""
    exponent = int(match["exponent"] or 0)
    if not whole + decimals or abs(exponent) > MAX_EXPONENT:
        return None
    if not decimals and not exponent:
        return Fraction(int(whole))
    return int(whole + decimals) * Fraction(10) ** (exponent - len(decimals))


def repeating(head: str, block: str) -> Fraction | None:
    r"""``0.1`` and ``6`` for ``0.1\overline{6}`` = 1/6."""
    start = decimal(head)
    if start is None or not block.isdecimal() or len(block) > MAX_DIGITS:
        return None
    places = len(head.partition(".")[2])
    return start + Fraction(int(block), (10 ** len(block) - 1) * 10**places)
