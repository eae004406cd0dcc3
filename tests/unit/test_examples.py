"""The examples: values against the table in their README and the paper's text, fit, and what their launcher starts."""

from __future__ import annotations

import os
import re
import subprocess
from operator import attrgetter
from pathlib import Path

import pytest
import yaml

from megatron_sppo.cli import main
from megatron_sppo.config.load import load_config
from megatron_sppo.config.schema import Config

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
# name -> (nodes, GPUs per node, GPU) as examples/README.md says
RUNS = {
    "sppo_r1_1_5b": (1, 4, "a100"),
    "sppo_r1_7b": (1, 4, "h100"),
    "sppo_r1_7b_small_critic": (1, 4, "h100"),
    **{f"{name}_r1_1_5b": (1, 4, "a100") for name in ("grpo", "ppo", "rloo", "remax")},
    **{f"{name}_r1_7b": (1, 4, "h100") for name in ("grpo", "ppo", "rloo", "remax")},
    "sppo_qwen3_8b": (4, 8, "h100"),
    "sppo_qwen25_32b": (8, 8, "h100"),
}
# Commands of appendix E, in the order of the paper.
ELEVEN = (
    *("sppo_r1_1_5b", "sppo_r1_7b", "sppo_r1_7b_small_critic", "grpo_r1_1_5b", "grpo_r1_7b", "ppo_r1_1_5b", "ppo_r1_7b"),
    *("rloo_r1_1_5b", "rloo_r1_7b", "remax_r1_1_5b", "remax_r1_7b"),
)
NO_MODEL, NOT_GIVEN = "-", "not given"


def config(name: str) -> Config:
    return load_config(Config, [EXAMPLES / "configs" / f"{name}.yaml"])


def table(name: str) -> list[dict[str, str]]:
    """Rows of the README's table of the paper's values that has a column for this run."""
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for block in text.split("\n\n"):
        if block.startswith("| the paper's option") and f" {name} |" in block:
            cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
            return [row for row in (dict(zip(cells[0], row, strict=True)) for row in cells[2:]) if row[name] != NO_MODEL]
    raise AssertionError(f"no table has a column {name}")


def scalar(text: str) -> object:
    """As the config has it: ``1e-6`` is a number to us and a word to YAML."""
    try:
        return float(text)
    except ValueError:
        return yaml.safe_load(text)


def test_every_config_has_a_script_and_a_row() -> None:
    scripts = {path.stem for path in EXAMPLES.glob("*.sh")} - {"launch", "quickstart"}
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert scripts == set(RUNS) and all(f"`{name}.sh`" in readme for name in RUNS)
    for name in RUNS:
        text = (EXAMPLES / f"{name}.sh").read_text(encoding="utf-8")
        compile(text, name, "exec")  # what torchrun's Python reads
        assert f"configs/{name}.yaml" in text and config(name).run_dir == f"runs/{name}"


@pytest.mark.parametrize("name", ELEVEN)
def test_configs_hold_the_values_of_the_table(name: str) -> None:
    for row in table(name):
        value = attrgetter(row["here"])(config(name))
        assert value == scalar(row[name].partition(" [")[0]), row["here"]


@pytest.mark.parametrize("name", ELEVEN)
def test_the_table_holds_the_values_of_the_paper(name: str) -> None:
    """Where the paper's text is at hand; it is not part of the repository."""
    paper = ROOT.parent / "shared" / "paper" / "sppo_paper.txt"
    if not paper.is_file():
        pytest.skip(f"no text at {paper}")
    appendix = paper.read_text(encoding="utf-8").partition("E.1 SPPO (Ours)")[2]
    commands = re.findall(r"```(.*?)```", appendix, re.DOTALL)
    given = dict(re.findall(r"^ *([\w.]+)=(.*?) *\\? *(?:[$@]+\w*)?$", commands[ELEVEN.index(name)], re.MULTILINE))
    for row in table(name):
        here = re.search(r"\[(.+)\]", row[name])
        said = here[1] if here else row[name].removeprefix("models/")
        if said == NOT_GIVEN:
            assert row["the paper's option"] not in given
            continue
        assert scalar(said) == scalar(given[row["the paper's option"]].removeprefix("deepseek-ai/")), row["the paper's option"]


@pytest.mark.parametrize(("name", "machines"), RUNS.items())
def test_every_config_fits_its_hardware(name: str, machines: tuple[int, int, str], capsys: pytest.CaptureFixture[str]) -> None:
    """What `plan` advises against is the paper's own choice, and in no other config."""
    nodes, gpus, gpu = map(str, machines)
    path = EXAMPLES / "configs" / f"{name}.yaml"
    assert main(["plan", str(path), "--nodes", nodes, "--gpus-per-node", gpus, "--gpu", gpu]) == 0
    text = capsys.readouterr().out
    assert text.endswith("\nfits\n")
    advice = [line for line in text.splitlines() if line.startswith("warning: ") and "not on this machine" not in line]
    assert name in ELEVEN or not advice, advice


# --- launch.sh, with `torchrun` and `scontrol` that say what they were asked for ----------------------------------------


def launch(folder: Path, *words: str, script: str = "sppo_r1_7b.sh", **environment: str) -> subprocess.CompletedProcess[str]:
    programs = {"torchrun": 'echo "torchrun $*"; env', "scontrol": 'printf "gpu17\\ngpu18\\n"', "nvidia-smi": ":"}
    for name, body in programs.items():
        program = folder / name
        program.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        program.chmod(0o755)
    path = f"{folder}:/usr/bin:/bin"
    bare = {"PATH": path, "HOME": str(folder), **environment}
    return subprocess.run(
        ["bash", str(EXAMPLES / script), *words], env=bare, capture_output=True, text=True, timeout=30, check=False
    )


def test_one_machine(tmp_path: Path) -> None:
    done = launch(tmp_path, "steps=3", "data.prompt_suffix=a b", CUDA_VISIBLE_DEVICES="0,1,2,3", NCCL_IB_HCA="mlx5")
    assert done.returncode == 0, done.stderr
    first, *environment = done.stdout.splitlines()
    assert first == f"torchrun --standalone --nproc-per-node 4 {EXAMPLES}/sppo_r1_7b.sh steps=3 data.prompt_suffix=a b"
    assert "NCCL_IB_HCA=mlx5" in environment and any(line.startswith("TRITON_CACHE_DIR=/tmp/") for line in environment)


def test_a_config_of_your_own(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").touch()
    done = launch(tmp_path, str(tmp_path / "my.yaml"), "steps=3", script="launch.sh", NPROC_PER_NODE="2")
    wanted = f"torchrun --standalone --nproc-per-node 2 -m megatron_sppo.cli train {tmp_path}/my.yaml steps=3\n"
    assert done.stdout.startswith(wanted), done.stderr


def test_nodes_by_environment_and_by_slurm(tmp_path: Path) -> None:
    wanted = "torchrun --nnodes 2 --node-rank 1 --nproc-per-node 8 --master-addr {} --master-port {} "
    by_hand = launch(tmp_path, NNODES="2", NODE_RANK="1", MASTER_ADDR="host0", MASTER_PORT="1234", NPROC_PER_NODE="8")
    assert by_hand.stdout.startswith(wanted.format("host0", 1234))
    slurm = {"SLURM_NNODES": "2", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "gpu[17-18]", "SLURM_GPUS_ON_NODE": "8"}
    assert launch(tmp_path, **slurm).stdout.startswith(wanted.format("gpu17", 29500))
    assert launch(tmp_path, **slurm, MASTER_ADDR="other").stdout.startswith(wanted.format("other", 29500))


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"NNODES": "1"}, "set NPROC_PER_NODE to the number of ranks"),
        ({"NNODES": "2", "NPROC_PER_NODE": "8"}, "NODE_RANK is not set: give each node its number, 0 to 1"),
        ({"NNODES": "2", "NPROC_PER_NODE": "8", "NODE_RANK": "0"}, "MASTER_ADDR is not set"),
    ],
)
def test_what_the_launcher_misses(environment: dict[str, str], wanted: str, tmp_path: Path) -> None:
    done = launch(tmp_path, **environment)
    assert done.returncode == 2 and wanted in done.stderr and done.stderr.count("\n") == 1


def test_the_launcher_needs_an_environment(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(EXAMPLES / "sppo_r1_7b.sh")],
        env={"PATH": "/usr/bin:/bin", "NPROC_PER_NODE": "1", "HOME": os.environ.get("HOME", "/")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2 and "torchrun is not in PATH" in done.stderr
