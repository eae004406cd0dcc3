"""The layout of the ranks is not part of the method: TP2, PP2, DP2 and CP2 runs of the same seed report the same numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from megatron_sppo.monitor.jsonl import read_jsonl
from tests.end_to_end.runs import TinyModel, rows, train, write_config

LAYOUTS = {
    "tp2": ("actor.tp=2", "actor.sequence_parallel=true", "logging.wandb=offline", "logging.tensorboard=true"),
    "pp2": ("actor.pp=2", "critic.tp=2"),
    "dp2": ("critic.pp=2", "rollout.tp=2"),
    "cp2": ("actor.cp=2", "critic.cp=2", "rollout.weight_sync=gather"),
}
TOLERANCE = 1e-4  # of what one forward and backward in fp32 gives; a step later Adam has amplified rounding
# Of the trainer against the engine: rounding itself, so that only its size can be compared.
ROUNDING = ("mismatch/",)


@pytest.fixture(scope="module")
def folders(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("layouts")
    config = write_config(root, tiny_model)
    mini_batches = ("actor.mini_batch_size=0", "critic.mini_batch_size=0")
    for name, overrides in LAYOUTS.items():
        train(config, root / name, *mini_batches, "validation.every=2", *overrides)
    return {name: root / name for name in LAYOUTS}


def compared(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if "/" in name and not name.startswith(("time/", "perf/", *ROUNDING))}


@pytest.mark.parametrize("layout", ["pp2", "dp2", "cp2"])
def test_the_first_step_is_the_same(folders: dict[str, Path], layout: str) -> None:
    expected, found = (compared(rows(folders[name], "train")[1]) for name in ("tp2", layout))
    assert {"reward/mean", "actor/loss", "actor/entropy", "actor/grad_norm", "critic/bce", "critic/grad_norm"} <= expected.keys()
    assert found == pytest.approx(expected, abs=TOLERANCE, rel=TOLERANCE)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_every_step_is_sound(folders: dict[str, Path], layout: str) -> None:
    """After an update of any layout the engine still samples from the trainer's policy."""
    for metrics in rows(folders[layout], "train").values():
        assert metrics["mismatch/logprob_abs_max"] < 1e-3
        assert 0 <= metrics["reward/mean"] <= 1 and 0 < metrics["critic/value_mean"] < 1
        assert all(math.isfinite(value) for value in compared(metrics).values())
        phases = sum(value for name, value in metrics.items() if name.startswith("time/") and name != "time/step")
        assert 0.5 * metrics["time/step"] < phases <= 1.001 * metrics["time/step"]
    first, second = (rows(folders[layout], "train")[step] for step in (1, 2))
    assert first["critic/value_mean"] == pytest.approx(0.5) and second["critic/value_mean"] != first["critic/value_mean"]


def test_tensorboard_has_what_metrics_jsonl_has(folders: dict[str, Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folders["tp2"] / "tensorboard"))
    events.Reload()
    written = read_jsonl(folders["tp2"] / "metrics.jsonl")
    names = {name for row in written for name in row if "/" in name}
    assert set(events.Tags()["scalars"]) == names
    for row in (row for row in written if row["kind"] == "train"):
        (event,) = [event for event in events.Scalars("reward/mean") if event.step == row["step"]]
        assert event.value == pytest.approx(row["reward/mean"])


def test_wandb_offline_has_what_metrics_jsonl_has(folders: dict[str, Path]) -> None:
    (log,) = (folders["tp2"] / "wandb").glob("offline-run-*/*.wandb")
    content = log.read_bytes()
    for row in read_jsonl(folders["tp2"] / "metrics.jsonl"):
        for name in (name for name in row if "/" in name):
            assert name.encode() in content, name
