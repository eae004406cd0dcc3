"""``megatron-sppo control``."""

from __future__ import annotations

import argparse
from pathlib import Path

RUN_EXAMPLE = """\
example:
  megatron-sppo control run examples/control/cartpole.yaml --algorithms sppo,ppo --seeds 0,1,2,3,4

A run that was stopped goes on from its last checkpoint when the same command is given again."""

REPORT_EXAMPLE = """\
example:
  megatron-sppo control report runs/control --out examples/control"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    form = argparse.RawDescriptionHelpFormatter
    run = actions.add_parser("run", help="expert, cloning, reinforcement learning", epilog=RUN_EXAMPLE, formatter_class=form)
    run.add_argument("config", metavar="CONFIG.yaml", type=Path, help="the task's config file")
    run.add_argument("overrides", metavar="key=value", nargs="*", help="overrides, for example rl.updates=50")
    run.add_argument("--algorithms", metavar="A,B", help="one run for each (default: the config's own)")
    run.add_argument("--seeds", metavar="0,1,2", help="one run for each (default: the config's own)")
    run.set_defaults(handler=_run)
    report = actions.add_parser("report", help="curves and final success", epilog=REPORT_EXAMPLE, formatter_class=form)
    report.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="run_dir of the runs")
    report.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for plots and tables")
    report.set_defaults(handler=_report)


def _run(arguments: argparse.Namespace) -> int:
    from megatron_sppo.config.load import load_config
    from megatron_sppo.control.config import ControlConfig
    from megatron_sppo.control.run import run

    words = list(arguments.overrides)
    seeds = [f"seed={seed}" for seed in arguments.seeds.split(",")] if arguments.seeds else [""]
    algorithms = [f"algorithm={name}" for name in arguments.algorithms.split(",")] if arguments.algorithms else [""]
    choices = [[*words, *filter(None, (seed, algorithm))] for seed in seeds for algorithm in algorithms]
    for config in [load_config(ControlConfig, [arguments.config], choice) for choice in choices]:
        run(config)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from megatron_sppo.control.report import write_report

    for path in write_report(arguments.run_dir, arguments.out):
        print(path)
    return 0
