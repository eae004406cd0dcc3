"""Arguments of ``megatron-sppo data prepare``; imports nothing heavy before the command runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_sppo.data.prepare.sets import SETS

EXAMPLE = """\
examples:
  megatron-sppo data prepare aime24 --input math__aime_repeated_8x_240.parquet --output data
  megatron-sppo data prepare minerva --input minerva.parquet --minerva-golds minerva_golds_repaired.jsonl --output data
  megatron-sppo data prepare dapo --input BytedTsinghua-SIA/DAPO-Math-17k --output data \\
      --against data/aime24.jsonl data/amc23.jsonl data/math500.jsonl --drop-overlaps

Writes OUTPUT/<set>.jsonl (id, prompt, answer, data_source, original_answer, provenance), <set>.manifest.json (counts,
sha256 of input and output) and, with --against, <set>.overlap.json, which `megatron-sppo eval --overlap` reads."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("set", choices=tuple(SETS), help="which data set the input is")
    parser.add_argument(
        "--input", metavar="FILE|NAME", required=True, help="parquet, jsonl or json file, or a name on the Hugging Face hub"
    )
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder for the prepared files")
    parser.add_argument("--minerva-golds", metavar="FILE", default="", help="jsonl of {row, shipped, repaired} for cut golds")
    parser.add_argument(
        "--against", metavar="FILE", nargs="+", default=[], help="report problems that share half of their 13-grams with these"
    )
    parser.add_argument("--drop-overlaps", action="store_true", help="and leave those problems out")


def run(arguments: argparse.Namespace) -> int:
    from megatron_sppo.data.prepare.run import Request, prepare

    outcome = prepare(
        Request(
            name=arguments.set,
            input=arguments.input,
            output=arguments.output,
            minerva_golds=arguments.minerva_golds,
            against=tuple(arguments.against),
            drop_overlaps=arguments.drop_overlaps,
        )
    )
    print("\n".join(outcome.lines))
    return 0
