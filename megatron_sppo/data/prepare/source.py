"""Where raw rows come from: a file on this machine, or a data set of the Hugging Face hub."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_sppo.data.files import parse_line, read_jsonl, read_parquet
from megatron_sppo.data.prepare.sets import MathSet
from megatron_sppo.errors import UserError

SUFFIXES = (".parquet", ".jsonl", ".json")


@dataclass(frozen=True)
class SourceFile:
    path: Path
    name: str  # in messages and in the manifest: the file's own name, or ``owner/name@revision:path`` for the hub

    def sha256(self) -> str:
        return sha256(self.path)


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def locate(wanted: str, kind: MathSet) -> list[SourceFile]:
    """The files behind ``--input``; UserError where there is neither such a file nor a way to the hub."""
    path = Path(wanted)
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"--input {wanted} is none of {', '.join(SUFFIXES)}; convert it to one of them")
        return [SourceFile(path, path.name)]
    looks_like_hub = wanted.count("/") == 1 and not path.is_absolute() and path.suffix.lower() not in SUFFIXES
    if path.is_dir() or not looks_like_hub:
        raise UserError(f"--input {wanted} is not a file; give a parquet, jsonl or json file, or a hub name such as {kind.hub}")
    return download(wanted, kind)


def download(name: str, kind: MathSet) -> list[SourceFile]:
    """All data files of the set's split, from the hub or its local cache."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UserError(f"--input {name} needs the package huggingface_hub; install it, or download the set and give its file")
    from huggingface_hub import HfApi, hf_hub_download

    # Its HTTP library's own error; everything else of the hub's is an OSError.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        info = HfApi().dataset_info(name)
        files = choose_files([sibling.rfilename for sibling in info.siblings or ()], kind.split)
        found = [
            SourceFile(Path(hf_hub_download(name, file, repo_type="dataset", revision=info.sha)), f"{name}@{info.sha}:{file}")
            for file in files
        ]
    except (HTTPError, OSError, ValueError) as error:  # ValueError: no valid repository name
        raise UserError(
            f"--input {name} is not a file here and the hub does not give it ({type(error).__name__}); "
            "download it where there is a network and give the parquet, jsonl or json file as --input"
        ) from error
    if not found:
        raise UserError(
            f"--input {name} has no parquet, jsonl or json files on the hub; download it and give one file as --input"
        )
    return found


def choose_files(files: list[str], split: str) -> list[str]:
    """Data files of one format, the one that comes first in `SUFFIXES`; of ``split`` alone where some file names it."""
    for suffix in SUFFIXES:
        same = sorted(file for file in files if file.lower().endswith(suffix))
        if same:
            return [file for file in same if split in Path(file).stem.lower()] or same
    return []


def read_source(source: SourceFile) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place for messages, columns with lower-case names) per row."""
    setting = f"--input {source.name}"
    readers = {".parquet": read_parquet, ".jsonl": read_jsonl, ".json": read_json}
    for place, columns in readers[source.path.suffix.lower()](source.path, setting):
        yield place, {name.lower(): value for name, value in columns.items()}


def read_json(file: Path, setting: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A JSON list of objects, or one object per line under the wrong extension."""
    content = file.read_bytes()
    if not content.lstrip().startswith(b"["):
        for number, line in enumerate(content.splitlines(), start=1):
            if line.strip():
                yield f"{file}:{number}", parse_line(line, f"{setting}, line {number}")
        return
    try:
        rows = json.loads(content)
    except ValueError as error:
        raise UserError(f"{setting}: not valid JSON ({error}); write a list of objects") from error
    for number, columns in enumerate(rows):
        if not isinstance(columns, dict):
            raise UserError(f"{setting}: row {number} is a JSON {type(columns).__name__}; write a list of objects")
        yield f"{file} row {number}", columns
