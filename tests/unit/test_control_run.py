"""Whole runs on Precision CartPole: the success rate rises, a killed run goes on as if nothing had happened, and the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_sppo.cli import main
from megatron_sppo.config.load import load_config
from megatron_sppo.control.config import ControlConfig, NetworkConfig
from megatron_sppo.control.networks import new_policy
from megatron_sppo.control.progress import Progress
from megatron_sppo.control.results import load
from megatron_sppo.control.run import run, run_folder
from megatron_sppo.control.stages import finetune
from megatron_sppo.control.tasks import TASKS
from megatron_sppo.monitor.jsonl import read_jsonl

EXAMPLE = Path(__file__).parents[2] / "examples" / "control" / "cartpole.yaml"


class Killed(Exception):
    pass


class KillAfter(Progress):
    """Stops the run where it says how far it is."""

    def __init__(self, updates: int) -> None:
        super().__init__("test")
        self._updates = updates

    def show(self, stage: str, done: int, total: int, text: str) -> None:
        if done == self._updates:
            raise Killed


def rows_without_times(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_jsonl(folder / "metrics.jsonl")]


@pytest.mark.parametrize("algorithm", ["sppo", "ppo"])
def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path, algorithm: str) -> None:
    config = load_config(
        ControlConfig, [EXAMPLE], [f"algorithm={algorithm}", "rl.updates=6", "rl.trajectories=8", "rl.checkpoint_every=2"]
    )
    task = TASKS["cartpole"]

    def start(folder: str, progress: Progress) -> torch.nn.Module:
        policy = new_policy(task, NetworkConfig(hidden=(32, 32)), 7)
        finetune(task, config, policy, tmp_path / folder, progress)
        return policy

    whole = start("whole", Progress("test"))
    with pytest.raises(Killed):
        start("killed", KillAfter(5))  # one update after its last checkpoint
    resumed = start("killed", Progress("test"))
    assert rows_without_times(tmp_path / "killed") == rows_without_times(tmp_path / "whole")
    assert all(torch.equal(weight, resumed.state_dict()[name]) for name, weight in whole.state_dict().items())


@pytest.mark.end_to_end
def test_sppo_makes_cartpole_more_precise(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = [f"run_dir={tmp_path}", "expert.max_updates=40", "rl.updates=40", "rl.ppo.actor_lr=1e-3"]
    assert main(["control", "run", str(EXAMPLE), *words]) == 0
    assert "ETA" in capfd.readouterr().err
    [found] = load(tmp_path)
    before, after = found.result["before/success"], found.result["after/success"]
    assert 0.05 < before < 0.6, "the warm start is neither hopeless nor perfect"
    assert after > before + 0.2
    assert found.result["after/low"] < after < found.result["after/high"]

    config = load_config(ControlConfig, [EXAMPLE], words)
    assert run(config) == found.result, "a finished run is read, not repeated"
    weights = torch.load(run_folder(config) / "checkpoint.pt", weights_only=True)
    assert weights["done"] == 40

    assert main(["control", "report", str(tmp_path), "--out", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report" / "control_curves.png").stat().st_size > 10_000
    assert "| Precision CartPole | sppo | 1 |" in (tmp_path / "report" / "tables.md").read_text()
    assert len((tmp_path / "report" / "control_curves.csv").read_text().splitlines()) == 41


def test_a_report_without_runs_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["control", "report", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "holds no finished run" in capsys.readouterr().err
