"""``megatron-sppo plan``."""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_sppo.parallel.gpus import GPUS

DOES_NOT_FIT = 2

EXAMPLE = """\
example:
  megatron-sppo plan examples/configs/sppo_r1_7b.yaml actor.tp=4 --nodes 1 --gpus-per-node 4 --gpu h100

Needs no GPU, no data and no weights: a model that is not on this machine is known by its name.
Exit code 2 where the run does not fit, with the two nearest changes that do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG.yaml", type=Path, help="a config of `train`")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="overrides, as for `train`")
    parser.add_argument("--nodes", metavar="N", type=int, default=1, help="machines (default: 1)")
    parser.add_argument("--gpus-per-node", metavar="M", type=int, default=8, help="GPUs of each (default: 8)")
    parser.add_argument("--gpu", choices=GPUS, default="h100", help="which (default: h100)")


def run(arguments: argparse.Namespace) -> int:
    from megatron_sppo.config.load import load_config
    from megatron_sppo.config.schema import Config
    from megatron_sppo.plan.advice import advice
    from megatron_sppo.plan.assumptions import Assumptions
    from megatron_sppo.plan.changes import nearest
    from megatron_sppo.plan.machines import Machines
    from megatron_sppo.plan.memory import Memory
    from megatron_sppo.plan.setup import Setup
    from megatron_sppo.plan.text import render, verdict
    from megatron_sppo.plan.times import Times
    from megatron_sppo.plan.traffic import Push

    config = load_config(Config, [arguments.config], arguments.overrides)
    machines = Machines(arguments.nodes, arguments.gpus_per_node, GPUS[arguments.gpu])
    assumptions = Assumptions()
    memory = Memory(Setup.of(config, machines), assumptions)
    push = Push(memory.setup, memory.engine.itemsize)
    times = Times(memory.setup, memory.engine, assumptions, push.most_received, memory.offload_bytes)
    print(render(memory, times, push, assumptions))
    problem = memory.problem()
    warnings = [f"warning: {sentence}" for sentence in advice(memory, times, push, assumptions)]
    print("", *warnings, verdict(problem, nearest(memory.setup, assumptions) if problem else []), sep="\n")
    return DOES_NOT_FIT if problem else 0
