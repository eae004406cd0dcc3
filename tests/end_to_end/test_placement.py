"""Ranks that train and ranks that roll out: the same numbers as colocated, one step ahead if asked, and an end when one dies."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from megatron_sppo.monitor.jsonl import read_jsonl
from tests.end_to_end.runs import TinyModel, command, finish, rows, start, train, without_clocks, write_config
from tests.launch import kill_tree

SEPARATE = ("rollout.placement=separate", "rollout.num_ranks=1", "algorithm.importance_sampling.truncate=1.02")
STEPS, SAVED_AT = 6, 2
# What the rollouts that wait for their step could get wrong on resume: prompts that were drawn, with what was known of them then,
# the data cursor, the policy that sampled.
AHEAD = (
    *SEPARATE,
    "rollout.max_staleness=1",
    f"steps={STEPS}",
    "critic.warmup_steps=1",
    "data.curriculum.by=variance",
    "data.curriculum.pool=2",
    "validation.every=3",
    "validation.before_training=true",
    f"checkpoint.every={SAVED_AT}",
    "checkpoint.keep_last=9",
)


@pytest.fixture(scope="module")
def config(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("placement"), tiny_model)


def test_in_turn_equals_colocated_to_the_last_bit(config: Path) -> None:
    """The same engine layout, one rank of its own: every metric, validation included."""
    colocated, separate = config.parent / "colocated", config.parent / "separate"
    correction = SEPARATE[2]
    train(config, colocated, "validation.every=2", correction, num_ranks=1)
    train(config, separate, "validation.every=2", *SEPARATE)
    expected, found = (without_clocks(read_jsonl(folder / "metrics.jsonl")) for folder in (colocated, separate))
    assert [row["kind"] for row in expected] == ["train", "train", "validation"]
    assert found == expected
    for row in rows(separate, "train").values():
        assert 0 < row["perf/train_idle"] < 1 and 0 < row["perf/rollout_idle"] < 1


@pytest.mark.parametrize("weight_sync", ["reshard", "gather"])
def test_in_turn_equals_colocated_with_two_ranks_on_each_side(
    config: Path, weight_sync: str, request: pytest.FixtureRequest
) -> None:
    """Four ranks: for the whole matrix alone."""
    if not request.config.getoption("--whole-matrix"):
        pytest.skip("--whole-matrix")
    layout = ("actor.tp=2", "rollout.tp=2", "validation.every=2", f"rollout.weight_sync={weight_sync}", SEPARATE[2])
    colocated, separate = (config.parent / f"{name}_{weight_sync}" for name in ("colocated2", "separate2"))
    train(config, colocated, *layout)
    train(config, separate, *layout, SEPARATE[0], "rollout.num_ranks=2", num_ranks=4)
    expected, found = (without_clocks(read_jsonl(folder / "metrics.jsonl")) for folder in (colocated, separate))
    assert len(expected) == 3 and found == expected


def test_two_engines_stream_to_two_ranks(config: Path, request: pytest.FixtureRequest) -> None:
    """Arrivals of both engines reach both training ranks in one order: what they compute together stays finite and whole."""
    if not request.config.getoption("--whole-matrix"):
        pytest.skip("--whole-matrix")
    streamed = config.parent / "streamed2"
    stream = (
        "rollout.stream=true",
        "actor.mini_batch_size=2",
        "rollout.max_num_seqs=2",
        "actor.tp=2",
        "actor.reuse_first_forward=true",
    )
    train(config, streamed, *SEPARATE[::2], "rollout.num_ranks=2", *stream, num_ranks=4)
    metrics = rows(streamed, "train")
    assert set(metrics) == {1, 2} and metrics[1]["staleness/mini_batches_max"] == 3
    assert len(read_jsonl(streamed / "calibration.jsonl")) == 16


def test_streamed_mini_batches_train_while_others_are_sampled(config: Path, request: pytest.FixtureRequest) -> None:
    """Step 1 samples what a run in turn samples, and the critic, which waits for all, learns the same; the actor goes ahead."""
    if not request.config.getoption("--whole-matrix"):
        pytest.skip("--whole-matrix")
    in_turn, streamed = config.parent / "separate", config.parent / "streamed"
    train(config, streamed, *SEPARATE, "rollout.stream=true", "actor.mini_batch_size=2", "rollout.max_num_seqs=2", "steps=3")
    expected, found = rows(in_turn, "train")[1], rows(streamed, "train")
    same = ("reward/mean", "response/length_mean", "critic/value_mean", "critic/bce", "critic/grad_norm", "critic/brier")
    assert {name: found[1][name] for name in same} == pytest.approx({name: expected[name] for name in same}, rel=1e-5)
    assert found[1]["staleness/mini_batches_max"] == 3
    # Later mini-batches meet a policy that the earlier ones have moved away from the one that sampled.
    assert found[1]["mismatch/logprob_abs_max"] > 10e-3 > 1e-3 > expected["mismatch/logprob_abs_max"]
    assert 0 < found[1]["actor/mismatch_truncated"] < 1
    assert all(row["actor/clip_fraction_low"] == row["actor/clip_fraction_high"] == 0 for row in found.values())
    sampled = {step: (1 - row["perf/rollout_idle"]) * row["time/step"] for step, row in found.items()}
    assert any(row["time/rollout"] < 0.9 * sampled[step] for step, row in found.items()), "the trainer waited all the time"


@dataclass(frozen=True)
class Death:
    seconds: float  # from the kill to the end of the launcher
    code: int
    stderr: str


@dataclass(frozen=True)
class Ahead:
    whole: Path
    resumed: Path
    death: Death


def rank_process(launcher: int, rank: int) -> psutil.Process:
    """The process of one rank below a launcher."""
    ranks = [child for child in psutil.Process(launcher).children(recursive=True) if child.environ().get("RANK") == str(rank)]
    (first,) = [child for child in ranks if child.ppid() not in {other.pid for other in ranks}]
    return first


def kill_rollout_rank_after_checkpoint(config: Path, run_dir: Path) -> Death:
    process = start(command("train", config, "--nproc", 2, f"run_dir={run_dir}", *AHEAD))
    latest, deadline = run_dir / "checkpoints" / "latest", time.monotonic() + 240
    try:
        while not latest.exists():
            assert process.poll() is None and time.monotonic() < deadline, "no checkpoint"
            time.sleep(0.005)
        rank_process(process.pid, rank=1).kill()
        killed_at = time.monotonic()
        code, _, stderr = finish(process, timeout=60)
    finally:
        kill_tree(process.pid)
    return Death(time.monotonic() - killed_at, code, stderr)


@pytest.fixture(scope="module")
def ahead(config: Path) -> Ahead:
    whole, resumed = config.parent / "whole", config.parent / "resumed"
    train(config, whole, *AHEAD)
    death = kill_rollout_rank_after_checkpoint(config, resumed)
    (resumed / "checkpoints" / "latest").write_text(f"step_{SAVED_AT:06d}\n")  # the machine decides how far it got
    train(config, resumed, *AHEAD)
    return Ahead(whole, resumed, death)


def test_a_dead_rollout_rank_ends_the_job_and_is_named(ahead: Ahead) -> None:
    assert ahead.death.seconds < 30
    assert ahead.death.code not in {0, -signal.SIGKILL}
    assert "error: rollout rank 0 (rank 1 of the job)" in ahead.death.stderr


def test_a_run_one_step_ahead_resumes_to_the_last_bit(ahead: Ahead) -> None:
    whole, resumed = (without_clocks(read_jsonl(folder / "metrics.jsonl")) for folder in (ahead.whole, ahead.resumed))
    assert [(row["step"], row["kind"]) for row in whole if row["kind"] == "validation"] == [(n, "validation") for n in (0, 3, 6)]
    assert resumed == whole
    assert (ahead.whole / "samples.jsonl").read_bytes() == (ahead.resumed / "samples.jsonl").read_bytes()


def test_staleness_is_what_it_says(ahead: Ahead) -> None:
    """Step 1 warms the critic up, so steps 1 and 2 see the initial policy; from then on each step is one update behind."""
    steps = rows(ahead.whole, "train")
    assert [steps[step]["staleness/max"] for step in range(1, STEPS + 1)] == [0, 0, 1, 1, 1, 1]
    assert steps[2]["mismatch/logprob_abs_max"] < 1e-3 < 10e-3 < steps[3]["mismatch/logprob_abs_max"]
    assert steps[2]["actor/mismatch_truncated"] == 0 < steps[3]["actor/mismatch_truncated"] < 1
    assert steps[3]["actor/mismatch_weight"] < 1.02
    assert all(row["time/rollout_wait"] >= 0 for step, row in steps.items() if step < STEPS)
