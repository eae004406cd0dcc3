"""Train by each algorithm in turn in one job, where importing vLLM costs its seconds once: ``algorithms.py CASES.json``.

CASES.json maps a run folder to the words of its command line: ``[CONFIG.yaml, "key=value", ...]``. A run with a critic is probed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from megatron_sppo import critic_probe
from megatron_sppo.build import build, prepare
from megatron_sppo.config.load import load_config
from megatron_sppo.config.schema import Config
from megatron_sppo.errors import UserError
from megatron_sppo.monitor.run_log import MainRunLog, RunLog
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.job import Job
from megatron_sppo.probe_arguments import Probe
from megatron_sppo.train import hand_over
from megatron_sppo.trainer import Trainer


def train(config: Config, world_size: int, rank: int, critic_before: str) -> str:
    """Returns how a checkpoint describes this run's critic."""
    parts = build(prepare(config, world_size), Job.colocated())
    run_dir = Path(config.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    log = RunLog() if rank else MainRunLog(config.logging, run_dir, config.steps, 0, {})
    with log, parts.checkpointer:
        hand_over(parts, log)
        trainer = Trainer(parts, log)
        (run_dir / f"refusal_{rank}.txt").write_text(refusal(trainer, critic_before))
        trainer.fit(first_step=1)
    if parts.algorithm.critic is not None:
        answers = critic_probe.ask(parts, Probe(samples=4, problems=3))
        if rank == 0:
            critic_probe.write(run_dir / critic_probe.FOLDER, answers, {"step": config.steps, "samples": 4})
    parts.engine.close()
    return str(trainer.state_dict()["critic"])


def refusal(trainer: Trainer, critic: str) -> str:
    """What the trainer says of a checkpoint with another run's critic; nothing where it would take it."""
    try:
        trainer.load_state_dict({**trainer.state_dict(), "critic": critic})
    except UserError as error:
        return str(error)
    return ""


def main(cases: Path) -> None:
    rank, world_size = platform.start_distributed()
    platform.quiet_upstream()
    critic = "no critic"
    for run_dir, (config, *overrides) in json.loads(cases.read_text()).items():
        critic = train(load_config(Config, [Path(config)], [*overrides, f"run_dir={run_dir}"]), world_size, rank, critic)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
