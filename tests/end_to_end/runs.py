"""Whole runs of ``megatron-sppo`` on tiny models, as a user starts them, and what they left in their run folder."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from megatron_sppo.monitor.jsonl import read_jsonl
from tests.glossary import unexplained
from tests.launch import ROOT, kill_tree, run_in_group

TinyModel = Callable[[str], Path]

# Longer than a block of vLLM's prefix cache on CPU (128 tokens; the tiny tokenizer reads bytes), so that a prefix that is
# cached in one run and computed in another would show in the log-probs.
PREAMBLE = (
    "You are a careful student. Read the problem twice, write down each step on a line of its own, "
    "and put the answer into a box. "
)
AS_A_USER = {"VLLM_LOGGING_LEVEL": "ERROR", "OMP_NUM_THREADS": "1"}  # the program's own default, which conftest.py turns up

CONFIG = """\
seed: 3
steps: 2
prompts_per_step: 8
actor: {path: MODEL, mini_batch_size: 4, micro_batch_tokens: 512, optimizer: {lr: 1.0e-3}}
critic: {path: CRITIC, mini_batch_size: 4, micro_batch_tokens: 512, optimizer: {lr: 1.0e-3}}
rollout: {temperature: 1.0, max_prompt_tokens: 192, max_response_tokens: 12, max_num_seqs: 16, cpu_kv_cache_gib: 0.0625}
reward: {name: "tests.end_to_end.reward_functions:even_sum"}
data: {train: [TRAIN], validation: [HELD_OUT]}
validation: {every: 0, before_training: false, samples: 2, dump_samples: 4}
checkpoint: {asynchronous: true, export_hf: false}
"""


def write_problems(path: Path, count: int, seed: int) -> Path:
    """``count`` sums as ``{"prompt", "answer"}``."""
    rng = random.Random(seed)
    pairs = [(rng.randrange(100), rng.randrange(100)) for _ in range(count)]
    rows = [{"prompt": f"{PREAMBLE}What is {a} + {b}?", "answer": str(a + b)} for a, b in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_config(folder: Path, tiny_model: TinyModel) -> Path:
    """A config of a small run beside its data."""
    values = {
        "MODEL": tiny_model("qwen2"),
        "CRITIC": tiny_model("qwen2_critic"),
        "TRAIN": write_problems(folder / "train.jsonl", 24, seed=1),
        "HELD_OUT": write_problems(folder / "held_out.jsonl", 4, seed=2),
    }
    text = CONFIG
    for name, value in values.items():
        text = text.replace(name, str(value))
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def command(subcommand: str, *words: object) -> list[str]:
    """``megatron-sppo SUBCOMMAND WORDS...`` of this checkout."""
    return [sys.executable, "-m", "megatron_sppo.cli", subcommand, *map(str, words)]


def train(config: Path, run_dir: Path, *overrides: str, num_ranks: int = 2, timeout: float = 240.0) -> str:
    """Output of a training run to its end."""
    return run_in_group(command("train", config, "--nproc", num_ranks, f"run_dir={run_dir}", *overrides), AS_A_USER, timeout)


def start(words: Sequence[str]) -> subprocess.Popen[str]:
    """A process whose stdout and stderr are apart; end it with `tests.launch.kill_tree`."""
    environment = {**os.environ, **AS_A_USER, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], timeout: float = 240.0) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a process of `start`; none of its processes outlives this call."""
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    finally:
        kill_tree(process.pid)
    return process.returncode, stdout, stderr


def rows(run_dir: Path, kind: str) -> dict[int, dict[str, Any]]:
    """step -> the metrics of ``kind`` (train or validation), each of which docs/metrics.md explains."""
    found = [row for row in read_jsonl(run_dir / "metrics.jsonl") if row["kind"] == kind]
    assert unexplained(set().union(*found)) == []
    by_step = {row["step"]: row for row in found}
    assert len(by_step) == len(found), "a step was written twice"
    return by_step


def without_clocks(metrics: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What must not depend on the machine's mood: all but times and memory."""
    return [{name: value for name, value in row.items() if not name.startswith(("time/", "perf/"))} for row in metrics]
