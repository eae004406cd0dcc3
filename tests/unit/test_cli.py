"""The command line as a user meets it: quick help, one-line errors, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_sppo import __version__
from megatron_sppo.cli import main
from megatron_sppo.config.load import describe
from megatron_sppo.config.schema import Config, SFTConfig


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "megatron_sppo.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment}, check=False)


@pytest.mark.parametrize("command", [(), ("train",), ("sft",), ("check",), ("report",), ("probe",), ("grade",), ("config",)])
def test_help_reads_well_and_shows_an_example(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0 and shown.startswith("usage: megatron-sppo")
    if command:
        assert f"\nexample:\n  megatron-sppo {command[0]} " in shown
    else:
        assert all(f"    {name} " in shown for name in ("train", "sft", "check", "report", "config"))
    assert max(map(len, shown.splitlines())) <= 130


def test_help_imports_nothing_heavy() -> None:
    script = "import sys\nfrom megatron_sppo.cli import build_parser\nbuild_parser().format_help()\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "vllm", "megatron", "omegaconf", "matplotlib", "numpy"} & set(loaded)
    started = time.perf_counter()
    assert run("--help").returncode == 0
    assert time.perf_counter() - started < 2.0, "an idle machine takes a tenth of this"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"megatron-sppo {__version__}\n"


@pytest.mark.parametrize(("kind", "schema"), [("train", Config), ("sft", SFTConfig)])
def test_config_lists_every_knob_with_its_meaning(kind: str, schema: type, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", kind]) == 0
    shown = capsys.readouterr().out
    for knob in describe(schema):
        assert f"{knob.key}  (" in shown and f"    {knob.meaning}\n" in shown


def test_config_shows_types_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    main(["config"])
    shown = capsys.readouterr().out
    assert "critic.optimizer.lr  (float; default 5e-06)" in shown
    assert "actor.dtype  (auto | fp32 | bf16; default auto)" in shown
    assert "actor.path  (text; required)" in shown
    assert "rollout.sleep  (true | false; default true)" in shown
    assert "data.system_prompt  (text; default '')" in shown


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("train", "gone.yaml"), "config file gone.yaml does not exist"),
        (("sft", "gone.yaml"), "config file gone.yaml does not exist"),
        (("train", "CONFIG", "stepz=5"), "unknown key stepz on the command line: did you mean steps?"),
        (("train", "CONFIG", "--nproc", "2", "actor.tpp=5"), "did you mean actor.tp?"),
        (("train", "CONFIG", "--nproc", "0"), "--nproc 0 starts nothing"),
        (("check", "--model", "m", "--tp", "0"), "--tp 0 --pp 1 must both be at least 1"),
        (("report", "gone"), "gone/metrics.jsonl does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], wanted: str) -> None:
    (tmp_path / "c.yaml").write_text("steps: 3\n")
    result = run(*(str(tmp_path / "c.yaml") if word == "CONFIG" else word for word in arguments))
    assert result.returncode == 2
    assert result.stderr.startswith("megatron-sppo: error: ") and wanted in result.stderr
    assert result.stderr.count("\n") == 1 and result.stdout == ""


def test_unknown_words_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["export", "a", "b"], ["train", "a.yaml", "--nprocs=2", "steps=1"], []):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    assert "unrecognized arguments: --nprocs=2" in capsys.readouterr().err


def test_starting_ranks_within_a_rank_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("steps: 3\n")
    result = run("train", str(tmp_path / "c.yaml"), "--nproc", "2", RANK="0")
    assert result.returncode == 2 and "leave --nproc out" in result.stderr


def test_ranks_that_fail_alike_print_one_sentence() -> None:
    """Both ranks of a torchrun meet the same mistake; the user reads it once and sees no stack trace."""
    script = "import sys; from megatron_sppo.launch import run_ranks; sys.exit(run_ranks(2, ['train', 'gone.yaml']))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("config file gone.yaml does not exist") == 1
    assert "Traceback" not in result.stderr and "rank 1" not in result.stderr


def test_ranks_that_succeed() -> None:
    script = "import sys; from megatron_sppo.launch import run_ranks; sys.exit(run_ranks(2, ['config', 'sft']))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0 and result.stdout.count("batch_size  (int; default 64)") == 2


def test_a_mistake_on_one_rank_alone_is_told_by_that_rank() -> None:
    result = run("train", "gone.yaml", RANK="1")
    assert result.returncode == 2
    assert result.stderr.startswith("megatron-sppo: error: rank 1: config file gone.yaml does not exist")
