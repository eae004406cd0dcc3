"""One run: three stages, then the final policy's success rate over many episodes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from megatron_sppo.analysis.intervals import wilson_interval
from megatron_sppo.config.load import dump_yaml
from megatron_sppo.control import gym
from megatron_sppo.control.config import ControlConfig, check, fingerprint
from megatron_sppo.control.environments import make_batch
from megatron_sppo.control.networks import Policy
from megatron_sppo.control.progress import Progress
from megatron_sppo.control.stages import finetune, warm_start
from megatron_sppo.control.tasks import TASKS, Task
from megatron_sppo.control.trajectories import address, success_rate
from megatron_sppo.monitor.jsonl import read_jsonl

LARGEST_BATCH = 64  # environments that evaluate side by side


def run_folder(config: ControlConfig) -> Path:
    """Named by the whole config: another setting is another run, the same one goes on."""
    settings = fingerprint(config.network, config.expert, config.clone, config.rl)
    return Path(config.run_dir) / config.task / f"{config.algorithm}-seed{config.seed}-{settings}"


def run(config: ControlConfig) -> dict[str, Any]:
    """All that is not on disk yet; the result is also in ``result.json``."""
    check(config)
    gym.require(config.task)
    torch.set_num_threads(1)  # the same sums on every machine, and small networks gain nothing from more
    task, folder = TASKS[config.task], run_folder(config)
    result_file = folder / "result.json"
    progress = Progress(f"{config.task} {config.algorithm} seed {config.seed}")
    if result_file.exists():
        result: dict[str, Any] = json.loads(result_file.read_text(encoding="utf-8"))
        progress.note(f"is done: {_sentence(result)}")
        return result
    policy, warm = warm_start(task, config, progress)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
    before = _warm_rate(task, config, policy, warm)
    finetune(task, config, policy, folder, progress)
    started = time.monotonic()
    after = _evaluate(task, config, policy, "final")
    seconds = sum(row["time/update"] for row in read_jsonl(folder / "metrics.jsonl"))
    result = {
        "task": config.task,
        "algorithm": config.algorithm,
        "seed": config.seed,
        "warm_start": warm,
        **{f"before/{name}": value for name, value in before.items()},
        **{f"after/{name}": value for name, value in after.items()},
        "seconds_rl": seconds,
        "seconds_evaluation": time.monotonic() - started,
    }
    result_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    progress.note(_sentence(result))
    return result


def _evaluate(task: Task, config: ControlConfig, policy: Policy, name: str) -> dict[str, float]:
    """Success rate of the sampling policy with its 95 % interval; episodes come in whole batches."""
    wanted = config.rl.evaluation_episodes
    batch = make_batch(config.task, min(wanted, LARGEST_BATCH))
    rate = success_rate(task, batch, policy, address("evaluation", name, config.seed), wanted)
    episodes = -(-wanted // batch.num_envs) * batch.num_envs
    low, high = wilson_interval(rate, episodes)
    return {"success": rate, "low": low, "high": high, "episodes": episodes}


def _warm_rate(task: Task, config: ControlConfig, policy: Policy, warm: str) -> dict[str, float]:
    """Measured once per warm start."""
    file = Path(config.run_dir) / config.task / f"warm-seed{config.seed}-{warm}.{config.rl.evaluation_episodes}.json"
    if not file.exists():
        file.write_text(json.dumps(_evaluate(task, config, policy, "warm start")), encoding="utf-8")
    found: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _sentence(result: dict[str, Any]) -> str:
    interval = f"({result['after/low']:.1%} to {result['after/high']:.1%} over {result['after/episodes']} episodes)"
    return f"success {result['before/success']:.1%} -> {result['after/success']:.1%} {interval}, {result['seconds_rl']:.0f} s"
