"""Append-only JSON lines that a resumed run continues as if it had never stopped."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from megatron_sppo.errors import UserError


class JsonlFile:
    """One JSON object per line, each with a ``step``; flushed per line, so that ``tail -f`` and a crash see all of it."""

    def __init__(self, path: Path, first_step: int) -> None:
        """``first_step``: the first step this run will write. Lines from there on, of an earlier attempt, are dropped."""
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_from(path, first_step)
        self._stream = path.open("a", encoding="utf-8")

    def append(self, row: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps({name: _finite(value) for name, value in row.items()}, ensure_ascii=False) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows. A last line without its newline was cut off by a crash and is left out; any other bad line is an error."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise UserError(f"{path} line {number} is not JSON: repair or remove that line, or use another run_dir") from error
    return rows


def _drop_from(path: Path, first_step: int) -> None:
    """Rewrite the file without rows at or after ``first_step``, atomically."""
    if not path.exists():
        return
    kept = [row for row in read_jsonl(path) if row["step"] < first_step]
    draft = path.with_name(path.name + ".draft")
    draft.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8")
    draft.replace(path)


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity: the row says null, which readers show as "not defined"."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
