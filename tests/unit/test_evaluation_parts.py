"""Around the estimators: what is measured, what is kept on disk, what is compared; and mistakes before any model is loaded."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_sppo.batch import Prompts, Rollouts
from megatron_sppo.cli import main
from megatron_sppo.config.schema import EvalConfig
from megatron_sppo.errors import UserError
from megatron_sppo.evaluation.arguments import add_arguments, config_of, words_of
from megatron_sppo.evaluation.comparison import compare
from megatron_sppo.evaluation.problems import Problems, load_problems
from megatron_sppo.evaluation.run import prepare
from megatron_sppo.evaluation.scoring import grade_problems, results_of
from megatron_sppo.evaluation.store import Response, SampleStore
from megatron_sppo.evaluation.table import comparison_table, results_table
from megatron_sppo.ragged import Ragged
from megatron_sppo.rewards.boxed import BoxedNumeric
from tests.tiny_models import save_tiny_model


def parse(*words: str) -> EvalConfig:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return config_of(parser.parse_args(["--model", "m", "--benchmarks", "aime24,mine=a.jsonl", *words]))


def test_presets_and_what_overrides_them() -> None:
    paper, deepseek = parse("--preset", "paper"), parse("--preset", "deepseek", "--samples", "4")
    assert (paper.temperature, paper.top_p, paper.max_tokens, paper.samples) == (0.6, 1.0, 8192, 16)
    assert (deepseek.temperature, deepseek.top_p, deepseek.max_tokens, deepseek.samples) == (0.6, 0.95, 32768, 4)
    assert paper.benchmarks == ("aime24", "mine=a.jsonl")


def test_ranks_are_started_with_the_same_config() -> None:
    config = parse("--preset", "deepseek", "--system-prompt", "-x y", "--graders", "boxed_exact,boxed_numeric", "--tp", "2")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert config_of(parser.parse_args(words_of(config))) == config


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def two_problems(tmp_path: Path) -> Path:
    repaired = {"original_answer": "\\frac{1", "provenance": {"repaired": True}}
    kept = {"original_answer": "07", "provenance": {"repaired": False}}
    return write(tmp_path / "x.jsonl", [{"prompt": "a", "answer": "7", **kept}, {"prompt": "b", "answer": "1/2", **repaired}])


def test_problems_with_published_golds_and_overlaps(two_problems: Path, tmp_path: Path) -> None:
    overlap = tmp_path / "overlap.json"
    overlap.write_text(json.dumps({"MY-set": [{"eval_row": 1}, {"eval_row": 1}], "other": []}))
    (found,) = load_problems([f"myset={two_problems}"], "data", str(overlap), 0)
    assert [row.id for row in found.rows] == ["myset:0", "myset:1"] and found.original_golds == ("07", "\\frac{1")
    assert found.overlapping == {1}
    (first,) = load_problems([f"myset={two_problems}"], "data", str(overlap), 1)
    assert len(first.rows) == 1 and first.original_golds == () and first.overlapping == frozenset()
    for entry, folder in (("x", str(tmp_path)), (f"x={tmp_path}", "data")):
        assert [row.id for row in load_problems([entry], folder, "", 0)[0].rows] == ["x:0", "x:1"]


@pytest.mark.parametrize(
    ("benchmarks", "overlap", "message"),
    [
        (["aime24"], "", "aime24.jsonl is not there; make it with"),
        (["../x=y"], "", "is not a name"),
        (["x", "x"], "", "names x twice"),
        (["x=twice.jsonl"], "", "1 distinct problems in 2 rows"),
        (["x=gone.jsonl"], "", "gone.jsonl"),
        (["x"], "gone.json", "--overlap gone.json cannot be read"),
        (["x"], "other.json", "speaks of none of the benchmarks; it knows other"),
    ],
)
def test_mistakes_in_the_choice_of_benchmarks(
    two_problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, benchmarks: list[str], overlap: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("twice.jsonl"), [{"prompt": "a", "answer": "7"}] * 2)
    Path("other.json").write_text(json.dumps({"other": []}))
    with pytest.raises(UserError, match=message):
        load_problems(benchmarks, ".", overlap, 0)


def responses(*texts: str) -> list[Response]:
    return [Response(text, len(text), text == "") for text in texts]


def graded_example(two_problems: Path) -> tuple[Problems, list[Any]]:
    (problems,) = load_problems([f"x={two_problems}"], "data", "", 0)
    problems = Problems(problems.name, problems.rows, problems.original_golds, frozenset([1]))
    samples = [responses("\\boxed{7}", "\\boxed{7.0}", "\\boxed{8}", ""), responses("\\boxed{0.5}", "1/2", "", "\\boxed{2}")]
    return problems, grade_problems(problems, samples, {"boxed_numeric": BoxedNumeric()})


def test_scores_of_a_benchmark_and_its_variants(two_problems: Path) -> None:
    problems, graded = graded_example(two_problems)
    whole, clean, published = results_of(problems, graded)
    score = whole.scores["boxed_numeric"]
    assert score.avg.value == (2 / 4 + 1 / 4) / 2
    assert score.maj.value == (1.0 + 0.5) / 2  # 7 wins by value; 1/2 ties with 2
    assert {k: found.value for k, found in score.pass_at.items()} == pytest.approx({1: 0.375, 2: (5 / 6 + 1 / 2) / 2, 4: 1.0})
    assert (whole.no_box, whole.truncated, whole.num_problems) == (3 / 8, 2 / 8, 2)
    assert (clean.name, clean.num_problems, clean.scores["boxed_numeric"].avg.value) == ("x (without overlap)", 1, 0.5)
    assert (published.name, published.scores["boxed_numeric"].avg.value) == ("x (golds as published)", 0.25)
    assert graded[0].row()["avg"] == {"boxed_numeric": 0.5} and graded[0].row()["answers"] == ("7", "7.0", "8", None)


def test_the_table_is_markdown_with_as_many_cells_in_every_row(two_problems: Path) -> None:
    problems, graded = graded_example(two_problems)
    results = results_of(problems, graded)
    table = results_table(results, {"boxed_numeric": results[0].scores["boxed_numeric"].avg})
    lines = table.splitlines()
    assert {line.count("|") for line in lines} == {9} and len(lines) == 6
    assert lines[2].startswith("| x | 2 | 37.5 (25.0 to 50.0) | 100.0 (100.0 to 100.0) | 75.0 (50.0 to 100.0) | 37.5 | 25.0 |")


def test_comparison_is_paired() -> None:
    """A constant gain on problems of very different difficulty: no uncertainty is left when pairs are compared."""
    baseline = {str(n): {"g": n / 40, "other": 0.0} for n in range(20)}
    model = {name: {"g": found["g"] + 0.125} for name, found in baseline.items()}
    (line,) = compare("x", model, baseline)
    assert (line.grader, line.num_problems, line.baseline) == ("g", 20, pytest.approx(9.5 / 40))
    assert (line.difference.low, line.difference.high) == (pytest.approx(0.125), pytest.approx(0.125))
    assert line.p_value < 0.001
    assert comparison_table([line]).splitlines()[2] == "| x | g | 20 | 23.8 | +12.5 (+12.5 to +12.5) | <0.001 |"


def rollouts(ids: tuple[str, ...], texts: tuple[str, ...]) -> Rollouts:
    tokens = Ragged.from_rows([[1]] * len(ids), torch.int64)
    answers = Ragged.from_rows([[1] * (index + 1) for index in range(len(texts))], torch.int64)
    return Rollouts(
        prompts=Prompts(ids, ids, ids, ids, tokens),
        prompt_index_B=torch.arange(len(ids)).repeat_interleave(len(texts) // len(ids)),
        response_tokens=answers,
        engine_logprobs=Ragged(answers.values.float(), answers.lengths),
        truncated_B=torch.tensor([False, True] * (len(texts) // 2)),
        texts=texts,
    )


def test_the_store_goes_on_after_the_last_whole_chunk(tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "s", 3, 2, {"seed": 1})
    store.check()
    assert store.missing() == [range(2), range(2, 3)]
    store.write(rollouts(("a", "b"), ("w\u2028x\n", "", "ü", "\x85")), range(2))
    (tmp_path / "s" / "00001.jsonl.draft").write_text('{"id": "c", "resp')  # killed while writing
    again = SampleStore(tmp_path / "s", 3, 2, {"seed": 1})
    again.check()
    assert again.missing() == [range(2, 3)]
    again.write(rollouts(("c",), ("1", "2")), range(2, 3))
    b, a, c = again.read(["b", "a", "c"])
    assert a == [Response("w\u2028x\n", 1, False), Response("", 2, True)] and again.missing() == []
    assert b == [Response("ü", 3, False), Response("\x85", 4, True)] and c == [Response("1", 1, False), Response("2", 2, True)]


def test_samples_of_other_settings_are_not_taken_over(tmp_path: Path) -> None:
    SampleStore(tmp_path, 2, 2, {"seed": 1}).write(rollouts(("a", "b"), ("1", "2", "3", "4")), range(2))
    with pytest.raises(UserError, match="made with seed=1 and this command has 2"):
        SampleStore(tmp_path, 2, 2, {"seed": 2}).check()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model("qwen2", tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 0}, "samples=0 must be at least 1"),
        ({"top_p": 0.0}, "top_p=0.0 must be in"),
        ({"tp": 2}, "--tp 2 does not divide the 1 ranks"),
        ({"max_tokens": 2048}, "--max-tokens 2048 and a prompt of 1 tokens exceed the 2048 positions .* --max-tokens 2047"),
        ({"model": "nowhere"}, "--model=nowhere has no config.json"),
        ({"baseline": "nowhere"}, "--baseline=nowhere has no config.json"),
        ({"graders": ("none",)}, "--graders='none'"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(
    model: str, two_problems: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    values = {"model": model, "benchmarks": (f"x={two_problems}",), "output": str(tmp_path / "out"), "max_tokens": 16, **change}
    with pytest.raises(UserError, match=message):
        prepare(EvalConfig(**values), world_size=1)
    assert not (tmp_path / "out").exists()


def test_an_empty_name_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--model", "m", "--benchmarks", "a,,b"]) == 2
    assert "--benchmarks 'a,,b' has an empty entry" in capsys.readouterr().err
