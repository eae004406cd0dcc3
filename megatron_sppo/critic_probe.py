"""``megatron-sppo probe``: what a trained critic says of held-out prompts and along responses, against what came of them.

V(s_p) of each prompt beside the policy's success rate over many samples (the paper's fig. 7), and for problems that the policy
both solves and fails V before each token of some responses (figs. 1 and 9). Results go to ``<run_dir>/critic_probe/``, where
``report`` finds them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_sppo import metrics
from megatron_sppo.batch import Prompts, Rollouts
from megatron_sppo.build import build, prepare
from megatron_sppo.config.schema import Config
from megatron_sppo.evaluation.store import write_whole
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.job import Job
from megatron_sppo.probe_arguments import Probe
from megatron_sppo.ragged import Ragged
from megatron_sppo.rewards.spread import grade_rollouts
from megatron_sppo.trainer import Parts

FOLDER = "critic_probe"
RESPONSES_PER_OUTCOME = 4  # of a problem whose values are drawn: as many right ones and as many wrong ones at most
log = logging.getLogger(__name__)


def main(config: Config, probe: Probe) -> None:
    """On every rank."""
    rank, world_size = platform.start_distributed()
    platform.quiet_upstream()
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.ERROR, format="%(message)s")
    parts = build(prepare(config, world_size), Job.colocated())
    folder = parts.checkpointer.store.latest()
    assert folder is not None, "checkpoint.resume=must was checked"
    step, _ = parts.checkpointer.load(folder)
    parts.sync.push(step)
    found = ask(parts, probe)
    if rank == 0:
        write(Path(config.run_dir) / FOLDER, found, {"step": step, "samples": probe.samples})
    parts.engine.close()
    dist.destroy_process_group()


@dataclass(frozen=True)
class Answers:
    """P prompts, ``samples`` responses each."""

    prompts: Prompts
    values_P: Tensor
    rewards_PK: Tensor  # 0 or 1
    trajectories: list[dict[str, Any]]


def ask(parts: Parts, probe: Probe) -> Answers:
    """Sample, grade, and let the critic read. Collective."""
    prompts = parts.validator.benchmarks[0].prompts
    plan = replace(parts.algorithm.sampling(0), num_samples=probe.samples, greedy_baseline=False, seed=-2 - parts.config.seed)
    log.info("sampling %d prompts x %d responses", len(prompts), probe.samples)
    with parts.engine.awake():
        rollouts = parts.engine.generate(prompts, plan, parts.decode)
    rewards_PK = (grade_rollouts(parts.validator.reward, rollouts).rewards > 0.5).double().view(-1, probe.samples)
    any_token = Ragged(torch.zeros(len(prompts), dtype=torch.int64), torch.ones(len(prompts), dtype=torch.int64))
    values_P = parts.critic.values(prompts.tokens, any_token).values  # read before that token
    chosen = mixed_responses(rewards_PK, probe.problems)
    return Answers(prompts, values_P, rewards_PK, trajectories(parts, rollouts, rewards_PK, chosen))


def mixed_responses(rewards_PK: Tensor, problems: int) -> list[int]:
    """Responses (flat indices) of the first ``problems`` prompts that were both solved and failed: some right, some wrong."""
    mixed = ((rewards_PK.amax(1) > 0.5) & (rewards_PK.amin(1) < 0.5)).nonzero()[:problems, 0].tolist()
    samples = rewards_PK.shape[1]
    chosen = []
    for prompt in mixed:
        for outcome in (1.0, 0.0):
            places = (rewards_PK[prompt] == outcome).nonzero()[:RESPONSES_PER_OUTCOME, 0].tolist()
            chosen += [prompt * samples + place for place in places]
    return chosen


def trajectories(parts: Parts, rollouts: Rollouts, rewards_PK: Tensor, chosen: Sequence[int]) -> list[dict[str, Any]]:
    """Rows of trajectories.jsonl."""
    if not chosen:
        return []
    picked, samples, form = rollouts.select(chosen), rewards_PK.shape[1], parts.algorithm.critic
    values = parts.critic.values(picked.prompt_tokens, picked.response_tokens)
    return [
        {
            "prompt": rollouts.prompts.ids[index // samples],
            "sample": index % samples,
            "reward": float(rewards_PK.flatten()[index]),
            "kind": "token" if form is not None and form.reads == "response" else "prompt",
            "values": row.tolist(),
        }
        for index, row in zip(chosen, values.rows(), strict=True)
    ]


def write(folder: Path, found: Answers, about: Mapping[str, Any]) -> None:
    """prompts.jsonl, trajectories.jsonl, summary.json; replaced whole."""
    folder.mkdir(parents=True, exist_ok=True)
    rates_P = found.rewards_PK.mean(1)
    prompts = [
        {"prompt": name, "value": value, "successes": int(successes), "samples": found.rewards_PK.shape[1]}
        for name, value, successes in zip(found.prompts.ids, found.values_P.tolist(), found.rewards_PK.sum(1), strict=True)
    ]
    for name, rows in (("prompts", prompts), ("trajectories", found.trajectories)):
        write_whole(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    summary = {
        **about,
        "prompts": len(prompts),
        "pearson": metrics.pearson(found.values_P, rates_P),
        "spearman": metrics.spearman(found.values_P, rates_P),
        "value_mean": float(found.values_P.mean()),
        "success_mean": float(rates_P.mean()),
    }
    write_whole(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    said = f"Pearson {summary['pearson']:.3f}, Spearman {summary['spearman']:.3f}"
    print(
        f"V against the success rate over {about['samples']} samples of {len(prompts)} prompts: {said}; written to {folder}",
        flush=True,
    )
