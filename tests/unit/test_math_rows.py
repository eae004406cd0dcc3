"""The strict policy as a table: every row is (gold, content of the box, right or wrong, why)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_sppo.rewards.math import grade, grade_detailed

TABLE = Path(__file__).resolve().parents[1] / "data_rows" / "math_strict.tsv"
BLIND = TABLE.with_name("math_blind.jsonl")  # labelled from the policy before the grader saw them, in three sets


def rows() -> list[tuple[str, str, float, str]]:
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return [(gold, answer, float(right), why) for gold, answer, right, why in (line.split("\t") for line in lines)]


@pytest.mark.parametrize(("gold", "answer", "right", "why"), rows())
def test_row(gold: str, answer: str, right: float, why: str) -> None:
    verdict = grade_detailed(gold, f"<think>It could be \\boxed{{0}}.</think>\nSo \\boxed{{{answer}}}.")
    assert verdict.reward == right, (why, verdict)


def blind_rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in BLIND.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("category", sorted({row["category"] for row in blind_rows()}))
def test_rows_that_were_labelled_blind(category: str) -> None:
    rows_of_category = [row for row in blind_rows() if row["category"] == category]
    disagreements = [row for row in rows_of_category if grade(row["gold"], row["response"]) != row["right"]]
    assert rows_of_category and disagreements == []


def test_the_table_is_large_and_balanced() -> None:
    assert len(rows()) >= 300 and 0.25 < sum(right for _, _, right, _ in rows()) / len(rows()) < 0.75
    assert len({row[:2] for row in rows()}) == len(rows())


@pytest.mark.parametrize(
    ("response", "right"),
    [
        (r"\boxed{4}", 1.0),
        ("4", 0.0),
        (r"\boxed{}", 0.0),
        (r"\boxed{ }", 0.0),
        (r"\boxed{4", 0.0),
        (r"\boxed{4}} and \boxed{5", 0.0),
        (r"\boxed{5} or \boxed{4}", 1.0),
        (r"\boxed{4} or \boxed{5}", 0.0),
        (r"\boxed{4}</think>", 0.0),
        (r"\boxed{5}</think>\boxed{4}", 1.0),
        (r"</think>\boxed{5}</think>\boxed{4}", 1.0),
        (r"<think>\boxed{4}", 1.0),
        (r"\boxed {4}", 1.0),
        (r"\boxed{x = \boxed{4}}", 1.0),
        (r"\boxed{4}. That is my \boxed.", 1.0),
        (r"\boxed{\frac{8}{2}}", 1.0),
        (r"\boxed{\{4\}}", 1.0),
        (r"\fbox{4}", 0.0),
        (r"boxed{4}", 0.0),
        ("", 0.0),
    ],
)
def test_the_last_box_after_the_last_think_counts(response: str, right: float) -> None:
    assert grade("4", response) == right


def test_an_empty_gold_is_never_right() -> None:
    assert grade("", r"\boxed{4}") == grade("", r"\boxed{}") == 0.0
