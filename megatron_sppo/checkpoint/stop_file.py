"""A run ends early, with a checkpoint, when somebody creates ``<run_dir>/stop``: a scheduler's script before its time limit, a
person at any time. A file reaches all ranks of all nodes through rank 0, whatever the launcher does with signals.
"""

from __future__ import annotations

from pathlib import Path

from megatron_sppo.parallel.collectives import broadcast_object
from megatron_sppo.parallel.groups import is_main

NAME = "stop"


class StopFile:
    def __init__(self, run_dir: str | Path) -> None:
        self.path = Path(run_dir) / NAME

    def clear(self) -> None:
        """At the start of a run: a file left by an earlier one must not end this one. Not collective."""
        if is_main():
            self.path.unlink(missing_ok=True)

    def is_there(self) -> bool:
        """Whether to stop, as rank 0 sees it, the same on every rank. Collective."""
        return bool(broadcast_object(is_main() and self.path.exists()))
