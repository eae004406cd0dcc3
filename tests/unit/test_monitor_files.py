"""metrics.jsonl and samples.jsonl: complete after each line, and equal after a resume."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from megatron_sppo.config.schema import LoggingConfig
from megatron_sppo.errors import UserError
from megatron_sppo.monitor.jsonl import JsonlFile, read_jsonl
from megatron_sppo.monitor.samples import Sample, SampleWriter
from megatron_sppo.monitor.sinks import Sinks, open_sinks


def write_steps(run_dir: Path, first: int, last: int) -> None:
    with open_sinks(LoggingConfig(), run_dir, first, {}) as sinks:
        if first == 0:
            sinks.write(0, {"validation/arith/avg@8": 0.25}, "validation")
        for step in range(max(first, 1), last + 1):
            sinks.write(step, {"reward/mean": step / 3, "actor/kl": 1e-17 * step}, "train")
            if step % 2 == 0:
                sinks.write(step, {"validation/arith/avg@8": step / 7}, "validation")


def test_a_resumed_file_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    write_steps(tmp_path / "whole", 0, 10)
    write_steps(tmp_path / "parts", 0, 7)  # stopped at 7, the checkpoint is of step 5
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 8, "reward/me')  # cut off by the crash
    write_steps(tmp_path / "parts", 6, 10)
    assert (tmp_path / "parts" / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()


def test_a_new_run_starts_a_new_file(tmp_path: Path) -> None:
    write_steps(tmp_path, 0, 3)
    write_steps(tmp_path, 0, 1)
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [0, 1]


def test_each_line_is_on_disk_at_once_and_is_strict_json(tmp_path: Path) -> None:
    with JsonlFile(tmp_path / "a.jsonl", 0) as file:
        file.append({"step": 1, "critic/auroc": math.nan, "reward/mean": 0.5})
        assert (tmp_path / "a.jsonl").read_text() == '{"step": 1, "critic/auroc": null, "reward/mean": 0.5}\n'
    assert list(tmp_path.iterdir()) == [tmp_path / "a.jsonl"]


def test_a_broken_line_inside_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl line 2 is not JSON"):
        open_sinks(LoggingConfig(), tmp_path, 2, {})


def test_no_sinks_is_a_sink() -> None:
    with Sinks(()) as sinks:
        assert sinks.write(1, {"reward/mean": 1.0}, "train") is None


def test_samples_continue_too(tmp_path: Path) -> None:
    def sample(step: int) -> Sample:
        return Sample(step, "arith", "arith:0", "2+2=", "\\boxed{4} \u2713", "4", "4", 1.0, "same text", 7, False)

    with SampleWriter(tmp_path, 0) as writer:
        writer.write([sample(0), sample(5)])
    with SampleWriter(tmp_path, 4) as writer:
        writer.write([sample(4)])
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 4]
    assert Sample(**rows[1]) == sample(4)


def test_tensorboard_events_can_be_read_back(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with open_sinks(LoggingConfig(tensorboard=True), tmp_path, 0, {}) as sinks:
        for step in (1, 2):
            sinks.write(step, {"reward/mean": step / 2, "critic/auroc": math.nan}, "train")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["reward/mean"]
    assert [(event.step, event.value) for event in events.Scalars("reward/mean")] == [(1, 0.5), (2, 1.0)]


def test_wandb_offline_keeps_its_id_over_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    logging, ids = LoggingConfig(wandb="offline"), []
    for first_step in (0, 2, 0):
        with open_sinks(logging, tmp_path, first_step, {"steps": 3}) as sinks:
            sinks.write(first_step + 1, {"reward/mean": 0.5}, "train")
        ids.append((tmp_path / "wandb_id.txt").read_text().strip())
    assert ids[0] == ids[1] != ids[2]
    stored = sorted(path.name for path in (tmp_path / "wandb").glob("offline-run-*"))
    assert [name.rpartition("-")[2] for name in stored].count(ids[0]) == 2
    assert all(any((tmp_path / "wandb" / name).glob("*.wandb")) for name in stored)
