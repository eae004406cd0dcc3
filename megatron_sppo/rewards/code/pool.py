"""Supervisors for any number of threads: started as needed, replaced when lost, closed with the process."""

from __future__ import annotations

import atexit
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from megatron_sppo.config.code_limits import CodeLimits
from megatron_sppo.rewards.code.worker import SandboxFailure, Worker


class Pool:
    """At most ``size`` workers. After a fork the child starts its own."""

    def __init__(self, limits: CodeLimits, size: int) -> None:
        self.limits, self.size = limits, size
        self.counts: Counter[str] = Counter()
        self._reset()
        atexit.register(self.close)

    def _reset(self) -> None:
        self._owner = os.getpid()
        self._turns = threading.BoundedSemaphore(self.size)
        self._lock = threading.Lock()
        self._idle: list[Worker] = []

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """One for this thread alone. After a :class:`SandboxFailure` in the block it is killed, else kept for the next."""
        if os.getpid() != self._owner:
            self._reset()  # a fork's copy of the workers belongs to the parent
        with self._turns:
            taken = self._take()
            try:
                yield taken
            except BaseException as error:
                taken.close()
                self.count("workers lost" if isinstance(error, SandboxFailure) else "workers closed")
                raise
            with self._lock:
                self._idle.append(taken)

    def _take(self) -> Worker:
        while True:
            with self._lock:
                if not self._idle:
                    break
                found = self._idle.pop()
            if found.process.poll() is None:
                return found
            found.close()
            self.count("workers lost")
        return Worker(self.limits)

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def close(self) -> None:
        if os.getpid() != self._owner:
            return
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.close()
