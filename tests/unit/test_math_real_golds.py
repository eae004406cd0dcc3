"""Golds of the public sets, where their files are at hand: each is right for itself, and wrong with a small change."""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq
import pytest

from megatron_sppo.rewards.math import grade, grade_detailed
from megatron_sppo.rewards.math.numbers import plain_number

FILES = {
    "dapo": ("dapo-math-17k_dedup.parquet", 17_398),
    "aime24": ("math__aime_repeated_8x_240.parquet", 240),
    "aime25": ("math__aime2025_2025.parquet", 30),
    "amc23": ("math__amc23_2025.parquet", 40),
    "math500": ("math__math_500.parquet", 500),
    "minerva": ("minerva_golds_repaired.jsonl", 272),
}


def golds(folder: Path, name: str) -> list[str]:
    file, count = FILES[name]
    path = folder / file
    if path.suffix == ".jsonl":
        found = [json.loads(line)["repaired"] for line in path.read_text(encoding="utf-8").splitlines()]
    else:
        found = [str(row["reward_model"]["ground_truth"]) for row in pq.read_table(path, columns=["reward_model"]).to_pylist()]
    assert len(found) == count
    return found


def changes(gold: str) -> list[str]:
    """Answers that are not the gold's value, whatever the gold is."""
    value = plain_number(gold)
    if value is not None:
        near = [value + 1, value - 1, value + 10, -value or value + 2, value * 2 or value + 2, value * 100 or value + 3]
        return [str(each) for each in near] + [f"{gold}+1", f"{gold}1", f"{gold},{gold}"]
    return [f"{gold}+1", f"{gold}1", f"{gold}, 977", f"{gold} x", f"2{gold} + 1", f"({gold}, 1)", "0", "-1"]


@pytest.mark.parametrize("name", FILES)
def test_every_gold_in_a_box_is_right(shared_data: Path, name: str) -> None:
    assert [
        gold for gold in golds(shared_data, name) if grade(gold, f"<think>\\boxed{{0}}</think> \\boxed{{{gold}}}") != 1.0
    ] == []


@pytest.mark.parametrize("name", FILES)
def test_every_changed_gold_is_wrong(shared_data: Path, name: str) -> None:
    true = {("5x - 7y + 11z + 4 = 0", " x")}  # ... = 0 x says the same
    true |= {(gold, " x") for gold in golds(shared_data, name) if gold.endswith("=0")}
    accepted = [
        (gold, changed)
        for gold in set(golds(shared_data, name))
        for changed in changes(gold)
        if (gold, changed.removeprefix(gold)) not in true and grade(gold, f"\\boxed{{{changed}}}") != 0.0
    ]
    assert accepted == []


def test_times(shared_data: Path) -> None:
    """Median under 1 ms on integers, 99 % of all benchmark rows under 100 ms (the first symbolic row starts a worker)."""
    assert grade(r"\cot x", r"\boxed{1/\tan x}") == 1.0
    integers, others = [], []
    for name in FILES:
        for gold in golds(shared_data, name)[:500]:
            started = time.perf_counter()
            grade_detailed(gold, f"\\boxed{{{gold} + 0}}")
            (integers if plain_number(gold) is not None else others).append(time.perf_counter() - started)
    assert median(integers) < 1e-3
    assert sorted(integers + others)[int(0.99 * len(integers + others))] < 0.1
