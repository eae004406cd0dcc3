"""What a worker process writes: one byte at start and one for each job."""

from __future__ import annotations

READY, EQUAL, UNEQUAL, FAILED = b"r", b"=", b"!", b"?"
