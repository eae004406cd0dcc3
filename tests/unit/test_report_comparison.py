"""`megatron-sppo report RUN... --out DIR`: a page that stands alone, hostile names, and the mistakes of a user."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from megatron_sppo.analysis.compared_runs import read_runs
from megatron_sppo.analysis.drawing import words
from megatron_sppo.cli import main
from tests.unit.report_runs import write_comparison_runs, write_probe, write_run


def test_the_page_stands_alone_and_says_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, out = write_comparison_runs(tmp_path / "runs"), tmp_path / "out"
    capsys.readouterr()
    assert main(["report", *map(str, runs), "--out", str(out), "--title", "All <methods>"]) == 0
    assert capsys.readouterr().out.strip() == str(out / "index.html")
    page = (out / "index.html").read_text()
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    names = {path.stem for path in out.glob("*.png")}
    assert {base64.b64decode(picture) for picture in pictures} == {path.read_bytes() for path in out.glob("*.png")}
    assert names == {path.stem for path in out.glob("*.svg")}
    assert names > {
        "score_time",
        "score_tokens",
        "loss_ablation",
        "grpo_advantage",
        "token_values_ppo_seed_1",
        "token_values_auroc",
    }
    assert max(path.stat().st_size for path in out.glob("*.png")) < 250_000
    assert "All &lt;methods&gt;" in page and "http" not in page and "src=" not in page.replace('src="data:', "")
    linked = {path.name for path in out.iterdir() if path.suffix in {".svg", ".csv"}} - {"runs.csv"}
    assert set(re.findall(r'href="([^"]+)"', page)) == linked
    assert "Memory (fig. 6): no configs to plan were given" in page and "not drawn" not in page


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>$\\frac{"
    folder = write_run(tmp_path / "<b>_$x^{" / "_run", "sppo", 1, {0: 0.4, 2: 0.5}, benchmarks=("<i>$\\bad",))
    other = write_run(tmp_path / "<b>_$x^{" / "other", "ppo", 1, {0: 0.4, 2: 0.5}, benchmarks=("<i>$\\bad",))
    write_probe(folder, token_level=True, num_prompts=6)
    probe = folder / "critic_probe"
    (probe / "prompts.jsonl").write_text('{"prompt": "<u>$\\\\q", "value": 0.5, "successes": 1, "samples": 2}\n' * 5)
    trajectories = (probe / "trajectories.jsonl").read_text()
    (probe / "trajectories.jsonl").write_text(trajectories.replace('"prompt": "p', '"prompt": "<img src=x>$\\\\p'))
    out = tmp_path / "out"
    assert main(["report", f"{evil}={folder}", str(other), "--out", str(out), "--title", evil]) == 0
    page = (out / "index.html").read_text()
    assert "<script>" not in page and "<b>" not in page and "<i>" not in page and "<img src=x" not in page
    assert "&lt;script&gt;" in page
    assert all(re.fullmatch(r"[A-Za-z0-9_]+\.(png|svg|csv|html)", path.name) for path in out.iterdir())
    assert "<script>" not in (out / "score_time.svg").read_text()


def test_words_of_a_user_are_no_markup_of_the_plot() -> None:
    assert words("$a$") == r"\$a\$" and words("_x") == " _x" and words("a\nb\x00") == "a b " and len(words("x" * 99)) == 40


def mistake(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["report", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("megatron-sppo: error: ")
    return said


def test_a_users_mistake_is_told_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left, right = (write_run(tmp_path / name / "seed_1", "sppo", 1, {0: 0.4, 1: 0.5}) for name in ("left", "right"))
    capsys.readouterr()
    (tmp_path / "empty").mkdir()
    out = ("--out", str(tmp_path / "out"))
    assert "2 runs were given but no folder" in mistake(str(left), str(right), capsys=capsys)
    assert "metrics.jsonl does not exist" in mistake(str(left), str(tmp_path / "empty"), *out, capsys=capsys)
    assert "is given twice" in mistake(str(left), str(left / ".." / "seed_1"), *out, capsys=capsys)
    assert "are both SPPO with seed=1: leave one out, or name its method" in mistake(str(left), str(right), *out, capsys=capsys)
    assert "names no method" in mistake(f"={left}", *out, capsys=capsys)
    assert "--plan draws a figure" in mistake(str(left), "--plan", "a.yaml", capsys=capsys)
    assert "--gpu abacus is none that is known" in mistake(str(left), *out, "--plan", "a.yaml", "--gpu", "abacus", capsys=capsys)
    assert "is a file: name a folder" in mistake(str(left), "--out", str(left / "config.yaml"), capsys=capsys)
    (left / "critic_probe").mkdir()
    (left / "critic_probe" / "prompts.jsonl").write_text('{"prompt": "a", "value": 0.5, "successes": 3, "samples": 2}\n')
    assert "prompts.jsonl line 1 is not a row of a critic probe" in mistake(str(left), *out, capsys=capsys)
    (left / "config.yaml").write_text("seed: [")
    assert "config.yaml is not YAML" in mistake(str(left), *out, capsys=capsys)
    (left / "config.yaml").write_text("seed: 1\nmodel: {path: a}\n")  # of an SFT run
    assert "has no algorithm.name or no seed" in mistake(str(left), *out, capsys=capsys)
    (left / "config.yaml").unlink()
    assert "config.yaml does not exist" in mistake(str(left), *out, capsys=capsys)
    (left / "metrics.jsonl").write_text('{"loss": 1.0}\n')
    assert "no run wrote it" in mistake(str(left), *out, capsys=capsys)


def test_a_label_makes_two_configs_two_methods(tmp_path: Path) -> None:
    left, right = (write_run(tmp_path / name, "sppo", 1, {0: 0.4, 1: 0.5}) for name in ("left", "right"))
    found = read_runs([str(left), f"small critic={right}"])
    assert [(run.name, run.method, run.algorithm) for run in found] == [
        ("left", "SPPO", "sppo"),
        ("right", "small critic", "sppo"),
    ]
