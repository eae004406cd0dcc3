"""The examples as a user starts them, by torchrun and by bash, with overrides that make them small enough for a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.runs import AS_A_USER, rows, write_problems
from tests.launch import ROOT, free_port, run_in_group

TinyModel = Callable[[str], Path]
SMALL = (
    "steps=2 prompts_per_step=8 actor.mini_batch_size=4 critic.mini_batch_size=4 actor.micro_batch_tokens=512 "
    "critic.micro_batch_tokens=512 rollout.max_prompt_tokens=192 rollout.max_response_tokens=8 rollout.max_num_seqs=16 "
    "rollout.max_num_batched_tokens=0 rollout.cpu_kv_cache_gib=0.0625 reward.name=tests.end_to_end.reward_functions:even_sum "
    "validation.before_training=false validation.every=0 checkpoint.every=0 checkpoint.export_hf=false logging.wandb=off"
).split()


def small(folder: Path, actor: Path, critic: Path) -> list[str]:
    """Overrides alone: the example's own file and config stay as they are."""
    train = write_problems(folder / "train.jsonl", 24, seed=1)
    held_out = write_problems(folder / "held_out.jsonl", 4, seed=2)
    data = [f"data.train=[{train}]", f"data.validation=[{held_out}]"]
    return [*SMALL, *data, f"actor.path={actor}", f"critic.path={critic}", f"run_dir={folder / 'run'}"]


def assert_trained(folder: Path, output: str, batch: str) -> None:
    metrics = rows(folder / "run", "train")
    assert sorted(metrics) == [1, 2] and all(row["actor/grad_norm"] > 0 for row in metrics.values())
    assert batch in output


def test_torchrun_starts_an_example(tmp_path: Path, tiny_model: TinyModel) -> None:
    """The heads of the 7B actor and of its 1.5B critic, TP2 in place of TP4."""
    endpoint = ["--nnodes", "1", "--master-addr", "127.0.0.1", "--master-port", str(free_port()), "--nproc-per-node", "2"]
    words = ["actor.tp=2", "rollout.tp=2", *small(tmp_path, tiny_model("qwen2_28h4kv"), tiny_model("qwen2_12h2kv"))]
    output = run_in_group(["torchrun", *endpoint, "examples/sppo_r1_7b_small_critic.sh", *words], AS_A_USER, 240)
    assert_trained(tmp_path, output, "actor:   8 / mini-batches of 4 = 2 optimizer steps per epoch; TP2 x PP1 x CP1 x DP1")


def test_bash_starts_an_example(tmp_path: Path, tiny_model: TinyModel, request: pytest.FixtureRequest) -> None:
    """From another folder, and by name of the script alone."""
    if not request.config.getoption("--whole-matrix"):
        pytest.skip("--whole-matrix")
    model = tiny_model("qwen2_12h2kv")
    environment = {**AS_A_USER, "NPROC_PER_NODE": "2", "MEGATRON_SPPO_CACHE": str(tmp_path / "cache")}
    output = run_in_group(["bash", str(ROOT / "examples/sppo_r1_1_5b.sh"), *small(tmp_path, model, model)], environment, 240)
    assert_trained(tmp_path, output, "actor:   8 / mini-batches of 4 = 2 optimizer steps per epoch; TP1 x PP1 x CP1 x DP2")
