"""A line now and then that says where a run is and when it ends."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from megatron_sppo.monitor.progress import format_seconds


class Progress:
    def __init__(self, title: str, every_seconds: float = 5.0, stream: TextIO | None = None) -> None:
        self._title, self._every = title, every_seconds
        self._stream = sys.stderr if stream is None else stream
        self._stage, self._first, self._began, self._shown = "", 0, 0.0, 0.0

    def show(self, stage: str, done: int, total: int, text: str) -> None:
        """At most one line per ``every_seconds``; the ETA is that of the stage, from its speed so far."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._first, self._began, self._shown = stage, done - 1, now, now
        if now - self._shown < self._every and done < total:
            return
        self._shown = now
        each = (now - self._began) / max(done - self._first - 1, 1)
        eta = format_seconds(each * (total - done) if done - self._first > 1 else float("nan"))
        self.note(f"{stage} {done}/{total} | {text} | ETA {eta}")

    def note(self, text: str) -> None:
        self._stream.write(f"{self._title} | {text}\n")
        self._stream.flush()
