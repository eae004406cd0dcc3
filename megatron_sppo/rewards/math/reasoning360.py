r"""The grader of the paper ("reasoning360"), for reproduction: lenient where ``strict`` is exact, and known to be wrong.

Known faults, kept: the whole text is graded where there is no box; gold x 100, gold / 100 and everything within 1e-4 of
them are right; ``(3,4)`` is right for ``(3,4]``; base subscripts count for little; nothing with pi passes stage D.
"""

from __future__ import annotations

import math
import re

from megatron_sppo.rewards.math.answers import Scalar
from megatron_sppo.rewards.math.bounds import TooComplex, Unreadable
from megatron_sppo.rewards.math.extract import BRACE_OR_ESCAPE
from megatron_sppo.rewards.math.grader import Verdict
from megatron_sppo.rewards.math.judge import Judge
from megatron_sppo.rewards.math.meaning import Interpreter
from megatron_sppo.rewards.math.parser import parse
from megatron_sppo.rewards.math.reasoning360_text import normal_a, normal_b, strip_thousands
from megatron_sppo.rewards.math.tokenizer import Reading
from megatron_sppo.rewards.math.workers import shared_pool

MAX_TEXT = 5_000  # of the answer; where there is no box a whole response may stand here
TOLERANCE = 1e-4
MAX_LETTERS = 2
FRACTION = re.compile(r"-?[0-9]+.?/0*[1-9][0-9]*.?")
REFUSED = re.compile(r"\^[0-9]+\^|\^[0-9][0-9]+|\^\{|\^\(")  # powers of numbers or groups are not evaluated
NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")


def grade_reasoning360(gold: str, response: str) -> Verdict:
    text = response.rpartition("</think>")[2]
    answer = last_box_or_text(text)
    stage = _stage(gold, answer)
    return Verdict(float(stage != ""), answer, f"stage {stage}" if stage else "different")


def last_box_or_text(text: str) -> str:
    r"""Content of the last ``\boxed`` (else ``\fbox``) by counting braces; the whole text where there is none."""
    start = max(text.rfind("\\boxed{"), -1)
    start = start if start >= 0 else text.rfind("\\fbox{")
    if start < 0:
        return text
    opening = text.index("{", start)
    depth = 0
    for brace in BRACE_OR_ESCAPE.finditer(text, opening):
        depth += {"{": 1, "}": -1}.get(brace.group().lstrip("\\"), 0)  # escaped braces are counted, too
        if depth == 0:
            return text[opening + 1 : brace.start()] or text
    return text


def _stage(gold: str, answer: str) -> str:
    """Which stage found the answer right; nothing if none did."""
    if len(answer) > MAX_TEXT or len(gold) > MAX_TEXT:
        return "A" if answer == gold else ""
    if normal_a(gold) == normal_a(answer):
        return "A"
    one, other = normal_b(gold), normal_b(answer)
    if one == other:
        return "B"
    if other and _elements_equal(one, other):
        return "C"
    return "D" if other and _close(gold, answer) else ""


# --- stage C ------------------------------------------------------------------------------------------------------------


def _elements_equal(gold: str, answer: str) -> bool:
    wanted, found = split_tuple(gold), split_tuple(answer)
    if len(wanted) > 1 and (gold[0], gold[-1]) != (answer[0], answer[-1]):
        return False
    return len(wanted) == len(found) and all(_element_equal(one, other) for one, other in zip(wanted, found, strict=True))


def split_tuple(text: str) -> list[str]:
    text = strip_thousands(text)
    if len(text) > 2 and text[0] in "([" and text[-1] in ")]" and not set(text[1:-1]) & set("()[]"):
        return [each.strip() for each in text[1:-1].split(",")]
    return [text]


def _element_equal(gold: str, answer: str) -> bool:
    if FRACTION.fullmatch(gold) and FRACTION.fullmatch(answer):
        return gold == answer
    if is_integer(gold) != is_integer(answer):
        return False
    if not _may_evaluate(gold + answer):
        return False
    judge = Judge(shared_pool())
    try:
        one, other = (Interpreter(judge).meaning(parse(text, Reading())) for text in (gold, answer))
        return isinstance(one, Scalar) and isinstance(other, Scalar) and judge.equal(one.node, other.node)
    except (Unreadable, TooComplex, ZeroDivisionError, RecursionError):
        return False


def is_integer(text: str) -> bool:
    number = _number(text)
    return number is not None and math.isfinite(number) and abs(number - round(number)) <= 1e-7


def _may_evaluate(text: str) -> bool:
    letters = {character for character in text.replace("sqrt", "").replace("frac", "") if character.isalpha()}
    return len(letters) <= MAX_LETTERS and REFUSED.search(text) is None


# --- stage D ------------------------------------------------------------------------------------------------------------


def _close(gold: str, answer: str) -> bool:
    r"""Within 1e-4 of gold/100, gold or gold x 100; brackets may differ. With ``\pi`` upstream raises, and that is wrong."""
    if "\\pi" in gold or "\\pi" in answer:
        return False
    wanted, found = _percentage(gold), _percentage(answer)
    if wanted is not None and found is not None:
        return any(math.isclose(found, each, rel_tol=TOLERANCE) for each in (wanted / 100, wanted, wanted * 100))
    one, other = gold.strip().lower(), answer.strip().lower()
    if one.replace(" ", "") == other.replace(" ", ""):
        return True
    bracketed = (other[:1] == "[" and other[-1:] == "]" and one[:1] != "(") or (
        other[:1] == "(" and other[-1:] == ")" and one[:1] != "["
    )
    if bracketed:
        one, other = one.strip("[]()"), other.strip("[]()")
    bare = [re.sub(r"[{}()]", "", text) for text in (one, other)]
    if bare[0] == bare[1] != "":
        return True
    parts = [text.split(",") for text in bare]
    return len(parts[0]) == len(parts[1]) > 1 and all(map(_close, *parts))


def _percentage(text: str) -> float | None:
    """``1,000`` and ``12.5`` as numbers; ``50%`` is a half."""
    text = text.strip().replace(",", "")
    if text.endswith("%"):
        number = _number(text[:-1].rstrip("\\"))
        return None if number is None else number / 100
    return _number(text)


def _number(text: str) -> float | None:
    return float(text) if len(text) < 400 and NUMBER.fullmatch(text.replace(",", "")) and "," not in text else None
