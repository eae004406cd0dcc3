"""A worker process: reads jobs (a JSON pair of trees per line), answers one letter. ``python -P -m`` runs it.

It limits itself: memory by RLIMIT_AS, time by an alarm whose default action is death (which no C code can put off), and it
ends when its input does or when its parent is gone.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys

from megatron_sppo.rewards.math.ast import from_json
from megatron_sppo.rewards.math.bounds import SYMBOLIC_SECONDS, WORKER_BYTES
from megatron_sppo.rewards.math.numeric import same
from megatron_sppo.rewards.math.protocol import EQUAL, FAILED, READY, UNEQUAL

PARENT_POLL_SECONDS = 1.0
GRACE_SECONDS = 0.5


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (WORKER_BYTES, WORKER_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    parent = os.getppid()
    os.write(1, READY)
    buffer = b""
    while True:
        ready, _, _ = select.select([0], [], [], PARENT_POLL_SECONDS)
        if os.getppid() != parent:
            return
        if not ready:
            continue
        data = os.read(0, 1 << 16)
        if not data:
            return
        buffer += data
        if buffer.endswith(b"\n"):
            os.write(1, judge(buffer))
            buffer = b""


def judge(line: bytes) -> bytes:
    signal.setitimer(signal.ITIMER_REAL, SYMBOLIC_SECONDS + GRACE_SECONDS)
    try:
        one, other = (from_json(each) for each in json.loads(line))
        return EQUAL if same(one, other) else UNEQUAL
    except (ArithmeticError, ValueError, TypeError, MemoryError, RecursionError, NotImplementedError):
        return FAILED  # outside what can be evaluated: never equal
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
    sys.exit(0)
