"""What a push cost, as a rank saw it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass


@dataclass
class PushCost:
    """Of one push on this rank: seconds by what it worked on or waited for, and what came from other ranks."""

    pack: float = 0.0
    wire: float = 0.0  # waiting, after all that could overlap was done
    unpack: float = 0.0
    local: float = 0.0
    finish: float = 0.0  # repacking or quantising; part of unpack and local
    received_bytes: int = 0

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to those of ``name``."""
        started = time.perf_counter()
        yield
        setattr(self, name, getattr(self, name) + time.perf_counter() - started)

    def metrics(self) -> dict[str, float]:
        seconds = {name: value for name, value in asdict(self).items() if name != "received_bytes"}
        return {
            **{f"perf/reshard/{name}_seconds": value for name, value in seconds.items()},
            "perf/reshard/received_gb": self.received_bytes / 1e9,
        }
