"""``megatron-sppo train``: one run, from a config to a trained policy in HF format."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from megatron_sppo import parity
from megatron_sppo.build import Prepared, build, build_rollout, prepare
from megatron_sppo.checkpoint.stop_file import StopFile
from megatron_sppo.config import arithmetic
from megatron_sppo.config.bounds import TRAINING, check_bounds
from megatron_sppo.config.load import dump_yaml
from megatron_sppo.config.placement import check_placement, num_rollout_ranks
from megatron_sppo.config.schema import Config
from megatron_sppo.data.prompts import select_prompts
from megatron_sppo.evaluation.validation import Validation
from megatron_sppo.monitor.progress import format_seconds
from megatron_sppo.monitor.run_log import MainRunLog, RunLog
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.job import Job, start_job
from megatron_sppo.parallel.watch import watching
from megatron_sppo.rollout.serve import serve
from megatron_sppo.stream_trainer import StreamTrainer
from megatron_sppo.trainer import Parts, Trainer
from megatron_sppo.weights.hf_folder import save_hf_folder

GATE_PROMPTS = 16


def main(config: Config) -> None:
    check_bounds(config, TRAINING)
    check_placement(config, platform.launched_ranks())
    job = start_job(num_rollout_ranks(config), timedelta(minutes=config.collective_timeout_minutes))
    platform.quiet_upstream()
    logging.basicConfig(level=logging.INFO if job.rank == 0 else logging.ERROR, format="%(message)s")
    prepared = prepare(config, job.size)
    if job.rank == 0:
        _introduce(prepared, job.size, Path(prepared.config.run_dir))
    with watching(job):
        if job.role == "rollout":
            _roll_out(prepared, job)
        else:
            _train(prepared, job)
        dist.barrier(group=job.host_group)
    dist.destroy_process_group()


def _roll_out(prepared: Prepared, job: Job) -> None:
    """Until the ranks that train have what they need."""
    engine, push = build_rollout(prepared, job)
    serve(job, engine, prepared.tokenizer.decode, push)
    engine.close()


def _train(prepared: Prepared, job: Job) -> None:
    config, rank, run_dir, started = prepared.config, job.rank, Path(prepared.config.run_dir), time.monotonic()
    parts = build(prepared, job)
    with parts.engine.awake(until_push=True):
        pass  # asleep from here on: a checkpoint brings everything of a model back
    resumed = parts.checkpointer.load_latest()
    first_step = 1 if resumed is None else resumed[0] + 1
    with _run_log(config, run_dir, rank, first_step) as log, parts.checkpointer:
        log.note(f"built in {time.monotonic() - started:.0f}s; {_plan(first_step, config.steps)}")
        trainer = (StreamTrainer if config.rollout.stream else Trainer)(parts, log)
        if resumed is not None:
            trainer.load_state_dict(resumed[1])
        hand_over(parts, log)
        last = trainer.fit(first_step)
    if trainer.stopped_after:
        if rank == 0:
            said = f"stopped after step {trainer.stopped_after}, saved, as {parts.stop.path} asks: start it again to go on"
            print(said, flush=True)
        parts.engine.close()
        return
    _export(parts, run_dir)
    if rank == 0 and first_step <= config.steps:  # a run that was complete already keeps its summary
        _summarize(config, run_dir, last, time.monotonic() - started)
    if rank == 0:
        print(_farewell(config, run_dir, time.monotonic() - started), flush=True)
    parts.engine.close()


def _plan(first_step: int, steps: int) -> str:
    if first_step > steps:
        return f"all {steps} steps are done: raise steps to train on, or set checkpoint.resume=never to start anew"
    return f"starting at step {first_step}"


def _farewell(config: Config, run_dir: Path, seconds: float) -> str:
    """Where the results are and what to do with them."""
    policy = (
        f"the policy is {run_dir / 'hf'} (HF format)"
        if config.checkpoint.export_hf
        else "checkpoint.export_hf=false: no HF folder"
    )
    return f"done in {format_seconds(seconds)}: {policy}; `megatron-sppo report {run_dir}` draws the run"


def _run_log(config: Config, run_dir: Path, rank: int, first_step: int) -> RunLog:
    if rank:
        return RunLog()
    return MainRunLog(config.logging, run_dir, config.steps, 0 if first_step == 1 else first_step, asdict(config))


def _introduce(prepared: Prepared, world_size: int, run_dir: Path) -> None:
    """What will happen, in words, before the first second is spent on it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    StopFile(run_dir).clear()
    (run_dir / "config.yaml").write_text(dump_yaml(prepared.config), encoding="utf-8")
    print(f"device:  {platform.describe()}")
    print(arithmetic.explain(prepared.config, world_size))
    for warning in prepared.warnings:
        print(f"warning: {warning}")
    print(f"first prompt as the model reads it:\n---\n{prepared.train.first_rendered()}\n---", flush=True)


def hand_over(parts: Parts, log: RunLog) -> None:
    """vLLM gets the policy's weights, proven by checksums; then both must agree on log-probs before anything is trained."""
    log.note(parts.sync.describe())
    parts.sync.push(step=0)
    every = parts.prompts.all()
    prompts, max_gap = select_prompts(every, range(min(GATE_PROMPTS, len(every)))), parts.config.rollout.max_logprob_gap
    with parts.engine.awake():
        difference = parity.gate(parts.actor, parts.engine, prompts, parts.algorithm.sampling(0), max_gap)
    log.note(f"vLLM holds the trainer's weights; log-probs of the same tokens differ by {difference}")


def _export(parts: Parts, run_dir: Path) -> None:
    policy = parts.actor.engine
    if parts.config.checkpoint.export_hf:
        save_hf_folder(policy.model, policy.hf, policy.groups, parts.config.actor.path, run_dir / "hf")


def _summarize(config: Config, run_dir: Path, last: list[Validation], seconds: float) -> None:
    accuracy = {v.benchmark: {f"avg@{v.num_samples}": v.accuracy, "interval": [v.low, v.high]} for v in last}
    summary = {"steps": config.steps, "seconds": seconds, "validation": accuracy}
    (run_dir / "train_summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
