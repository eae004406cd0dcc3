"""``megatron-sppo eval`` of a tiny model as a user starts it: on the five real benchmarks, killed and resumed, and compared."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from megatron_sppo.data.prepare.run import Request, prepare
from megatron_sppo.errors import UserError
from megatron_sppo.evaluation.arguments import add_arguments, config_of
from megatron_sppo.evaluation.run import prepare as prepare_evaluation
from tests.end_to_end.runs import AS_A_USER, TinyModel, command, start, write_problems
from tests.launch import kill_tree, run_in_group

BENCHMARKS = {
    "aime24": "math__aime_repeated_8x_240.parquet",
    "aime25": "math__aime2025_2025.parquet",
    "amc23": "math__amc23_2025.parquet",
    "math500": "math__math_500.parquet",
    "minerva": "math__minerva_math_2025_processed.parquet",
}
LIMIT, SAMPLES = 14, 2  # Minerva's problem 12 is the first with a repaired gold
EVEN = "tests.end_to_end.reward_functions:even_sum"  # a random model earns nothing from a math grader
TINY = ("--max-tokens", 12, "--temperature", 1.0, "--max-num-seqs", 16, "--cpu-kv-cache-gib", 0.0625)


@pytest.fixture(scope="module")
def data(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, file in BENCHMARKS.items():
        golds = str(shared_data / "minerva_golds_repaired.jsonl") if name == "minerva" else ""
        prepare(Request(name, str(shared_data / file), folder, minerva_golds=golds))
    return folder


@pytest.fixture(scope="module")
def words(shared_data: Path, data: Path, tiny_model: TinyModel) -> list[Any]:
    """The evaluation of a tiny model on five benchmarks, in 35 chunks; --output is still to be added."""
    overlap = ("--overlap", shared_data / "dapo_eval_overlap.json")
    size = ("--limit", LIMIT, "--samples", SAMPLES, "--chunk", 2)
    graders = ("--graders", f"{EVEN},boxed_numeric")
    return [
        "--model",
        tiny_model("qwen2"),
        "--benchmarks",
        ",".join(BENCHMARKS),
        "--data",
        data,
        *size,
        *TINY,
        *overlap,
        *graders,
    ]


@pytest.fixture(scope="module")
def finished(words: list[Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(output folder, what was printed) of one launch to its end."""
    folder = tmp_path_factory.mktemp("eval") / "out"
    return folder, run_in_group(command("eval", *words, "--output", folder), AS_A_USER, timeout=120)


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_five_benchmarks_in_one_launch(finished: tuple[Path, str]) -> None:
    folder, output = finished
    table = (folder / "table.md").read_text()
    assert table.strip() in output
    found = {line["name"]: line for line in results(folder)["results"]}
    assert list(found) == [
        *("aime24", "aime25", "amc23", "amc23 (without overlap)"),
        *("math500", "minerva", "minerva (golds as published)"),
    ]
    for name in BENCHMARKS:
        line, rows = found[name], lines(folder / f"{name}.jsonl")
        assert line["num_problems"] == len(rows) == LIMIT
        assert line["scores"]["boxed_numeric"]["avg"] == {"value": 0.0, "low": 0.0, "high": 0.0}
        rewards = [row["rewards"][EVEN] for row in rows]
        score = line["scores"][EVEN]
        assert score["avg"]["value"] == pytest.approx(sum(map(sum, rewards)) / (LIMIT * SAMPLES))
        assert score["pass_at"][str(SAMPLES)]["value"] == pytest.approx(sum(map(any, rewards)) / LIMIT)
        assert score["avg"]["low"] <= score["avg"]["value"] <= score["avg"]["high"]
        assert line["truncated"] == pytest.approx(sum(sum(row["truncated"]) for row in rows) / (LIMIT * SAMPLES))
        assert line["mean_tokens"] == pytest.approx(sum(sum(row["tokens"]) for row in rows) / (LIMIT * SAMPLES))
        assert f"| {name} | {LIMIT} |" in table
    assert 0.2 < results(folder)["mean"][EVEN]["value"] < 0.8
    assert found["amc23 (without overlap)"]["num_problems"] < LIMIT


def test_killed_and_resumed_gives_the_same_table(finished: tuple[Path, str], words: list[Any], tmp_path: Path) -> None:
    folder, _ = finished
    process = start(command("eval", *words, "--output", tmp_path))
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("samples/*/*.jsonl"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    kill_tree(process.pid)
    process.communicate()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("samples/*/*.jsonl")}
    assert 3 <= len(kept) < 35 and not (tmp_path / "results.json").exists()
    output = run_in_group(command("eval", *words, "--output", tmp_path), AS_A_USER, timeout=120)
    assert "were sampled before" in output
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "a finished chunk was sampled again"
    for name in ("table.md", *(f"{benchmark}.jsonl" for benchmark in BENCHMARKS)):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert results(tmp_path)["results"] == results(folder)["results"]


def test_other_settings_do_not_mix_with_what_is_there(finished: tuple[Path, str], words: list[Any]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    typed = parser.parse_args([str(word) for word in (*words, "--output", finished[0], "--seed", 2)])
    with pytest.raises(UserError, match="made with seed=1 and this command has 2"):
        prepare_evaluation(config_of(typed), world_size=1)


def test_two_ranks_and_a_baseline_that_is_a_model_or_a_folder(tiny_model: TinyModel, tmp_path: Path) -> None:
    problems = write_problems(tmp_path / "sums.jsonl", 6, seed=3)
    model = tiny_model("qwen2")
    other = tmp_path / "other"
    shutil.copytree(model, other)
    weights = load_file(model / "model.safetensors")
    save_file({name: 1.5 * tensor for name, tensor in weights.items()}, other / "model.safetensors", metadata={"format": "pt"})
    shared = ["--benchmarks", f"sums={problems}", "--samples", 4, "--nproc", 2, *TINY, "--graders", EVEN]

    def evaluate(subject: Path, output: str, *more: object) -> dict[str, Any]:
        words = ["--model", subject, "--output", tmp_path / output, *shared, *more]
        run_in_group(command("eval", *words), AS_A_USER, timeout=150)
        return results(tmp_path / output)

    alone = evaluate(other, "alone")
    by_model = evaluate(model, "by_model", "--baseline", other, "--tp", 2)
    by_folder = evaluate(model, "by_model", "--baseline", tmp_path / "alone")  # all samples are there: no engine is built
    (line,), (same,) = by_model["comparisons"], by_folder["comparisons"]
    assert line == same, "the engine that took over the baseline's weights samples as one that was built from them"
    assert line["baseline"] == alone["results"][0]["scores"][EVEN]["avg"]["value"]
    value = by_model["results"][0]["scores"][EVEN]["avg"]["value"]
    assert line["difference"]["value"] == pytest.approx(value - line["baseline"]) and 0 < line["p_value"] <= 1
    assert lines(tmp_path / "by_model" / "sums.jsonl") != lines(tmp_path / "alone" / "sums.jsonl")
