"""The examples as a user starts them, by torchrun and by bash, with overrides that make them small enough for a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.runs import AS_A_USER, rows, write_problems
from tests.launch import ROOT, free_port, run_in_group

TinyModel = Callable[[str], Path]
SMALL = (
    "steps=2 prompts_per_step=8 critic.mini_batch_size=4 critic.warmup_steps=0 actor.micro_batch_tokens=512 "
    "critic.micro_batch_tokens=512 rollout.max_prompt_tokens=192 rollout.max_response_tokens=8 rollout.max_num_seqs=16 "
    "rollout.max_num_batched_tokens=0 rollout.cpu_kv_cache_gib=0.0625 reward.name=tests.end_to_end.reward_functions:even_sum "
    "validation.before_training=false validation.every=0 checkpoint.every=0 checkpoint.export_hf=false logging.wandb=off"
).split()


ELEVEN = (
    *("sppo_r1_1_5b", "sppo_r1_7b", "sppo_r1_7b_small_critic", "grpo_r1_1_5b", "grpo_r1_7b", "ppo_r1_1_5b", "ppo_r1_7b"),
    *("rloo_r1_1_5b", "rloo_r1_7b", "remax_r1_1_5b", "remax_r1_7b"),
)
IN_CI = {("sppo_r1_7b_small_critic", "torchrun")}  # the others are started by --whole-matrix
RESPONSES = {"grpo": 8, "rloo": 5}  # per prompt


def small(folder: Path, actor: Path, critic: Path, responses: int) -> list[str]:
    """Overrides alone: the example's own file and config stay as they are."""
    train = write_problems(folder / "train.jsonl", 24, seed=1)
    held_out = write_problems(folder / "held_out.jsonl", 4, seed=2)
    data = [f"data.train=[{train}]", f"data.validation=[{held_out}]"]
    data.append(f"actor.mini_batch_size={4 * responses}")
    return [*SMALL, *data, f"actor.path={actor}", f"critic.path={critic}", f"run_dir={folder / 'run'}"]


@pytest.mark.parametrize("launcher", ["torchrun", "bash"])
@pytest.mark.parametrize("name", ELEVEN)
def test_an_example_trains(
    name: str, launcher: str, tmp_path: Path, tiny_model: TinyModel, request: pytest.FixtureRequest
) -> None:
    """Heads as those of 1.5B and 7B, TP2 in place of TP4. By bash from another folder, by the script's name alone."""
    if (name, launcher) not in IN_CI and not request.config.getoption("--whole-matrix"):
        pytest.skip("--whole-matrix")
    heads = {"1_5b": "qwen2_12h2kv", "7b": "qwen2_28h4kv"}
    actor = tiny_model(heads["1_5b" if "1_5b" in name else "7b"])
    critic = tiny_model(heads["1_5b"]) if "small_critic" in name else actor
    responses = RESPONSES.get(name.partition("_")[0], 1)
    cuts = [] if "1_5b" in name else ["actor.tp=2", "rollout.tp=2"]
    if name in {"sppo_r1_7b", "ppo_r1_7b"}:
        cuts.append("critic.tp=2")
    words = [*cuts, *small(tmp_path, actor, critic, responses)]
    if launcher == "torchrun":
        endpoint = ["--nnodes", "1", "--master-addr", "127.0.0.1", "--master-port", str(free_port()), "--nproc-per-node", "2"]
        output = run_in_group(["torchrun", *endpoint, f"examples/{name}.sh", *words], AS_A_USER, 240)
    else:
        environment = {**AS_A_USER, "NPROC_PER_NODE": "2", "MEGATRON_SPPO_CACHE": str(tmp_path / "cache")}
        output = run_in_group(["bash", str(ROOT / f"examples/{name}.sh"), *words], environment, 240)
    metrics = rows(tmp_path / "run", "train")
    assert sorted(metrics) == [1, 2] and all("actor/grad_norm" in row for row in metrics.values())
    batch = f"{8 * responses} / mini-batches of {4 * responses} = 2 optimizer steps per epoch"
    layout = "TP1 x PP1 x CP1 x DP2" if "1_5b" in name else "TP2 x PP1 x CP1 x DP1"
    assert f"actor:   {batch}; {layout}" in output
