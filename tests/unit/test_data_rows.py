from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_sppo.data.rows import ChatMessage, Row, read_rows, read_supervised_rows
from megatron_sppo.errors import UserError


def write_jsonl(file: Path, rows: list[dict[str, Any]]) -> str:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def chat_row(question: str, gold: Any) -> dict[str, Any]:
    """The columns of verl, DeepScaleR and DAPO."""
    return {
        "data_source": "math_dapo",
        "prompt": [{"role": "user", "content": question}],
        "ability": "MATH",
        "reward_model": {"ground_truth": gold, "style": "rule"},
        "extra_info": {"index": "7"},
    }


CHAT = Row("dapo:0", (ChatMessage("user", "1 + 1?"),), "2", "math_dapo")


def test_parquet_and_jsonl_of_chat_rows_are_the_same(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([chat_row("1 + 1?", "2")]), tmp_path / "dapo.parquet")
    assert read_rows([str(tmp_path / "dapo.parquet")], "data.train") == (CHAT,)
    assert read_rows([write_jsonl(tmp_path / "dapo.jsonl", [chat_row("1 + 1?", "2")])], "data.train") == (CHAT,)


@pytest.mark.parametrize("column", ["prompt", "question", "problem"])
@pytest.mark.parametrize(("answer", "gold"), [("025", "025"), (25, "25"), (27.0, "27.0")])
def test_plain_rows(tmp_path: Path, column: str, answer: Any, gold: str) -> None:
    path = write_jsonl(tmp_path / "sums.jsonl", [{column: "How many?", "answer": answer}])
    assert read_rows([path], "data.train") == (Row("sums:0", "How many?", gold, "sums"),)


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "answer": "1"}\n\n{"prompt": "b", "answer": "2"}\n\n')
    assert [row.id for row in read_rows([str(tmp_path / "a.jsonl")], "data.train")] == ["a:0", "a:1"]


def test_ids_stay_unique_where_stems_are_shared(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "answer": "1"}]
    paths = [write_jsonl(tmp_path / folder / "train.jsonl", rows) for folder in ("x", "y")]
    assert [row.id for row in read_rows(paths, "data.train")] == ["x/train:0", "y/train:0"]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x" / "train.parquet")
    both = [paths[0], str(tmp_path / "x" / "train.parquet")]
    assert [row.id for row in read_rows(both, "data.train")] == ["x/train.jsonl:0", "x/train.parquet:0"]
    with pytest.raises(UserError, match=r"data\.train=.*more than once"):
        read_rows([paths[0], paths[0]], "data.train")


def test_missing_and_unreadable_files_name_the_setting(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.train=\[\] names no file"):
        read_rows([], "data.train")
    with pytest.raises(UserError, match=r"data\.train\[0\]='/nowhere/a\.jsonl' is not a file"):
        read_rows(["/nowhere/a.jsonl"], "data.train")
    with pytest.raises(UserError, match=r"data\.validation\[0\]='a\.csv' is neither"):
        read_rows(["a.csv"], "data.validation")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"data\.train\[0\]=.*empty\.jsonl' holds no rows"):
        read_rows([str(tmp_path / "empty.jsonl")], "data.train")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="not a readable parquet"):
        read_rows([str(tmp_path / "bad.parquet")], "data.train")


@pytest.mark.parametrize("line", [b"{oops", b"\xff\xfe", b"[1, 2]"])
def test_a_malformed_line_is_named(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "a", "answer": "1"}\n' + line + b"\n")
    with pytest.raises(UserError, match=r"data\.train\[0\]=.*a\.jsonl', line 2: .*one JSON object per line"):
        read_rows([str(tmp_path / "a.jsonl")], "data.train")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"answer": "1"}, r"no `prompt`.*columns are \['answer'\]"),
        ({"prompt": "a"}, r"no `reward_model.ground_truth` \(or `answer`\)"),
        ({"prompt": "a", "answer": [1]}, r"ground truth \[1\]"),
        ({"prompt": "  ", "answer": "1"}, "where text is needed"),
        ({"prompt": 5, "answer": "1"}, "neither text nor a list"),
        ({"prompt": [], "answer": "1"}, "neither text nor a list"),
        ({"prompt": [{"role": "user"}], "answer": "1"}, "neither text nor a list"),
        ({"prompt": [{"role": "assistant", "content": "a"}], "answer": "1"}, "ends with an assistant"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], complaint: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "a", "answer": "1"}, row])
    with pytest.raises(UserError, match=rf"data\.train: .*a\.jsonl:2 has .*{complaint}"):
        read_rows([path], "data.train")


def test_a_missing_parquet_column_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet row 0 has no `prompt`.*columns are \['text'\]"):
        read_rows([str(tmp_path / "a.parquet")], "data.train")


def test_supervised_rows(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    path = write_jsonl(tmp_path / "sft.jsonl", [{"prompt": "2 + 2?", "response": "4"}, {"messages": turns}])
    first, second = read_supervised_rows([path], "data.train")
    assert (first.messages_or_text, first.response) == ("2 + 2?", "4")
    assert (second.messages_or_text, second.response) == ((ChatMessage("user", "1 + 1?"),), "2")
    with pytest.raises(UserError, match="no `response`"):
        read_supervised_rows([write_jsonl(tmp_path / "b.jsonl", [{"prompt": "a"}])], "data.train")
    with pytest.raises(UserError, match="do not end with an assistant"):
        read_supervised_rows([write_jsonl(tmp_path / "c.jsonl", [{"messages": turns[:1]}])], "data.train")
