"""`<run_dir>/stop` ends a run with a checkpoint of the step just done; the same command goes on from there."""

from __future__ import annotations

import time
from pathlib import Path

from tests.end_to_end.runs import TinyModel, command, finish, rows, start, train, write_config

WORDS = ("steps=400", "actor.tp=2", "checkpoint.every=0")


def test_a_stop_file_ends_a_run_that_then_goes_on(tiny_model: TinyModel, tmp_path: Path) -> None:
    config, run_dir = write_config(tmp_path, tiny_model), tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "stop").touch()  # of the run before: it must not end this one
    process = start(command("train", config, "--nproc", 2, f"run_dir={run_dir}", *WORDS))
    deadline = time.monotonic() + 200
    while not (run_dir / "metrics.jsonl").is_file() or not rows(run_dir, "train"):
        assert process.poll() is None and time.monotonic() < deadline, "no step"
        time.sleep(0.05)
    (run_dir / "stop").touch()
    code, stdout, stderr = finish(process)
    assert code == 0, stderr[-4000:]
    last = max(rows(run_dir, "train"))
    assert last < 400 and f"stopped after step {last}, saved, as {run_dir}/stop asks" in stdout
    assert (run_dir / "checkpoints" / "latest").read_text().strip() == f"step_{last:06d}"
    output = train(config, run_dir, f"steps={last + 1}", *WORDS[1:])
    assert f"starting at step {last + 1}" in output and sorted(rows(run_dir, "train")) == list(range(1, last + 2))
