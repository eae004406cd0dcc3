"""``megatron-sppo grade``: a JSON-lines file of responses graded line by line, in constant memory and in order."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from megatron_sppo.errors import UserError
from megatron_sppo.rewards.math import GraderName, grade_detailed
from megatron_sppo.rewards.math.workers import shared_pool

CHUNK_ROWS = 1024
PROGRESS_SECONDS = 2.0
MALFORMED = "malformed"


def grade_file(
    source: Path, target: Path, grader: GraderName = "strict", workers: int = 2, stream: TextIO | None = None
) -> Counter[str]:
    """Counts by reason, ``rows`` and ``right``. Every input line that is not blank gives one output line.

    A row that cannot be graded (no JSON object, no text in "response" or "gold") comes out with reward null and the reason
    ``malformed: ...``. The output appears under its name when it is complete.
    """
    if not source.is_file():
        raise UserError(f"--input {source} is no file; name a file of JSON lines with `response` and `gold`")
    if source.resolve() == target.resolve():
        raise UserError(f"--output {target} is the input file; name another")
    if workers < 1:
        raise UserError(f"--workers {workers} grades nothing: use --workers 1 or more")
    shared_pool().resize(workers)
    counts: Counter[str] = Counter()
    progress = Progress(source.stat().st_size, stream or sys.stderr)
    partial = target.with_name(f"{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as lines, partial.open("w", encoding="utf-8") as output, ThreadPoolExecutor(workers) as threads:
        for chunk in _chunks(lines):
            for row in threads.map(lambda line: grade_line(line, grader), chunk):
                _tally(counts, row)
                output.write(json.dumps(row, ensure_ascii=False) + "\n")
            progress.show(lines.tell(), counts)
    partial.replace(target)
    progress.finish(counts)
    return counts


def _chunks(lines: Any) -> Iterator[list[bytes]]:
    while chunk := list(islice(iter(lines.readline, b""), CHUNK_ROWS)):
        yield [line for line in chunk if line.strip()]


def grade_line(line: bytes, grader: GraderName) -> dict[str, Any]:
    """The row with ``reward``, ``answer`` and ``reason``."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return _malformed({"line": line.decode("utf-8", "replace").rstrip("\r\n")}, "no JSON")
    if not isinstance(row, dict):
        return _malformed({"line": row}, "no JSON object")
    gold, response = row.get("gold"), row.get("response")
    if isinstance(gold, int | float) and not isinstance(gold, bool):
        gold = str(gold)
    if not isinstance(gold, str) or not gold.strip():
        return _malformed(row, "no text in `gold`")
    if not isinstance(response, str):
        return _malformed(row, "no text in `response`")
    verdict = grade_detailed(gold, response, grader)
    return {**row, "reward": verdict.reward, "answer": verdict.answer, "reason": verdict.reason}


def _malformed(row: dict[str, Any], what: str) -> dict[str, Any]:
    return {**row, "reward": None, "answer": None, "reason": f"{MALFORMED}: {what}"}


def _tally(counts: Counter[str], row: dict[str, Any]) -> None:
    counts["rows"] += 1
    counts["right"] += row["reward"] == 1.0
    counts[row["reason"].partition(":")[0]] += 1


class Progress:
    """On a terminal one live line, elsewhere a line now and then."""

    def __init__(self, num_bytes: int, stream: TextIO) -> None:
        self.num_bytes, self.stream = max(1, num_bytes), stream
        self.started = self.shown = time.monotonic()

    def show(self, position: int, counts: Counter[str]) -> None:
        now = time.monotonic()
        if now - self.shown < PROGRESS_SECONDS:
            return
        self.shown = now
        done = position / self.num_bytes
        left = (now - self.started) * (1 - done) / max(done, 1e-9)
        self._write(f"graded {counts['rows']:,} rows, {done:.0%}, {self._rate(counts):,.0f}/s, ETA {left:.0f} s", last=False)

    def finish(self, counts: Counter[str]) -> None:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common() if reason not in {"rows", "right"})
        graded = counts["rows"] - counts[MALFORMED]
        accuracy = f"right {counts['right'] / graded:.2%}" if graded else "none could be graded"
        self._write(
            f"graded {counts['rows']:,} rows in {time.monotonic() - self.started:.1f} s: {accuracy} ({reasons})", last=True
        )
        if counts[MALFORMED]:
            some = "1 malformed row has" if counts[MALFORMED] == 1 else f"{counts[MALFORMED]:,} malformed rows have"
            self._write(f"{some} reward null in the output", last=True)

    def _rate(self, counts: Counter[str]) -> float:
        return counts["rows"] / max(1e-9, time.monotonic() - self.started)

    def _write(self, text: str, *, last: bool) -> None:
        live = self.stream.isatty()
        self.stream.write(f"\r\x1b[2K{text}" + ("" if live and not last else "\n") if live else f"{text}\n")
        self.stream.flush()
