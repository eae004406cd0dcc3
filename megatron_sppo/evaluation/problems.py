"""Benchmarks as files on disk: which problems, which golds, and which of them lie in the training data."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_sppo.data.files import Record, read_records
from megatron_sppo.data.rows import Row, gold_of, prompt_of, source_of
from megatron_sppo.errors import UserError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Problems:
    """One benchmark. Row ids are ``<name>:<row of the file>``, whatever the file is called: a seed depends on them."""

    name: str
    rows: tuple[Row, ...]
    original_golds: tuple[str, ...]  # as published; () where no gold was repaired
    overlapping: frozenset[int]  # rows whose problem stands in the training data


def load_problems(benchmarks: Sequence[str], folder: str, overlap: str, limit: int) -> tuple[Problems, ...]:
    """``benchmarks`` are ``name=file``, ``name=folder`` or the name of a prepared set in ``folder``.

    UserError for what cannot be measured.
    """
    overlaps = read_overlaps(overlap)
    sets = tuple(read_benchmark(entry, folder, overlaps, limit) for entry in benchmarks)
    if not sets:
        raise UserError("--benchmarks names none; list some, for example aime24,amc23 or mine=problems.jsonl")
    double = [name for name, count in Counter(entry.name for entry in sets).items() if count > 1]
    if double:
        raise UserError(f"--benchmarks names {double[0]} twice; list each benchmark once")
    unknown = overlaps.keys() - {plain(entry.name) for entry in sets}
    if overlap and len(unknown) == len(overlaps):
        raise UserError(f"--overlap {overlap} speaks of none of the benchmarks; it knows {', '.join(sorted(overlaps)) or 'none'}")
    return sets


def read_benchmark(entry: str, folder: str, overlaps: dict[str, frozenset[int]], limit: int) -> Problems:
    name, equals, path = entry.partition("=")
    if not NAME.fullmatch(name):
        raise UserError(f"--benchmarks {entry}: {name!r} is not a name of letters, digits, dots and dashes; write name=path")
    file = Path(path) if equals else Path(folder) / f"{name}.jsonl"
    file = file / f"{name}.jsonl" if file.is_dir() else file
    if not equals and not file.is_file():
        raise UserError(
            f"--benchmarks {name}: {file} is not there; make it with `megatron-sppo data prepare`, name its folder with "
            f"--data, or write {name}=path"
        )
    knob = f"--benchmarks {name}"
    records = read_records([str(file)], knob)
    rows = [
        Row(f"{name}:{number}", prompt_of(record, knob), gold_of(record, knob), source_of(record))
        for number, record in enumerate(records)
    ]
    distinct = len({row.messages_or_text for row in rows})
    if distinct < len(rows):
        raise UserError(
            f"--benchmarks {name}: {file.name} holds {distinct} distinct problems in {len(rows)} rows; repeats would pass for "
            "independent problems: drop them with `megatron-sppo data prepare`"
        )
    if limit:
        rows, records = rows[:limit], records[:limit]
    overlapping = frozenset(row for row in overlaps.get(plain(name), ()) if row < len(rows))
    return Problems(name, tuple(rows), original_golds(records), overlapping)


def original_golds(records: Sequence[Record]) -> tuple[str, ...]:
    """The published gold of every row, if one of them was repaired when the set was prepared."""
    if not any(is_repaired(record.columns) for record in records):
        return ()
    return tuple(str(record.columns["original_answer"]) for record in records)


def is_repaired(columns: dict[str, Any]) -> bool:
    provenance = columns.get("provenance")
    return isinstance(provenance, dict) and provenance.get("repaired") is True and "original_answer" in columns


def read_overlaps(path: str) -> dict[str, frozenset[int]]:
    """Plain name of a benchmark -> its rows that lie in the training data, from ``{"AMC23": [{"eval_row": 3, ...}]}``."""
    if not path:
        return {}
    try:
        content = json.loads(Path(path).read_bytes())
        return {plain(name): frozenset(int(pair["eval_row"]) for pair in pairs) for name, pairs in content.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"--overlap {path} cannot be read as {{benchmark: [{{eval_row}}]}} ({type(error).__name__}); "
            "make it with `megatron-sppo data prepare --against`"
        ) from error


def plain(name: str) -> str:
    """``AMC23``, ``amc-23`` and ``amc23`` are one benchmark."""
    return re.sub("[^a-z0-9]", "", name.lower())
