"""``megatron-sppo report``: one run as a page in its folder, or several as the paper's figures in a folder of their own."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from megatron_sppo.errors import UserError

if TYPE_CHECKING:
    from megatron_sppo.analysis.figures.chart import Planned

EXAMPLE = """\
example:
  megatron-sppo report runs/quickstart
  megatron-sppo report runs/compare/* --out runs/compare_report
  megatron-sppo report runs/sppo_1 'SPPO, small critic'=runs/sppo_small_1 runs/grpo_1 --out figures

The first works on a run that is still going, too. Runs of one method that differ in their seed are averaged.
docs/report.md says what each figure needs and how its numbers are computed."""

Plan: TypeAlias = "Callable[[list[str], int, int, str], tuple[Planned, ...]]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folder with metrics.jsonl; or LABEL=RUN, to name its method")
    parser.add_argument("--out", metavar="DIR", type=Path, help="draw the paper's figures there (needed for several runs)")
    parser.add_argument("--title", help="heading of the page (default: the folder's name)")
    parser.add_argument(
        "--reference",
        metavar="NAME",
        default="grpo",
        help="algorithm whose best score the others are to reach (default: grpo)",
    )
    parser.add_argument(
        "--plan",
        metavar="CONFIG",
        nargs="+",
        default=[],
        help="configs whose memory is drawn beside the first's; or LABEL=CONFIG",
    )
    parser.add_argument("--nodes", metavar="N", type=int, default=1, help="machines of --plan (default: 1)")
    parser.add_argument("--gpus-per-node", metavar="M", type=int, default=4, help="GPUs of each (default: 4, as in the paper)")
    parser.add_argument("--gpu", default="h100", help="which, as `megatron-sppo plan --help` lists them (default: h100)")


def run(arguments: argparse.Namespace, plan: Plan) -> int:
    """``plan`` is the memory model, which stands above this package."""
    if arguments.out is None:
        print(_one(arguments))
        return 0
    from megatron_sppo.analysis.compared_runs import read_runs
    from megatron_sppo.analysis.comparison import write_comparison
    from megatron_sppo.analysis.figures.chart import Evidence

    machines = (arguments.nodes, arguments.gpus_per_node, arguments.gpu)
    planned = plan(arguments.plan, *machines) if arguments.plan else ()
    evidence = Evidence(read_runs(arguments.runs), arguments.reference, planned)
    print(write_comparison(evidence, arguments.out, arguments.title or arguments.out.resolve().name))
    return 0


def _one(arguments: argparse.Namespace) -> Path:
    from megatron_sppo.analysis.report import write_report

    if len(arguments.runs) > 1:
        raise UserError(f"{len(arguments.runs)} runs were given but no folder for what compares them: add --out DIR")
    if arguments.plan:
        raise UserError("--plan draws a figure beside those of --out: add --out DIR")
    folder = Path(arguments.runs[0])
    return write_report(folder, arguments.title or folder.resolve().name)
