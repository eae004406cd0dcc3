"""The command line of ``megatron-sppo probe``: nothing heavy is imported here."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from megatron_sppo.config.algorithms import CRITICS, critic_form
from megatron_sppo.config.schema import Config
from megatron_sppo.errors import UserError

EXAMPLE = """\
example:
  megatron-sppo probe runs/quickstart --nproc 2 --samples 64 --limit 200

key=value words go over the run's own config. Asks the run's latest checkpoint; nothing of the run is changed."""
COLOCATED = (
    *("rollout.placement=colocated", "rollout.num_ranks=0", "rollout.max_staleness=0", "rollout.stream=false"),
    *("checkpoint.resume=must", "logging.wandb=off", "data.curriculum.by=off"),
)


@dataclass(frozen=True)
class Probe:
    """What is asked."""

    samples: int  # responses per prompt: k of AVG@k
    problems: int  # whose values along responses are written

    def __post_init__(self) -> None:
        for option, value, least in (("--samples", self.samples, 2), ("--problems", self.problems, 0)):
            if value < least:
                raise UserError(f"{option} {value} is too few: use {option} {least} or more")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="folder of a run with a critic and a checkpoint")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="over the run's config, for example actor.tp=1")
    parser.add_argument("--data", metavar="FILE", help="prompts (default: the run's first validation file)")
    parser.add_argument("--limit", metavar="N", type=int, default=200, help="the first N prompts of it; 0 = all (default: 200)")
    parser.add_argument("--samples", metavar="K", type=int, default=64, help="responses per prompt (default: 64)")
    parser.add_argument(
        "--problems", metavar="N", type=int, default=10, help="whose values along responses to write (default: 10)"
    )
    parser.add_argument("--nproc", metavar="N", type=int, help="start N ranks on this machine (default: this process)")


def read_config(arguments: argparse.Namespace) -> Config:
    """The run's config with what the probe changes; UserError where there is no such run or it has nothing to ask."""
    from megatron_sppo.config.load import load_config  # the YAML parser, for which `--help` should not wait

    file = arguments.run_dir / "config.yaml"
    if not file.is_file():
        raise UserError(f"{file} does not exist: give the run_dir of a run")
    data = [f"data.validation=[{arguments.data}]"] if arguments.data else []
    asked = [f"run_dir={arguments.run_dir}", f"validation.limit={arguments.limit}", *COLOCATED, *data]
    config = load_config(Config, [file], [*asked, *arguments.overrides])
    if critic_form(config) is None:
        raise UserError(f"algorithm.name={config.algorithm.name} of {file} has no critic: probe a run of {', '.join(CRITICS)}")
    if not config.data.validation:
        raise UserError(f"data.validation of {file} is empty: name prompts with --data")
    return config


def words_of(arguments: argparse.Namespace) -> list[str]:
    """The same command for the ranks."""
    options = {
        "--data": arguments.data,
        "--limit": arguments.limit,
        "--samples": arguments.samples,
        "--problems": arguments.problems,
    }
    given = [word for option, value in options.items() if value is not None for word in (option, str(value))]
    return ["probe", str(arguments.run_dir), *given, *arguments.overrides]
