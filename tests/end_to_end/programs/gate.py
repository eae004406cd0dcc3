"""Build a run's parts, pass the gate, then change the policy behind vLLM's back: ``gate.py CONFIG OUTPUT.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from megatron_sppo import parity
from megatron_sppo.build import build, prepare
from megatron_sppo.config.load import load_config
from megatron_sppo.config.schema import Config
from megatron_sppo.errors import ParityError
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.job import Job

MAX_GAP = 0.1


def main(config_file: Path, output: Path) -> None:
    _, world_size = platform.start_distributed()
    config = load_config(Config, [config_file], [f"run_dir={output.parent / 'run'}"])
    parts = build(prepare(config, world_size), Job.colocated())
    prompts, plan = parts.prompts.all(), parts.algorithm.sampling(0)
    healthy = parity.gate(parts.actor, parts.engine, prompts, plan, MAX_GAP)
    with torch.no_grad():
        parts.actor.engine.model.decoder.layers[0].mlp.linear_fc2.weight.mul_(-1.0)
    try:
        parity.gate(parts.actor, parts.engine, prompts, plan, MAX_GAP)
    except ParityError as error:
        output.write_text(json.dumps({"healthy": healthy.mean_abs, "error": str(error)}))
    parts.engine.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
