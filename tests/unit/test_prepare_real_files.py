"""`data prepare` on the public sets, where they lie beside the repository: counts and checksums, no problem text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_sppo.data.prepare.run import Request, prepare
from megatron_sppo.data.rows import read_rows
from megatron_sppo.rewards.boxed import parse_number

FILES = {
    "dapo": "dapo-math-17k_dedup.parquet",
    "aime24": "math__aime_repeated_8x_240.parquet",
    "aime25": "math__aime2025_2025.parquet",
    "amc23": "math__amc23_2025.parquet",
    "math500": "math__math_500.parquet",
    "minerva": "math__minerva_math_2025_processed.parquet",
}
NUM_ROWS = {"dapo": 17_178, "aime24": 30, "aime25": 30, "amc23": 40, "math500": 500, "minerva": 272}
DROPPED = {
    "dapo": {"float_corrupted": 5, "duplicate": 205, "conflicting": 10},
    "aime24": {"duplicate": 210},
}
BENCHMARKS = tuple(name for name in FILES if name != "dapo")


@pytest.fixture(scope="module")
def folder(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All six sets, DAPO compared with the five benchmarks."""
    output = tmp_path_factory.mktemp("prepared")
    golds = str(shared_data / "minerva_golds_repaired.jsonl")
    for name in BENCHMARKS:
        prepare(Request(name, str(shared_data / FILES[name]), output, minerva_golds=golds if name == "minerva" else ""))
    against = tuple(str(output / f"{name}.jsonl") for name in BENCHMARKS)
    prepare(Request("dapo", str(shared_data / FILES["dapo"]), output, against=against))
    return output


def manifest(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.manifest.json").read_text())


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", FILES)
def test_rows_and_what_was_dropped(folder: Path, name: str) -> None:
    found = manifest(folder, name)
    assert {reason: count for reason, count in found["dropped"].items() if count} == DROPPED.get(name, {})
    prepared = rows(folder, name)
    assert len(prepared) == found["output"]["rows"] == NUM_ROWS[name]
    readable = read_rows([str(folder / f"{name}.jsonl")], "data.train")
    assert [(row.id, row.gold, row.source) for row in readable] == [(r["id"], r["answer"], name) for r in prepared]
    for row in prepared:
        (message,) = row["prompt"]
        assert message["content"].count("Please output the final answer within \\boxed{}.") == 1
        assert message["content"].endswith(" Please output the final answer within \\boxed{}.")


@pytest.mark.parametrize("name", ["dapo", "aime24", "aime25", "amc23"])
def test_integer_sets_have_plain_integer_golds(folder: Path, name: str) -> None:
    assert all(row["answer"] == str(int(row["answer"])) for row in rows(folder, name))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_canonical_gold_has_the_value_of_the_original(folder: Path, name: str) -> None:
    for row in rows(folder, name):
        if not row["provenance"]["repaired"]:
            assert parse_number(row["answer"]) == parse_number(row["original_answer"].removesuffix("^\\circ"))


def test_minerva_keeps_both_golds(folder: Path, shared_data: Path) -> None:
    repaired = [row for row in rows(folder, "minerva") if row["provenance"]["repaired"]]
    assert manifest(folder, "minerva")["golds"] == {"respelt": 2, "repaired": 68, "cut": 0} and len(repaired) == 68
    known = [json.loads(line) for line in (shared_data / "minerva_golds_repaired.jsonl").read_text().splitlines()]
    for row in repaired:
        given = known[row["provenance"]["row"]]
        assert (row["original_answer"], row["answer"]) == (given["shipped"], given["repaired"].strip())


def test_overlaps_are_those_of_the_published_list(folder: Path, shared_data: Path) -> None:
    published = json.loads((shared_data / "dapo_eval_overlap.json").read_text())
    ours = json.loads((folder / "dapo.overlap.json").read_text())
    original_row = [row["provenance"]["row"] for row in rows(folder, "dapo")]
    for name, key in (("amc23", "AMC23"), ("math500", "MATH500")):
        found = {(pair["eval_row"], original_row[pair["train_row"]]) for pair in ours[name]}
        assert found == {(pair["eval_row"], pair["dapo_row"]) for pair in published[key]}
    assert [len({pair["eval_row"] for pair in ours[name]}) for name in BENCHMARKS] == [0, 0, 22, 18, 0]
