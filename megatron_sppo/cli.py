"""The console script ``megatron-sppo``: train, plan, sft, check, report, probe, export, data, eval, grade,
control, config.

Nothing heavy is imported before a subcommand runs, so that ``--help`` answers at once. A mistake of the user ends with
one line on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from megatron_sppo import __version__
from megatron_sppo.errors import ParityError, UserError, WeightMismatch

USER_MISTAKE = 2
Handler = Callable[[argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001  (argparse has no public name for it)

TRAIN_EXAMPLE = """\
example:
  megatron-sppo train examples/sppo.yaml --nproc 2 steps=50 actor.tp=2 actor.optimizer.lr=2e-6

`megatron-sppo config train` lists every key. Under torchrun or srun leave --nproc out: the ranks are there already.
A run whose run_dir holds a checkpoint goes on from it (checkpoint.resume=never starts anew)."""

SFT_EXAMPLE = """\
example:
  megatron-sppo sft examples/sft.yaml --nproc 2 model.path=models/base run_dir=runs/sft

The result is the HF folder <run_dir>/hf, ready to be actor.path of `train`."""

CHECK_EXAMPLE = """\
example:
  megatron-sppo check --model models/Qwen2.5-0.5B --tp 2 --dtype fp32

Starts tp x pp ranks itself; exit code 1 when the three disagree by more than the dtype allows."""

EXPORT_EXAMPLE = """\
example:
  megatron-sppo export runs/r1_7b/checkpoints/step_000200 --output models/r1_7b_step200

Any layout can be exported on one rank; more ranks (--tp) share the memory."""

GRADE_EXAMPLE = """\
example:
  megatron-sppo grade --input responses.jsonl --output graded.jsonl --workers 4

Every row comes out, in order; one that cannot be graded has reward null and says why."""

CONFIG_EXAMPLE = """\
example:
  megatron-sppo config train | grep clip"""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse(argv)
    try:
        status: int = arguments.handler(arguments)
    except (UserError, ParityError, WeightMismatch) as error:
        _print_once(str(error))
        return USER_MISTAKE
    return status


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """argparse, but overrides may also follow an option: ``train a.yaml --nproc 2 steps=5``."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and not (hasattr(arguments, "overrides") and all("=" in word and not word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    return arguments


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="megatron-sppo",
        description="Sequence-level PPO for reasoning language models: Megatron-core trains, vLLM samples, one program.",
        epilog="`megatron-sppo COMMAND --help` explains a command and shows an example.",
    )
    parser.add_argument("--version", action="version", version=f"megatron-sppo {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_run(commands, "train", "train a policy and its critic with reinforcement learning", TRAIN_EXAMPLE, _train)
    _add_plan(commands)
    _add_run(commands, "sft", "fine-tune on prompt/response pairs: the warm start of a policy", SFT_EXAMPLE, _sft)
    _add_check(commands)
    _add_report(commands)
    _add_probe(commands)
    _add_export(commands)
    _add_data(commands)
    _add_eval(commands)
    _add_grade(commands)
    _add_control(commands)
    config = _add(commands, "config", "list every key of a config with its type, default and meaning", CONFIG_EXAMPLE, _config)
    config.add_argument("kind", nargs="?", choices=("train", "sft"), default="train", help="whose keys (default: train)")
    return parser


def _add(commands: Commands, name: str, summary: str, example: str, handler: Handler) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(handler=handler)
    return parser


def _add_run(commands: Commands, name: str, summary: str, example: str, handler: Handler) -> None:
    parser = _add(commands, name, summary, example, handler)
    parser.add_argument("config", metavar="CONFIG.yaml", type=Path, help="config file; it may build on others with `defaults:`")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", help="overrides, for example actor.tp=2 data.train=[a.jsonl]"
    )
    parser.add_argument(
        "--nproc", metavar="N", type=int, help="start N ranks on this machine with torchrun (default: this process)"
    )


def _add_plan(commands: Commands) -> None:
    from megatron_sppo.plan import command

    summary = "say what a training run would need: layout, memory, bytes and time, without a GPU"
    command.add_arguments(_add(commands, "plan", summary, command.EXAMPLE, command.run))


def _add_check(commands: Commands) -> None:
    summary = "compare HF, Megatron and vLLM log-probs of a model on the same tokens"
    parser = _add(commands, "check", summary, CHECK_EXAMPLE, _check)
    parser.add_argument("--model", metavar="DIR", required=True, help="HF folder of a Qwen2, Qwen2.5 or Qwen3 dense model")
    parser.add_argument("--tp", metavar="N", type=int, default=1, help="tensor-parallel size (default: 1)")
    parser.add_argument("--pp", metavar="N", type=int, default=1, help="pipeline-parallel size of Megatron (default: 1)")
    parser.add_argument(
        "--dtype", choices=("auto", "fp32", "bf16"), default="auto", help="default: auto = bf16 on GPU, fp32 on CPU"
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def _add_export(commands: Commands) -> None:
    parser = _add(commands, "export", "write the policy of a checkpoint as an HF folder", EXPORT_EXAMPLE, _export)
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", type=Path, help="<run_dir>/checkpoints/step_*, or <run_dir>: its latest"
    )
    parser.add_argument("--output", metavar="DIR", type=Path, help="default: hf inside the checkpoint's folder")
    parser.add_argument("--tp", metavar="N", type=int, default=1, help="ranks that share the model on the way (default: 1)")


def _add_report(commands: Commands) -> None:
    from megatron_sppo.analysis import command

    summary = "draw a run as one page; or several runs as the paper's figures, with their numbers"
    command.add_arguments(_add(commands, "report", summary, command.EXAMPLE, _report))


def _add_probe(commands: Commands) -> None:
    from megatron_sppo.probe_arguments import EXAMPLE, add_arguments

    summary = "ask a trained critic about held-out prompts and along responses, and compare with what comes of them"
    add_arguments(_add(commands, "probe", summary, EXAMPLE, _probe))


def _add_data(commands: Commands) -> None:
    from megatron_sppo.data.prepare import command

    data = commands.add_parser("data", help="prepare data sets", description="Prepare data sets.")
    actions = data.add_subparsers(title="actions", metavar="ACTION", required=True)
    summary = "public math sets as jsonl of one schema, with counts, checksums and overlaps"
    command.add_arguments(_add(actions, "prepare", summary, command.EXAMPLE, command.run))


def _add_eval(commands: Commands) -> None:
    from megatron_sppo.evaluation import arguments

    summary = "measure a model on benchmarks: avg@k, pass@k, maj@k with intervals, and against a baseline"
    arguments.add_arguments(_add(commands, "eval", summary, arguments.EXAMPLE, _eval))


def _add_grade(commands: Commands) -> None:
    parser = _add(commands, "grade", "grade math answers in a file of JSON lines", GRADE_EXAMPLE, _grade)
    parser.add_argument("--input", metavar="FILE", type=Path, required=True, help="JSON lines with `response` and `gold`")
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="the same rows with reward, answer, reason")
    parser.add_argument(
        "--grader", choices=("strict", "reasoning360"), default="strict", help="reasoning360 is the paper's, faults included"
    )
    parser.add_argument("--workers", metavar="N", type=int, default=2, help="processes for symbolic equality (default: 2)")


def _add_control(commands: Commands) -> None:
    from megatron_sppo.control import command

    summary = "the paper's control benchmark: SPPO and PPO on five environments with a verified outcome"
    command.add_commands(commands.add_parser("control", help=summary, description=summary[0].upper() + summary[1:] + "."))


# --- handlers ---------------------------------------------------------------------------------------------------------


def _train(arguments: argparse.Namespace) -> int:
    from megatron_sppo.config import arithmetic
    from megatron_sppo.config.load import load_config
    from megatron_sppo.config.placement import name_of_rank, num_rollout_ranks
    from megatron_sppo.config.schema import Config

    config = load_config(Config, [arguments.config], arguments.overrides)
    _check_releases()
    if arguments.nproc is not None:
        command = ["train", str(arguments.config), *arguments.overrides]
        num_train_ranks = arguments.nproc - num_rollout_ranks(config) if num_rollout_ranks(config) else 0
        return _launch(
            arguments.nproc,
            command,
            lambda: arithmetic.check(config, arguments.nproc, "cpu"),
            lambda rank: name_of_rank(rank, num_train_ranks),
        )
    from megatron_sppo.train import main as train

    train(config)
    return 0


def _sft(arguments: argparse.Namespace) -> int:
    from megatron_sppo.config import arithmetic
    from megatron_sppo.config.load import load_config
    from megatron_sppo.config.schema import SFTConfig

    config = load_config(SFTConfig, [arguments.config], arguments.overrides)
    _check_releases()
    if arguments.nproc is not None:
        command = ["sft", str(arguments.config), *arguments.overrides]
        return _launch(arguments.nproc, command, lambda: arithmetic.check_sft(config, arguments.nproc, "cpu"))
    from megatron_sppo.sft import main as sft

    sft(config)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    if min(arguments.tp, arguments.pp) < 1:
        raise UserError(f"--tp {arguments.tp} --pp {arguments.pp} must both be at least 1: use --tp 1 --pp 1")
    ranks = arguments.tp * arguments.pp
    _check_releases()
    if ranks > 1 and "RANK" not in os.environ:
        flags = ["--tp", str(arguments.tp), "--pp", str(arguments.pp), "--dtype", arguments.dtype]
        return _launch(ranks, ["check", "--model", arguments.model, *flags, *(["--json"] if arguments.json else [])])
    from megatron_sppo.parity import main as compare

    return compare(arguments.model, arguments.tp, arguments.pp, arguments.dtype, arguments.json)


def _eval(arguments: argparse.Namespace) -> int:
    from megatron_sppo.evaluation.arguments import config_of, words_of

    config = config_of(arguments)
    _check_releases()
    from megatron_sppo.evaluation.run import main as evaluate
    from megatron_sppo.evaluation.run import prepare
    from megatron_sppo.evaluation.sampling import needs_export

    if arguments.nproc is not None:
        checkable = not any(map(needs_export, (config.model, config.baseline)))  # else the ranks check, once they have exported
        check = (lambda: prepare(config, arguments.nproc)) if checkable else (lambda: None)
        return _launch(arguments.nproc, ["eval", *words_of(config)], check)
    evaluate(config)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    if arguments.tp < 1:
        raise UserError(f"--tp {arguments.tp} exports nothing: use --tp 1 or more")
    _check_releases()
    if arguments.tp > 1 and "RANK" not in os.environ:
        output = ["--output", str(arguments.output)] if arguments.output else []
        return _launch(arguments.tp, ["export", str(arguments.checkpoint), "--tp", str(arguments.tp), *output])
    from megatron_sppo.checkpoint.export import main as export

    export(arguments.checkpoint, arguments.output, arguments.tp)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from megatron_sppo.analysis.command import run

    def plan(*words: Any) -> Any:
        from megatron_sppo.plan.phases import planned

        return planned(*words)

    return run(arguments, plan)


def _probe(arguments: argparse.Namespace) -> int:
    from megatron_sppo.probe_arguments import Probe, read_config, words_of

    probe, config = Probe(arguments.samples, arguments.problems), read_config(arguments)
    _check_releases()
    if arguments.nproc is not None:
        from megatron_sppo.config import arithmetic

        return _launch(arguments.nproc, words_of(arguments), lambda: arithmetic.check(config, arguments.nproc, "cpu"))
    from megatron_sppo.critic_probe import main as ask

    ask(config, probe)
    return 0


def _grade(arguments: argparse.Namespace) -> int:
    from megatron_sppo.rewards.math.grade_file import grade_file

    grade_file(arguments.input, arguments.output, arguments.grader, arguments.workers)
    return 0


def _config(arguments: argparse.Namespace) -> int:
    from megatron_sppo.config.load import describe, type_name
    from megatron_sppo.config.schema import Config, SFTConfig

    for knob in describe(Config if arguments.kind == "train" else SFTConfig):
        default = list(knob.default) if isinstance(knob.default, tuple) else knob.default
        shown = "required" if default == "" and knob.key.endswith("path") else f"default {_yaml(default)}"
        print(f"{knob.key}  ({type_name(knob.type)}; {shown})\n    {knob.meaning}")
    return 0


def _yaml(value: object) -> str:
    """As one would write it in a file: ``true``, ``''``, ``1e-06``."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) or "''"


def _check_releases() -> None:
    """UserError for a Megatron-core or a vLLM that cannot work, a warning for one that nobody has tried. Imports neither."""
    from megatron_sppo.parallel import megatron_versions
    from megatron_sppo.rollout import vllm_versions

    warnings = (megatron_versions.check_installed(), vllm_versions.check_installed())
    if "RANK" not in os.environ:  # under a launcher each rank would say it
        for warning in filter(None, warnings):
            print(f"megatron-sppo: warning: {warning}", file=sys.stderr, flush=True)


# --- ranks ------------------------------------------------------------------------------------------------------------


def _launch(
    num_ranks: int,
    command: Sequence[str],
    check: Callable[[], object] = lambda: None,
    name_of: Callable[[int], str] = "rank {}".format,
) -> int:
    """Run ``command`` on ``num_ranks`` local ranks under torchrun; its exit code without torchrun's own stack trace.

    ``check`` raises what the ranks would: here a mistake costs no start-up. ``name_of`` a rank is for the one that is killed.
    """
    if num_ranks < 1:
        raise UserError(f"--nproc {num_ranks} starts nothing: use --nproc 1 or more")
    if "RANK" in os.environ:
        raise UserError(
            f"--nproc {num_ranks} under a launcher would start ranks within rank {os.environ['RANK']}: leave --nproc out"
        )
    check()
    from megatron_sppo.launch import run_ranks

    return run_ranks(num_ranks, command, name_of)


SILENCE_SECONDS = 5.0


def _print_once(message: str) -> None:
    """Rank 0 speaks. Another rank waits: if rank 0 has the same error the launcher ends us meanwhile, if not we must speak."""
    rank = int(os.environ.get("RANK", "0"))
    if rank != 0:
        time.sleep(SILENCE_SECONDS)
        message = f"rank {rank}: {message}"
    print(f"megatron-sppo: error: {' '.join(message.split())}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
