r"""Ground truths in one spelling: ``025`` -> ``25``, ``27.0`` -> ``27``, ``336^\circ`` -> ``336``; damaged ones recognised."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from megatron_sppo.data.files import read_records
from megatron_sppo.errors import UserError

EXACT_IN_DOUBLE = 2**53  # above it, not every integer survives a double
INTEGER = re.compile(r"([+-]?)0*([0-9]+)(?:\.0*)?")
DEGREES = re.compile(r"(.*[0-9])\s*(?:\^\s*(?:\\circ|\{\s*\\circ\s*\})|\u00b0)")


def canonical_gold(gold: str) -> str:
    """``gold`` without surrounding white space; an integer or a number of degrees in its shortest decimal form.

    Anything else keeps its spelling: LaTeX is the grader's business, and ``1.70e4`` or ``0.10`` say how exact they are.
    """
    gold = gold.strip()
    degrees = DEGREES.fullmatch(gold)
    bare = degrees[1].strip() if degrees is not None and is_plain_number(degrees[1].strip()) else gold
    integer = INTEGER.fullmatch(bare)
    if integer is None:
        return bare
    sign = "-" if integer[1] == "-" and integer[2] != "0" else ""
    return sign + integer[2]


def is_plain_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]*\.?[0-9]+", text) is not None


def is_float_corrupted(gold: str) -> bool:
    """An integer that a double cannot be trusted to have carried."""
    integer = INTEGER.fullmatch(gold.strip())
    return integer is not None and len(integer[2]) >= 16 and (len(integer[2]) > 16 or int(integer[2]) > EXACT_IN_DOUBLE)


def is_cut(gold: str) -> bool:
    """More ``{`` than ``}``: whoever extracted it stopped at the first closing brace."""
    return gold.count("{") > gold.count("}")


def raw_gold(columns: dict[str, Any]) -> Any:
    """The ground truth as it was written (the first of a list), from verl's column or `answer`; None where there is none."""
    reward_model = columns.get("reward_model")
    value = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
    value = columns.get("answer") if value is None else value
    if isinstance(value, list):
        value = value[0] if value else None
    return value


def read_repaired_golds(path: str) -> dict[int, tuple[str, str]]:
    """Input row -> (gold as shipped, repaired gold), from jsonl rows ``{"row", "shipped", "repaired"}``."""
    repaired: dict[int, tuple[str, str]] = {}
    for record in read_records([path], "--minerva-golds"):
        row, shipped, fixed = (record.columns.get(name) for name in ("row", "shipped", "repaired"))
        if not isinstance(row, int) or not isinstance(shipped, str) or not isinstance(fixed, str) or not fixed.strip():
            raise UserError(
                f"--minerva-golds={path}: {record.place} is not {{row, shipped, repaired}}; write one such object per line"
            )
        repaired[row] = (shipped, fixed.strip())
    return repaired


def repair(gold: str, row: int, repaired: dict[int, tuple[str, str]], path: str) -> str:
    """The repaired gold of an input row; UserError where the repair was made for another gold."""
    shipped, fixed = repaired.get(row, (gold, gold))
    if shipped.strip() != gold.strip():
        raise UserError(
            f"--minerva-golds={Path(path).name}: row {row} was repaired from {shipped!r} but --input has {gold!r} there; "
            "give the golds that belong to this input"
        )
    return fixed
