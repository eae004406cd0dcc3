"""A pool of killable processes for symbolic equality, callable from any thread.

Workers are fresh interpreters (no fork of a process that has threads or a GPU, no re-import of ``__main__``) that import
neither torch nor sympy. A worker that is late or gone is killed and replaced at its next turn; the answer is then "not
equal", and counted. After a fork the child starts its own workers.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from megatron_sppo.rewards.math.ast import Node, to_json
from megatron_sppo.rewards.math.bounds import SYMBOLIC_SECONDS
from megatron_sppo.rewards.math.protocol import EQUAL, FAILED, READY

PACKAGE_ROOT = Path(__file__).resolve().parents[3]
START_SECONDS = 30.0
SLACK_SECONDS = 0.1


class Worker:
    """One process and its two pipes; used by one thread at a time."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE_ROOT), os.environ.get("PYTHONPATH", "")])}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "megatron_sppo.rewards.math.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, env=environment,
        )  # fmt: skip
        if self._read(START_SECONDS) != READY:
            self.kill()
            raise RuntimeError(f"{sys.executable} cannot start a math worker; is mpmath installed?")

    def ask(self, job: bytes, seconds: float) -> bytes:
        """Its answer; nothing if it is late or gone, and then it must not be used again."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(job)
        except (BrokenPipeError, OSError):
            return b""
        return self._read(seconds)

    def _read(self, seconds: float) -> bytes:
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        poll = select.poll()  # unlike select, not limited to descriptors below 1024
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
        return os.read(descriptor, 1) if poll.poll(max(0.0, seconds) * 1000) else b""

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Pool:
    """At most ``size`` workers, started as they are needed."""

    def __init__(self, size: int = 2) -> None:
        self.size = max(1, size)
        self.counts: Counter[str] = Counter()
        self._reset()
        atexit.register(self.close)

    def _reset(self) -> None:
        self._owner = os.getpid()
        self._turns = threading.BoundedSemaphore(self.size)
        self._lock = threading.Lock()
        self._idle: list[Worker] = []

    def resize(self, size: int) -> None:
        """Before it is used by several threads."""
        self.size = max(1, size)
        self._turns = threading.BoundedSemaphore(self.size)

    def equal(self, one: Node, other: Node, seconds: float = SYMBOLIC_SECONDS) -> bool | None:
        """None where no answer came in time. The time limit starts when a worker is free."""
        if os.getpid() != self._owner:
            self._reset()  # a fork's copy of the workers belongs to the parent
        job = json.dumps([to_json(one), to_json(other)]).encode() + b"\n"
        with self._turns:
            answer = self._ask(job, seconds)
        self._count("jobs")
        if answer == FAILED:
            self._count("undecided")
        return None if not answer else answer == EQUAL

    def _ask(self, job: bytes, seconds: float) -> bytes:
        for _ in range(2):  # once more where an idle worker turns out to be dead
            worker = self._take()
            started = time.monotonic()
            answer = worker.ask(job, seconds)
            if answer:
                with self._lock:
                    self._idle.append(worker)
                return answer
            worker.kill()
            if time.monotonic() - started >= seconds - SLACK_SECONDS:
                self._count("timeouts")
                return b""
            self._count("crashes")
        return b""

    def _take(self) -> Worker:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return Worker()

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def close(self) -> None:
        if os.getpid() != self._owner:
            return
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.kill()


_shared: Pool | None = None
_shared_lock = threading.Lock()


def shared_pool() -> Pool:
    """The process's pool, made at first use."""
    global _shared  # noqa: PLW0603  (one pool per process is the point)
    with _shared_lock:
        if _shared is None:
            _shared = Pool(max(2, min(8, os.cpu_count() or 2)))
        return _shared


def _forget() -> None:
    """In a forked child: the workers are the parent's, and the lock may have been held."""
    global _shared, _shared_lock
    _shared, _shared_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
