"""examples/nemo_run with the real NeMo-Run, which lives in an environment of its own: pytest --nemo-run-python PYTHON."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.launch import ROOT, kill_tree


def launch(request: pytest.FixtureRequest, home: Path, *words: str, timeout: float = 60) -> str:
    """Output of launch.py; NeMo-Run keeps its experiments in ``home``."""
    python = request.config.getoption("--nemo-run-python")
    if not python:
        pytest.skip("needs --nemo-run-python")
    environment = {**os.environ, "NEMORUN_HOME": str(home), "COLUMNS": "1000"}
    command = [python, str(ROOT / "examples/nemo_run/launch.py"), *words]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipe)
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        kill_tree(process.pid)
    assert process.returncode == 0, output
    return output


def test_what_slurm_would_be_given(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    place = ["--account", "me", "--partition", "gpu", "--container", "sppo.sqsh", "--mounts", "/a:/work/models", "/b:/work/runs"]
    words = ["--recipe", "sppo_r1_7b", "--executor", "slurm", "--nodes", "4", "--gpus-per-node", "8", *place]
    output = launch(request, tmp_path, *words, "--env", "NCCL_IB_HCA=mlx5", "--dryrun", "--", "actor.tp=8", "critic.tp=8")
    for line in ("account=me", "partition=gpu", "nodes=4", "ntasks-per-node=1", "gpus-per-node=8"):
        assert f"#SBATCH --{line}\n" in output.replace(" \n", "\n") or f"#SBATCH --{line} " in output, line
    assert "export WORKDIR=/work" in output and "export NCCL_IB_HCA=mlx5" in output
    assert 'export MASTER_ADDR="$head_node_ip" MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))' in output
    assert "--container-image sppo.sqsh --container-mounts /a:/work/models,/b:/work/runs," in output
    assert "bash /opt/megatron_sppo/examples/sppo_r1_7b.sh actor.tp=8 critic.tp=8" in output


def test_what_a_cloud_would_be_given(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    place = ["--container", "registry/sppo:gpu", "--node-group", "mine", "--resource-shape", "gpu.8xh100-sxm"]
    output = launch(request, tmp_path, "--recipe", "sppo_qwen3_8b", "--executor", "lepton", *place, "--dryrun", "--", "steps=3")
    assert "cmd: bash /opt/megatron_sppo/examples/sppo_qwen3_8b.sh steps=3" in output
    for said in ("container_image='registry/sppo:gpu'", "nodes=4, gpus_per_node=8", "'NPROC_PER_NODE': '8'", "node_group='mine'"):
        assert said in output, said


def test_this_machine_trains_the_quickstart(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    words = ["--recipe", "quickstart", "--", "--run-dir", str(tmp_path / "run"), "steps=2"]
    output = launch(request, tmp_path / "home", *words, timeout=900)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["steps"] == 2 and (tmp_path / "run" / "report.html").is_file(), output
