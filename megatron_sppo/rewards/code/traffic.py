"""Bytes to and from a running program: never blocks, never keeps more than allowed, ends with the program or the clock."""

from __future__ import annotations

import os
import select
import time
from types import TracebackType
from typing import Self

from megatron_sppo.rewards.code.worker import KILL_SECONDS, SandboxFailure, Worker

CHUNK = 1 << 16
TAIL_BYTES = 4096  # kept of stderr


class Overflow(Exception):
    """More output than allowed."""


class Late(Exception):
    """The time limit has passed."""


class Program:
    """A program that runs in ``worker``, and its pipes; a `with` block at whose end it is dead and reported on.

    A ``quiet`` program has /dev/null for stdin, stdout and stderr. ``deadline`` and ``allowance`` (bytes still accepted) may be
    moved while it runs.
    """

    def __init__(self, worker: Worker, mode: str, seconds: float, allowance: int, quiet: bool) -> None:
        self.worker, self.mode, self.seconds, self.allowance, self.quiet = worker, mode, seconds, allowance, quiet
        self.deadline = time.monotonic() + seconds
        self.report: dict[str, float] | None = None
        self._lost = False
        self._theirs: list[int] = []
        self._unsent: dict[int, memoryview] = {}
        self._closing: set[int] = set()
        self._open_outputs: set[int] = set()
        self._received: dict[int, bytearray] = {}

    def __enter__(self) -> Self:
        try:
            self.stdin, self.stdout, self.stderr = (
                (self._null(), self._null(), self._null()) if self.quiet else (self._input(), self._output(), self._output())
            )
            self.jobs, self.results = self._input(), self._output()
            self.worker.start(self.mode, self.seconds, self._theirs)
        except BaseException:
            self._close()
            raise
        finally:
            for descriptor in self._theirs:
                os.close(descriptor)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self.report is None and not self._lost:
                self.worker.kill_program()
                self.report = self.worker.report(KILL_SECONDS)
        finally:
            self._close()

    def send(self, descriptor: int, data: bytes, *, last: bool = False) -> None:
        """Queued; what the program does not read is dropped with its pipe. ``last``: closed once it is written."""
        if descriptor not in self._unsent:
            return
        self._unsent[descriptor] = memoryview(bytes(self._unsent[descriptor]) + data)
        if last:
            self._closing.add(descriptor)
        self._write(descriptor)

    def received(self, descriptor: int) -> bytes:
        return bytes(self._received[descriptor])

    def line(self) -> bytes | None:
        """The next result, without its end of line; None when the program has ended without one."""
        buffer = self._received[self.results]
        searched = 0
        while (end := buffer.find(b"\n", searched)) < 0:
            searched = len(buffer)
            if self.report is not None:
                return None
            self.turn()
        found = bytes(buffer[:end])
        del buffer[: end + 1]
        return found

    def turn(self) -> bool:
        """Wait for something and do it; True when the program has ended. Raises :class:`Late` and :class:`Overflow`."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Late
        for descriptor, _ in self._watched().poll(left * 1000 + 1):
            if descriptor in self._unsent:
                self._write(descriptor)
            elif descriptor in self._open_outputs:
                self._read(descriptor)
            elif descriptor == self.worker.control.fileno():  # else one that the end has just closed
                self._end()
        return self.report is not None

    def _watched(self) -> select.poll:
        poll = select.poll()
        poll.register(self.worker.control, select.POLLIN)
        for descriptor, data in self._unsent.items():
            if data:
                poll.register(descriptor, select.POLLOUT)
        for descriptor in self._open_outputs:
            poll.register(descriptor, select.POLLIN)
        return poll

    def _end(self) -> None:
        try:
            self.report = self.worker.report(0)
        except SandboxFailure:
            self._lost = True
            raise
        for descriptor in list(self._open_outputs):  # its writers are gone: at most a pipe's content is left
            while self._read(descriptor):
                continue

    def _read(self, descriptor: int) -> bool:
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._open_outputs.discard(descriptor)
            os.close(descriptor)
            return False
        self.allowance -= len(data)
        if self.allowance < 0:
            raise Overflow
        self._received[descriptor] += data
        if descriptor == self.stderr:
            del self._received[descriptor][:-TAIL_BYTES]
        return True

    def _write(self, descriptor: int) -> None:
        try:
            written = os.write(descriptor, self._unsent[descriptor][: 16 * CHUNK]) if self._unsent[descriptor] else 0
        except BlockingIOError:
            return
        except BrokenPipeError:  # the program has closed its end
            self._drop(descriptor)
            return
        self._unsent[descriptor] = self._unsent[descriptor][written:]
        if descriptor in self._closing and not self._unsent[descriptor]:
            self._drop(descriptor)

    def _drop(self, descriptor: int) -> None:
        del self._unsent[descriptor]
        os.close(descriptor)

    def _null(self) -> int:
        self._theirs.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        return -1

    def _input(self) -> int:
        reader, writer = os.pipe()
        self._theirs.append(reader)
        os.set_blocking(writer, False)
        self._unsent[writer] = memoryview(b"")
        return writer

    def _output(self) -> int:
        reader, writer = os.pipe()
        self._theirs.append(writer)
        os.set_blocking(reader, False)
        self._open_outputs.add(reader)
        self._received[reader] = bytearray()
        return reader

    def _close(self) -> None:
        for descriptor in (*self._unsent, *self._open_outputs):
            os.close(descriptor)
        self._unsent.clear()
        self._open_outputs.clear()
