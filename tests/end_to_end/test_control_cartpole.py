"""The three stages on Precision CartPole, small: the success rate rises, and the report shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megatron_sppo.cli import main
from megatron_sppo.config.load import load_config
from megatron_sppo.control.config import ControlConfig
from megatron_sppo.control.results import load
from megatron_sppo.control.run import run, run_folder

EXAMPLE = Path(__file__).parents[2] / "examples" / "control" / "cartpole.yaml"


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
