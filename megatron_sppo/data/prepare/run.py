"""``megatron-sppo data prepare``: one data set from raw to ``<output>/<set>.jsonl``, with its manifest and overlap report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from megatron_sppo import __version__
from megatron_sppo.data.files import unique_names
from megatron_sppo.data.prepare.golds import is_cut, read_repaired_golds, repair
from megatron_sppo.data.prepare.overlap import NGRAM, THRESHOLD, Overlap, find_overlaps
from megatron_sppo.data.prepare.rows import Dropped, PreparedRow, RawRow, prepare_rows, read_raw_rows
from megatron_sppo.data.prepare.sets import SETS, MathSet
from megatron_sppo.data.prepare.source import SUFFIXES, SourceFile, locate, sha256
from megatron_sppo.errors import UserError

DROPPED_AS = {
    "no_gold": "without a gold",
    "float_corrupted": "whose gold went through a float",
    "duplicate": "repeats",
    "conflicting": "with contradicting golds",
    "overlap": "that overlap",
}


@dataclass(frozen=True)
class Request:
    name: str  # a key of SETS
    input: str
    output: Path
    minerva_golds: str = ""
    against: tuple[str, ...] = ()
    drop_overlaps: bool = False


@dataclass(frozen=True)
class Outcome:
    data: Path
    num_rows: int
    lines: tuple[str, ...]  # what was done, for a person


def prepare(request: Request) -> Outcome:
    """Read, clean, compare, write. Raises UserError in one sentence; writes nothing before everything is known to be right."""
    kind = SETS[request.name]
    check(request)
    files = locate(request.input, kind)
    raw, no_gold = read_raw_rows(files)
    rows, dropped = prepare_rows(raw, kind, repairs(raw, request.minerva_golds))
    overlaps = {name: compare(rows, other, kind) for name, other in read_against(request.against).items()}
    if request.drop_overlaps:
        guilty = {pair.train_row for pairs in overlaps.values() for pair in pairs}
        rows = [row for number, row in enumerate(rows) if number not in guilty]
        dropped = replace(dropped, overlap=len(guilty))
    if not rows:
        raise UserError(f"--input {request.input} leaves no row after {dropped.total} were dropped; check that it is {kind.name}")
    return write(request, kind, files, rows, replace(dropped, no_gold=no_gold), overlaps)


def check(request: Request) -> None:
    if request.minerva_golds and request.name != "minerva":
        raise UserError(f"--minerva-golds {request.minerva_golds} belongs to minerva, not to {request.name}; leave it out")
    if request.drop_overlaps and not request.against:
        raise UserError("--drop-overlaps needs to know against what; name the files with --against")
    if request.drop_overlaps and SETS[request.name].role == "benchmark":
        raise UserError(
            f"--drop-overlaps would take problems out of the benchmark {request.name}; leave it out: "
            "`megatron-sppo eval --overlap` reports the benchmark with and without them"
        )
    if request.output.exists() and not request.output.is_dir():
        raise UserError(f"--output {request.output} is a file; name a folder")


def repairs(raw: Sequence[RawRow], path: str) -> dict[int, str]:
    if not path:
        return {}
    known = read_repaired_golds(path)
    return {row.row: repair(row.gold, row.row, known, path) for row in raw}


def read_against(paths: Sequence[str]) -> dict[str, list[str]]:
    """Name of each chosen file -> its statements, in row order."""
    if not paths:
        return {}
    sources: dict[str, list[str]] = {}
    for name, path in zip(unique_names(paths, "--against"), paths, strict=True):
        file = Path(path)
        if not file.is_file():
            raise UserError(f"--against {path} is not a file; correct the path")
        if file.suffix.lower() not in SUFFIXES:
            raise UserError(f"--against {path} is no parquet, jsonl or json file; give one that is")
        sources[name] = [row.statement for row in read_raw_rows([SourceFile(file, file.name)])[0]]
    return sources


def compare(rows: Sequence[PreparedRow], other: Sequence[str], kind: MathSet) -> list[Overlap]:
    """Overlaps of this set with another; the benchmark of the two is what the fraction refers to."""
    own = [row.raw.statement for row in rows]
    return find_overlaps(own, other) if kind.role == "benchmark" else find_overlaps(other, own)


def own_row(pair: Overlap, kind: MathSet) -> int:
    return pair.benchmark_row if kind.role == "benchmark" else pair.train_row


def write(
    request: Request,
    kind: MathSet,
    files: Sequence[SourceFile],
    rows: Sequence[PreparedRow],
    dropped: Dropped,
    overlaps: dict[str, list[Overlap]],
) -> Outcome:
    request.output.mkdir(parents=True, exist_ok=True)
    data = request.output / f"{kind.name}.jsonl"
    lines = [json.dumps(row.as_dict(kind.name, number), ensure_ascii=False) for number, row in enumerate(rows)]
    put(data, "".join(line + "\n" for line in lines))
    if overlaps:
        put(request.output / f"{kind.name}.overlap.json", json.dumps(overlap_report(kind, overlaps), indent=1) + "\n")
    manifest = {
        "set": kind.name,
        "made_by": f"megatron-sppo {__version__}",
        "input": [{"file": file.name, "sha256": file.sha256()} for file in files],
        "output": {"file": data.name, "sha256": sha256(data), "rows": len(rows)},
        "dropped": asdict(dropped),
        "golds": gold_counts(rows),
        "overlaps": {name: len({own_row(pair, kind) for pair in pairs}) for name, pairs in overlaps.items()},
        "overlaps_dropped": request.drop_overlaps,
    }
    put(request.output / f"{kind.name}.manifest.json", json.dumps(manifest, indent=2) + "\n")
    return Outcome(data, len(rows), tuple(describe(kind, data, rows, dropped, overlaps)))


def put(path: Path, text: str) -> None:
    """Whole or not at all."""
    draft = path.with_name(path.name + ".draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def overlap_report(kind: MathSet, overlaps: dict[str, list[Overlap]]) -> dict[str, list[dict[str, Any]]]:
    """Benchmark -> pairs. ``eval_row`` counts the benchmark's rows; rows of this set are those before overlaps were dropped."""
    report: dict[str, list[dict[str, Any]]] = {}
    for other, pairs in overlaps.items():
        benchmark, train = (kind.name, other) if kind.role == "benchmark" else (other, kind.name)
        report.setdefault(benchmark, []).extend(
            {"eval_row": pair.benchmark_row, "train": train, "train_row": pair.train_row, "frac": round(pair.fraction, 4)}
            for pair in pairs
        )
    return report


def gold_counts(rows: Sequence[PreparedRow]) -> dict[str, int]:
    return {
        "respelt": sum(not row.repaired and row.answer != row.raw.gold for row in rows),
        "repaired": sum(row.repaired for row in rows),
        "cut": sum(is_cut(row.answer) for row in rows),
    }


def describe(
    kind: MathSet, data: Path, rows: Sequence[PreparedRow], dropped: Dropped, overlaps: dict[str, list[Overlap]]
) -> list[str]:
    golds = gold_counts(rows)
    reasons = ", ".join(f"{count:,} {DROPPED_AS[reason]}" for reason, count in asdict(dropped).items() if count)
    lines = [
        f"{data}: {len(rows):,} problems; dropped {reasons or 'none'}",
        f"golds: {golds['respelt']} respelt, {golds['repaired']} repaired",
    ]
    if golds["cut"]:
        fix = "; give --minerva-golds" if kind.name == "minerva" else ""
        lines.append(f"warning: {golds['cut']} golds are cut off at a brace and cannot be matched{fix}")
    if kind.num_problems and len(rows) + dropped.overlap != kind.num_problems:
        lines.append(f"warning: {kind.name} is published with {kind.num_problems} problems, this input gives {len(rows)}")
    lines += [
        f"overlap with {name}: {len({own_row(pair, kind) for pair in pairs})} of the {kind.name} problems share "
        f"{THRESHOLD:.0%} or more {NGRAM}-grams ({len({pair.benchmark_row for pair in pairs})} benchmark problems)"
        for name, pairs in overlaps.items()
    ]
    return lines
