"""Forward pass and update of one model on this device, alone: a child of bench_gpu.py.

    python tools/bench_gpu_model.py JOB.json RESULT.json

JOB: {"role": "actor" | "critic", "shape": name of a published model, "layers": N or 0 for all, "sequences", "prompt",
"response": tokens, "repeats", "overrides": ["actor.fp8.recipe=tensorwise", ...], "logprobs": file to leave them in, or ""}.
Weights are random, the same for every job of a shape; what is timed is what a training step calls, with losses and statistics.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from megatron_sppo.actor import Actor
from megatron_sppo.algorithms.sppo import SPPO
from megatron_sppo.batch import ActorBatch, CriticBatch
from megatron_sppo.config.algorithms import CRITICS
from megatron_sppo.config.load import load_config
from megatron_sppo.config.schema import Config
from megatron_sppo.critic import Critic
from megatron_sppo.metrics import values as metric_values
from megatron_sppo.models import fp8
from megatron_sppo.models.engine import MegatronEngine
from megatron_sppo.models.flops import Work, rates
from megatron_sppo.models.gpt import check_layers
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.groups import Layout, build_groups
from megatron_sppo.plan.shapes import KNOWN
from megatron_sppo.ragged import Ragged


def fill(model: torch.nn.Module) -> None:
    """Random matrices, norms of one, biases of zero."""
    generator = torch.Generator(platform.device()).manual_seed(1)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if "norm" in name:
                param.fill_(1.0)
            elif param.dim() == 1:
                param.zero_()
            else:
                fp8.load(param, torch.randn(param.shape, generator=generator, device=param.device) * 0.02)


def tokens(job: dict[str, Any], length: int, vocabulary: int, seed: int) -> Ragged:
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(0, vocabulary, (length,), generator=generator) for _ in range(job["sequences"])]
    return Ragged.from_rows(rows, torch.int64)


def measured(phase: Callable[[], Any], work: Work, repeats: int) -> dict[str, float]:
    """Median of ``repeats`` after one that warms up, with its rates and the device's peak."""
    phase()
    if platform.is_gpu():
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        platform.synchronize()
        started = time.monotonic()
        phase()
        platform.synchronize()
        seconds.append(time.monotonic() - started)
    found = rates(work, median(seconds), 1, platform.peak_flops())
    return {"seconds": median(seconds), **found, "peak_gib": platform.peak_device_gib()}


def run(job: dict[str, Any]) -> dict[str, Any]:
    platform.start_distributed()
    platform.quiet_upstream()
    role, repeats = job["role"], job["repeats"]
    config = load_config(Config, [], ["actor.path=none", "data.train=[none]", *job["overrides"]])
    model = config.actor if role == "actor" else config.critic
    check_layers(role, model)
    hf = KNOWN[job["shape"]]
    hf = replace(hf, num_layers=job["layers"] or hf.num_layers)
    (groups,) = build_groups([Layout.of(model)], seed=1)
    engine = MegatronEngine(hf, model, groups, "lm" if role == "actor" else "value", total_steps=1000)
    fill(engine.model)
    engine.start_optimizer()
    algorithm = SPPO(config.algorithm, config.rollout, seed=1)
    prompts = tokens(job, job["prompt"], hf.vocab_size, 1)
    responses = tokens(job, job["response"], hf.vocab_size, 2)
    rewards_B = torch.arange(job["sequences"]).remainder(2).float()
    if role == "critic":
        critic = Critic(engine, config.critic, CRITICS["sppo"])
        values = critic.values(prompts, responses)
        batch = CriticBatch(prompts, responses, values.with_values(rewards_B), values)
        forward = partial(critic.values, prompts, responses)
        update = partial(critic.update, batch, algorithm.critic_loss, 0)
        work = critic.work(prompts, responses)
    else:
        actor = Actor(engine, config.actor, config.rollout.temperature)
        old = actor.logprobs(prompts, responses)
        if job["logprobs"]:
            torch.save(old.values, job["logprobs"])
        advantages = old.with_values(torch.repeat_interleave(rewards_B - 0.5, responses.lengths))
        actor_batch = ActorBatch(prompts, responses, advantages, old, old, old)
        forward = partial(actor.logprobs, prompts, responses)
        update = partial(actor.update, actor_batch, algorithm.actor_loss, 0)
        work = actor.work(prompts, responses)
    found = {
        "forward": measured(forward, work, repeats),
        "update": measured(update, work.training(1), repeats),
        "metrics": metric_values(update()),
    }
    return {**found, "parameters": sum(param.numel() for param in engine.model.parameters())}


def main() -> None:
    job, result = map(Path, sys.argv[1:])
    found = run(json.loads(job.read_text(encoding="utf-8")))
    result.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
