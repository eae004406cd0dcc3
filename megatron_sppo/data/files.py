"""jsonl and parquet files as records that know where they stand, so that every complaint can name the file and the row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from megatron_sppo.errors import UserError


@dataclass(frozen=True)
class Record:
    """One row as it was written."""

    id: str  # "<file name>:<row number from 0>", unique over the files read together
    place: str  # "<path>:<line from 1>" or "<path> row <number from 0>", for messages
    stem: str
    columns: dict[str, Any]


def read_records(paths: Sequence[str], knob: str) -> list[Record]:
    """All records of ``paths``, in order. ``knob`` is the setting that holds the list, e.g. ``data.train``."""
    if not paths:
        raise UserError(f"{knob}=[] names no file; list at least one jsonl or parquet file.")
    records = []
    for index, (path, name) in enumerate(zip(paths, unique_names(paths, knob), strict=True)):
        file, setting = Path(path), f"{knob}[{index}]={path!r}"
        rows = list(reader_for(file, setting)(file, setting))
        if not rows:
            raise UserError(f"{setting} holds no rows; give a file with at least one, or take it off the list.")
        records += [Record(f"{name}:{number}", place, file.stem, columns) for number, (place, columns) in enumerate(rows)]
    return records


def reader_for(file: Path, setting: str) -> Callable[[Path, str], Iterator[tuple[str, dict[str, Any]]]]:
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise UserError(f"{setting} is neither .jsonl nor .parquet; convert it to one of them.")
    if not file.is_file():
        raise UserError(f"{setting} is not a file; correct the path.")
    return reader


def read_jsonl(file: Path, setting: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """One JSON object per line; blank lines are no rows."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"{file}:{number}", parse_line(line, f"{setting}, line {number}")


def parse_line(line: bytes, place: str) -> dict[str, Any]:
    try:
        columns = json.loads(line)
    except ValueError as error:  # bad JSON, or bytes that are not UTF-8
        raise UserError(f"{place}: not valid JSON ({error}); write one JSON object per line.") from error
    if not isinstance(columns, dict):
        raise UserError(f"{place}: a JSON {type(columns).__name__}, not an object; write one JSON object per line.")
    return columns


def read_parquet(file: Path, setting: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        rows = pq.ParquetFile(file).read().to_pylist()
    except pa.ArrowInvalid as error:
        raise UserError(f"{setting} is not a readable parquet file ({error}); write it again.") from error
    yield from ((f"{file} row {number}", columns) for number, columns in enumerate(rows))


READERS = {".jsonl": read_jsonl, ".parquet": read_parquet}


def unique_names(paths: Sequence[str], knob: str) -> list[str]:
    """A short name per file: its stem; with its folder, and then its extension, where stems are shared."""
    files = [Path(path).resolve() for path in paths]
    namings: tuple[Callable[[Path], str], ...] = (
        lambda file: file.stem,
        lambda file: f"{file.parent.name}/{file.stem}",
        lambda file: f"{file.parent.name}/{file.name}",
    )
    for naming in namings:
        names = [naming(file) for file in files]
        if len(set(names)) == len(names):
            return names
    double = next(name for name in names if names.count(name) > 1)
    raise UserError(
        f"{knob}={list(paths)} lists {double!r} more than once; list each file once, under its own folder and file name."
    )
