"""A run that is killed and started again ends as if nothing had happened: the same metrics, samples and weights, bit for bit."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megatron_sppo.monitor.jsonl import read_jsonl
from tests.end_to_end.runs import AS_A_USER, TinyModel, command, finish, rows, start, train, without_clocks, write_config
from tests.launch import kill_tree, run_in_group

STEPS, INTERRUPTED_AFTER = 10, 5
# What resume could get wrong: optimizer moments, schedule position, data cursor, the critic's warm-up, the reference policy (the
# initial one, not the one resumed from), the order of mini-batches, sampling seeds, cached prefixes, files written twice.
OVERRIDES = (
    f"steps={STEPS}",
    "actor.tp=2",
    "actor.epochs=2",
    "actor.optimizer.schedule=linear",
    "critic.warmup_steps=2",
    "critic.optimizer.schedule=cosine",
    "algorithm.kl.coefficient=0.1",
    "data.curriculum.by=variance",
    "data.curriculum.pool=2",
    "reward.name=0.9*tests.end_to_end.reward_functions:even_sum + 0.1*format",
    "reward.overlong_penalty=0.2",
    "reward.overlong_buffer=6",
    "validation.every=5",
    "validation.before_training=true",
    "checkpoint.every=5",
    "checkpoint.asynchronous=true",
    "checkpoint.export_hf=true",
)
OFFLOAD = "offload=all"  # of the run that is interrupted: what goes to the host and comes back must not change a bit either


@dataclass(frozen=True)
class Runs:
    whole: Path
    resumed: Path
    steps_at_kill: int  # last step in metrics.jsonl when the ranks were killed
    exported_at_kill: bool  # whether the run had got as far as its HF folder
    output: str  # of the second half


def kill_after_checkpoint(config: Path, run_dir: Path, limit_seconds: float = 240.0) -> None:
    """Start the run and end it with SIGKILL, all ranks at once, as soon as the checkpoint in the middle is complete."""
    process = start(command("train", config, "--nproc", 2, f"run_dir={run_dir}", *OVERRIDES, OFFLOAD))
    latest, deadline = run_dir / "checkpoints" / "latest", time.monotonic() + limit_seconds
    try:
        while not latest.exists():
            assert process.poll() is None and time.monotonic() < deadline, "no checkpoint"
            time.sleep(0.005)
    finally:
        kill_tree(process.pid)
        code, _, stderr = finish(process)
    assert code == -signal.SIGKILL, stderr[-4000:]
    assert latest.read_text().strip() == f"step_{INTERRUPTED_AFTER:06d}"


@pytest.fixture(scope="module")
def runs(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("resume")
    config = write_config(folder, tiny_model)
    whole, resumed = folder / "whole", folder / "resumed"
    train(config, whole, *OVERRIDES)
    kill_after_checkpoint(config, resumed)
    steps_at_kill, exported_at_kill = max(rows(resumed, "train")), (resumed / "hf").exists()
    return Runs(whole, resumed, steps_at_kill, exported_at_kill, train(config, resumed, *OVERRIDES, OFFLOAD))


def test_it_was_really_interrupted(runs: Runs) -> None:
    """The checkpoint is written while training goes on, so how many more steps were done by then depends on the machine."""
    assert INTERRUPTED_AFTER <= runs.steps_at_kill <= STEPS
    assert not runs.exported_at_kill
    assert f"starting at step {INTERRUPTED_AFTER + 1}" in runs.output
    assert "Traceback" not in runs.output


def test_metrics_are_the_same_to_the_last_bit(runs: Runs) -> None:
    whole, resumed = (read_jsonl(folder / "metrics.jsonl") for folder in (runs.whole, runs.resumed))
    assert [(row["step"], row["kind"]) for row in whole] == [
        (0, "validation"),
        *((step, "train") for step in range(1, 6)),
        (5, "validation"),
        *((step, "train") for step in range(6, 11)),
        (10, "validation"),
    ]
    for expected, found in zip(without_clocks(whole), without_clocks(resumed), strict=True):
        assert found == expected


def test_the_run_had_something_to_get_wrong(runs: Runs) -> None:
    """Equal metrics prove nothing where the knobs above did nothing."""
    steps = rows(runs.whole, "train")
    assert not any(name.startswith("actor/lr") for name in steps[2]), "the critic's warm-up has no actor update"
    rates = [steps[step]["actor/lr"] for step in range(3, STEPS + 1)]
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.2 * rates[0]
    after = steps[INTERRUPTED_AFTER + 1]
    assert after["actor/kl_reference"] > 2 * after["actor/kl_rollout"] > 0, (
        "the reference is the initial policy, not the last step's"
    )
    assert 0 < sum(row["reward/mean"] for row in steps.values()) < STEPS
    assert all(row["reward/length_penalty"] > 0 for row in steps.values())
    assert {row["curriculum/passed_over"] for row in steps.values()} == {8}
    chances = [row["probability"] for row in read_jsonl(runs.whole / "calibration.jsonl")]
    assert chances[0] == 0.5 and len(set(chances)) > 10, "V is its prior at first and then tells prompts apart"


@pytest.mark.parametrize("name", ["samples.jsonl", "calibration.jsonl"])
def test_files_of_rows_are_the_same(runs: Runs, name: str) -> None:
    whole = (runs.whole / name).read_bytes()
    assert whole and (runs.resumed / name).read_bytes() == whole


def test_the_exported_policy_is_the_same_to_the_last_bit(runs: Runs, tiny_model: TinyModel) -> None:
    whole, resumed, initial = map(tensors, (runs.whole / "hf", runs.resumed / "hf", tiny_model("qwen2")))
    assert whole.keys() == resumed.keys() == initial.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not torch.equal(whole["lm_head.weight"], initial["lm_head.weight"])


def test_checkpoints_are_left_as_an_uninterrupted_run_leaves_them(runs: Runs) -> None:
    for folder in (runs.whole, runs.resumed):
        names = {child.name for child in (folder / "checkpoints").iterdir()}
        assert {"latest", "step_000005", "step_000010"} <= names <= {"latest", "best", "step_000005", "step_000010"}


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def test_a_checkpoint_becomes_an_hf_folder_by_any_layout(runs: Runs, tmp_path: Path) -> None:
    """The run had TP 2; one rank and two read its shards."""
    expected = tensors(runs.whole / "hf")
    for tp in (1, 2):
        output = tmp_path / f"tp{tp}"
        run_in_group(command("export", runs.whole, "--output", output, "--tp", tp), AS_A_USER)
        found = tensors(output)
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_a_checkpoint_is_evaluated_like_its_export(runs: Runs, tmp_path: Path) -> None:
    held_out = runs.whole.parent / "held_out.jsonl"
    words = ["--benchmarks", f"sums={held_out}", "--samples", 2, "--max-tokens", 12, "--cpu-kv-cache-gib", 0.0625]
    words += ["--graders", "boxed_numeric", "--max-num-seqs", 16]
    for model, name in ((runs.whole / "hf", "hf"), (runs.whole / "checkpoints" / "step_000010", "checkpoint")):
        run_in_group(command("eval", "--nproc", 2, "--model", model, *words, "--output", tmp_path / name), AS_A_USER)
    one, other = ((tmp_path / name / "sums.jsonl").read_text() for name in ("hf", "checkpoint"))
    assert one == other and one.count("\n") == 4
    assert (runs.whole / "checkpoints" / "step_000010" / "hf" / "config.json").is_file()
