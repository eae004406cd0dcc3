"""``megatron-sppo grade``: order, malformed rows, mistakes, and what the reward class counts."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from megatron_sppo.cli import main
from megatron_sppo.errors import UserError
from megatron_sppo.rewards.math.grade_file import CHUNK_ROWS, grade_file
from megatron_sppo.rewards.math.reward import MathReward, Reasoning360Reward
from megatron_sppo.rewards.protocol import Sample

LINES = [
    json.dumps({"id": 1, "response": r"so \boxed{42}", "gold": "42"}),
    json.dumps({"id": 2, "response": r"so \boxed{4200}", "gold": "42"}),
    json.dumps({"id": 3, "response": r"so \boxed{\frac{\cos x}{\sin x}}", "gold": r"\cot x"}),
    json.dumps({"id": 4, "response": "42", "gold": 42}),
    "{not json",
    "",
    "[1, 2]",
    json.dumps({"id": 5, "gold": "42"}),
    json.dumps({"id": 6, "response": r"\boxed{1}"}),
    json.dumps({"id": 7, "response": r"\boxed{é}", "gold": "é"}, ensure_ascii=False),
]


def graded(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_come_out_in_order_with_their_verdicts(tmp_path: Path) -> None:
    source, target = tmp_path / "rows.jsonl", tmp_path / "out" / "graded.jsonl"
    source.write_text("\n".join(LINES), encoding="utf-8")
    shown = io.StringIO()
    counts = grade_file(source, target, stream=shown)
    rows = graded(target)
    assert [row["reward"] for row in rows] == [1.0, 0.0, 1.0, 0.0, None, None, None, None, 1.0]
    assert [row.get("id") for row in rows] == [1, 2, 3, 4, None, None, 5, 6, 7]
    assert rows[0] == {"id": 1, "response": r"so \boxed{42}", "gold": "42", "reward": 1.0, "answer": "42", "reason": "same text"}
    assert rows[3]["reason"] == "no box" and rows[4]["reason"] == "malformed: no JSON" and rows[4]["line"] == "{not json"
    assert (counts["rows"], counts["right"], counts["malformed"]) == (9, 3, 4)
    assert "graded 9 rows" in shown.getvalue() and "right 60.00%" in shown.getvalue() and "4 malformed rows" in shown.getvalue()
    assert [path.name for path in target.parent.iterdir()] == ["graded.jsonl"]


def test_more_rows_than_a_chunk(tmp_path: Path) -> None:
    source, target = tmp_path / "rows.jsonl", tmp_path / "graded.jsonl"
    count = 2 * CHUNK_ROWS + 7
    source.write_text("".join(json.dumps({"response": f"\\boxed{{{n}}}", "gold": str(n - n % 2)}) + "\n" for n in range(count)))
    assert grade_file(source, target, stream=io.StringIO())["rows"] == count
    assert [row["reward"] for row in graded(target)] == [float(n % 2 == 0) for n in range(count)]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "rows.jsonl", tmp_path / "graded.jsonl"
    source.write_text(LINES[1], encoding="utf-8")
    arguments = ["grade", "--input", str(source), "--output", str(target)]
    assert main(arguments) == 0 and graded(target)[0]["reward"] == 0.0
    assert main([*arguments, "--grader", "reasoning360"]) == 0 and graded(target)[0]["reward"] == 1.0
    assert main(["grade", "--input", str(tmp_path / "none"), "--output", str(target)]) == 2
    assert "is no file" in capsys.readouterr().err


def test_mistakes(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text(LINES[0])
    with pytest.raises(UserError, match="is the input file"):
        grade_file(source, source)
    with pytest.raises(UserError, match="--workers 0"):
        grade_file(source, tmp_path / "out.jsonl", workers=0)


def samples() -> list[Sample]:
    responses = [r"\boxed{12}", r"\boxed{1200}", "12", r"\boxed{\sum}"]
    return [Sample("?", response, "12", "test", truncated=False) for response in responses]


def test_the_reward_counts_what_happened() -> None:
    verdicts = MathReward()(samples())
    assert [verdict.reward for verdict in verdicts] == [1.0, 0.0, 0.0, 0.0]
    assert [verdict.reason for verdict in verdicts] == ["same text", "different", "no box", "unreadable"]
    assert [verdict.answer for verdict in verdicts] == ["12", "1200", None, r"\sum"]
    assert MathReward()([]) == []


def test_the_reward_of_the_paper() -> None:
    assert [float(verdict) for verdict in Reasoning360Reward()(samples())] == [1.0, 1.0, 1.0, 0.0]
