"""Golds, statements and overlaps of `data prepare` on small made-up inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_sppo.cli import main
from megatron_sppo.data.prepare.golds import canonical_gold, is_float_corrupted
from megatron_sppo.data.prepare.overlap import find_overlaps, ngrams
from megatron_sppo.data.prepare.run import Request, prepare
from megatron_sppo.data.prepare.source import choose_files
from megatron_sppo.data.prepare.statement import ask_for_box, bare_statement
from megatron_sppo.data.rows import read_rows
from megatron_sppo.errors import UserError

RAW_DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: $Answer "
    "(without quotes) where $Answer is the answer to the problem.\n\nAdd 1 and 2.\n\nThen double it.\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)
ASKED = "Add 1 and 2. Then double it. Please output the final answer within \\boxed{}."


@pytest.mark.parametrize(
    ("gold", "canonical"),
    [
        ("025", "25"),
        ("27.0", "27"),
        ("336^\\circ", "336"),
        ("90^{\\circ}", "90"),
        ("-1.0", "-1"),
        ("-0", "0"),
        ("000", "0"),
        ("+7", "7"),
        (" 12 ", "12"),
        ("22.5°", "22.5"),
        ("0.10", "0.10"),  # says how exact it is
        ("1.70e4", "1.70e4"),
        (".0000672", ".0000672"),
        ("\\frac{1}{2}", "\\frac{1}{2}"),
        ("x^\\circ", "x^\\circ"),
        ("52_8", "52_8"),
        ("10,\\!080", "10,\\!080"),
    ],
)
def test_canonical_gold(gold: str, canonical: str) -> None:
    assert canonical_gold(gold) == canonical
    assert canonical_gold(canonical) == canonical


@given(st.integers(), st.integers(0, 3), st.integers(0, 3))
def test_every_spelling_of_an_integer_has_one_canonical_gold(value: int, zeros: int, decimals: int) -> None:
    sign, digits = ("-" if value < 0 else ""), str(abs(value))
    gold = f"{sign}{'0' * zeros}{digits}" + (f".{'0' * decimals}" if decimals else "")
    assert canonical_gold(gold) == str(value)


@given(st.integers(-(10**24), 10**24))
def test_integers_beyond_a_doubles_reach_are_corrupted(value: int) -> None:
    assert is_float_corrupted(str(value)) == (abs(value) > 2**53)


def test_the_edge_of_a_doubles_reach() -> None:
    assert not is_float_corrupted(str(2**53)) and is_float_corrupted(str(2**53 + 1)) and not is_float_corrupted("4.5e33")


@pytest.mark.parametrize(
    "text",
    [
        RAW_DAPO,
        "Add 1 and 2.\n\nThen double it.",
        "Add 1 and 2. Then double it. \nPlease output the final answer within \\boxed{}.",
        ASKED,
    ],
)
def test_public_forms_become_the_same_prompt(text: str) -> None:
    assert ask_for_box(bare_statement(text)) == ASKED


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prepared(folder: Path, name: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    return rows, json.loads((folder / f"{name}.manifest.json").read_text())


def test_rows_are_dropped_for_a_reason_and_counted(tmp_path: Path) -> None:
    def row(prompt: str, gold: str) -> dict[str, Any]:
        return {"prompt": [{"role": "user", "content": prompt}], "reward_model": {"ground_truth": gold}}

    source = write_jsonl(
        tmp_path / "raw.jsonl",
        [
            row(RAW_DAPO, "6"),
            row(ASKED, "06"),  # the same problem in another dress
            row("One?", "1"),
            row("One?", "2"),  # who is right?
            row("Large?", "20000000000000000000000"),
            row("None?", ""),
            row("Two?", "2.0"),
        ],
    )
    outcome = prepare(Request("dapo", str(source), tmp_path / "out"))
    rows, manifest = prepared(tmp_path / "out", "dapo")
    assert [(row["id"], row["answer"], row["original_answer"]) for row in rows] == [("dapo:0", "6", "6"), ("dapo:1", "2", "2.0")]
    assert rows[0]["prompt"] == [{"role": "user", "content": ASKED}] and rows[1]["provenance"]["row"] == 6
    assert manifest["dropped"] == {"no_gold": 1, "float_corrupted": 1, "duplicate": 1, "conflicting": 2, "overlap": 0}
    assert outcome.num_rows == manifest["output"]["rows"] == 2
    assert [row.id for row in read_rows([str(tmp_path / "out" / "dapo.jsonl")], "data.train")] == ["dapo:0", "dapo:1"]


def test_deepscaler_from_json_takes_the_first_answer(tmp_path: Path) -> None:
    source = tmp_path / "deepscaler.json"
    source.write_text(json.dumps([{"Problem": "Half of 10?", "answer": ["5", "5.0"], "solution": "..."}]))
    assert main(["data", "prepare", "deepscaler", "--input", str(source), "--output", str(tmp_path / "out")]) == 0
    rows, _ = prepared(tmp_path / "out", "deepscaler")
    assert rows[0]["prompt"][0]["content"] == "Half of 10? Please output the final answer within \\boxed{}."
    assert rows[0]["answer"] == "5" and rows[0]["data_source"] == "deepscaler"


def test_a_gold_that_is_a_float_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["a?", "b?"], "answer": [27.0, 1e20]}), tmp_path / "amc.parquet")
    prepare(Request("amc23", str(tmp_path / "amc.parquet"), tmp_path / "out"))
    assert [row["answer"] for row in prepared(tmp_path / "out", "amc23")[0]] == ["27", "1e+20"]


WORDS = " ".join(f"w{number}" for number in range(20))  # 8 runs of 13 words


def test_overlap_counts_the_benchmarks_ngrams() -> None:
    assert len(ngrams(WORDS)) == 8 and ngrams("A, b!") == {("a", "b")} and ngrams("…") == frozenset()
    half = " ".join(WORDS.split()[:16]) + " " + " ".join(f"x{number}" for number in range(50))  # holds 4 of the 8
    less = " ".join(WORDS.split()[:15])  # 3 of the 8
    pairs = find_overlaps([WORDS, "other words", ""], [less, half, WORDS.upper(), "Other -- words."])
    assert [(pair.benchmark_row, pair.train_row, pair.fraction) for pair in pairs] == [(0, 1, 0.5), (0, 2, 1.0), (1, 3, 1.0)]


def test_overlaps_are_reported_or_dropped_from_training(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "t.jsonl", [{"prompt": f"{WORDS}?", "answer": 1}, {"prompt": "fresh", "answer": 2}])
    bench = write_jsonl(tmp_path / "bench.jsonl", [{"prompt": "new", "answer": 3}, {"prompt": WORDS, "answer": 1}])
    for drop in (False, True):
        out = tmp_path / str(drop)
        flags = ["--against", str(bench), *(["--drop-overlaps"] if drop else [])]
        assert main(["data", "prepare", "dapo", "--input", str(train), "--output", str(out), *flags]) == 0
        rows, manifest = prepared(out, "dapo")
        assert len(rows) == 2 - drop and manifest["overlaps"] == {"bench": 1} and manifest["dropped"]["overlap"] == int(drop)
        report = json.loads((out / "dapo.overlap.json").read_text())
        assert report == {"bench": [{"eval_row": 1, "train": "dapo", "train_row": 0, "frac": 1.0}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": "owner/set"}, r"--input owner/set .*--input"),  # no network in tests
        ({"input": "missing.parquet"}, "missing.parquet is not a file; give"),
        ({"input": __file__}, "is none of .parquet, .jsonl, .json"),
        ({"minerva_golds": "g.jsonl"}, "belongs to minerva"),
        ({"drop_overlaps": True}, "--against"),
        ({"name": "amc23", "drop_overlaps": True, "against": ("a",)}, "out of the benchmark amc23"),
        ({"against": ("nothing.jsonl",)}, "--against nothing.jsonl is not"),
    ],
)
def test_mistakes_are_told_in_one_sentence(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    source = write_jsonl(tmp_path / "raw.jsonl", [{"prompt": "One?", "answer": 1}])
    request = Request(**{"name": "dapo", "input": str(source), "output": tmp_path / "out", **change})
    with pytest.raises(UserError, match=message):
        prepare(request)
    assert not (tmp_path / "out").exists()


def test_repairs_must_belong_to_the_input(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "m.jsonl", [{"prompt": "One?", "answer": "\\frac{1"}])
    golds = write_jsonl(tmp_path / "golds.jsonl", [{"row": 0, "shipped": "\\sqrt{2", "repaired": "\\sqrt{2}"}])
    with pytest.raises(UserError, match="row 0 was repaired from"):
        prepare(Request("minerva", str(source), tmp_path / "out", minerva_golds=str(golds)))
    write_jsonl(golds, [{"row": 0, "shipped": "\\frac{1", "repaired": "\\frac{1}{2}\n"}])
    prepare(Request("minerva", str(source), tmp_path / "out", minerva_golds=str(golds)))
    (row,), manifest = prepared(tmp_path / "out", "minerva")
    assert (row["answer"], row["original_answer"], row["provenance"]["repaired"]) == ("\\frac{1}{2}", "\\frac{1", True)
    assert manifest["golds"] == {"respelt": 0, "repaired": 1, "cut": 0}


def test_the_hubs_files_of_one_format_and_split() -> None:
    assert choose_files(["README.md", "data/train-0.parquet", "data/test-0.parquet"], "test") == ["data/test-0.parquet"]
    assert choose_files(["aime2025-II.jsonl", "aime2025-I.jsonl"], "test") == ["aime2025-I.jsonl", "aime2025-II.jsonl"]
    assert choose_files(["README.md"], "test") == []
