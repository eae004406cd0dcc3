"""A killed run goes on as if nothing had happened; a report without runs."""

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


def test_a_report_without_runs_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["control", "report", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "holds no finished run" in capsys.readouterr().err
