"""Start an example by NeMo-Run: python examples/nemo_run/launch.py --recipe sppo_r1_7b --executor slurm --nodes 4 --dryrun

Needs `pip install -e .[nemo-run]`, best in an environment of its own on the machine that submits; the ranks do not need it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import nemo_run as run
from executors import EXECUTORS, Place
from recipes import RECIPES

REPOSITORY = Path(__file__).resolve().parents[2]
IN_IMAGE, WORK_IN_IMAGE = "/opt/megatron_sppo", "/work"  # docker/Dockerfile
os.environ.setdefault("COLUMNS", "200")  # NeMo-Run's console would break the lines of the scripts that it prints


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--recipe", choices=RECIPES, required=True)
    parser.add_argument("--executor", choices=EXECUTORS, default="local")
    parser.add_argument("--nodes", type=int, help="default: the recipe's")
    parser.add_argument("--gpus-per-node", type=int, help="default: the recipe's")
    parser.add_argument("--dryrun", action="store_true", help="print what would be submitted")
    parser.add_argument("--account", default="", help="Slurm")
    parser.add_argument("--partition", help="Slurm")
    parser.add_argument("--time", default="4:00:00", help="Slurm's time limit")
    parser.add_argument("--retries", type=int, default=0, help="Slurm: how often a failed job is put back into the queue")
    parser.add_argument("--container", default="", help="image of docker/Dockerfile")
    parser.add_argument("--mounts", nargs="*", default=[], metavar="HOST:CONTAINER")
    parser.add_argument("--code", help=f"this repository where the ranks run (default: {IN_IMAGE} in a container, else here)")
    parser.add_argument("--workdir", help="relative paths of the config start here (default: /work in a container, else here)")
    parser.add_argument("--env", nargs="*", default=[], metavar="NAME=VALUE", help="for the ranks, such as NCCL_IB_HCA=mlx5")
    parser.add_argument("--node-group", default="", help="Lepton")
    parser.add_argument("--resource-shape", default="", help="Lepton, such as gpu.8xh100")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the config, after --")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    recipe = RECIPES[arguments.recipe]
    place = Place(
        nodes=arguments.nodes or recipe.nodes,
        gpus_per_node=recipe.gpus_per_node if arguments.gpus_per_node is None else arguments.gpus_per_node,
        time=arguments.time,
        account=arguments.account,
        partition=arguments.partition,
        container=arguments.container,
        mounts=tuple(arguments.mounts),
        workdir=arguments.workdir or (WORK_IN_IMAGE if arguments.container else str(REPOSITORY)),
        environment=tuple(tuple(pair.split("=", 1)) for pair in arguments.env),
        node_group=arguments.node_group,
        resource_shape=arguments.resource_shape,
        retries=arguments.retries,
    )
    code = arguments.code or (IN_IMAGE if arguments.container else str(REPOSITORY))
    script = recipe.script(arguments.overrides, code)
    with run.Experiment(arguments.recipe) as experiment:
        experiment.add(script, executor=EXECUTORS[arguments.executor](place), name=arguments.recipe, tail_logs=True)
        if arguments.dryrun:
            experiment.dryrun()
        else:
            experiment.run(detach=arguments.executor != "local")


if __name__ == "__main__":
    main()
