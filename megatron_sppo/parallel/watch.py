"""A rank that dies ends the job, with a sentence that names it.

Ranks that wait for another part of the job would wait for ever: gloo and NCCL notice a death only within a collective. So each
rank keeps a connection to rank 0 of the job. The kernel closes it when the process dies, and keepalive probes find a machine that
is gone within 25 s; both whatever the process is busy with, which a heartbeat of its own could not promise. Rank 0 says who is
gone and tells the others, which end at once.
"""

from __future__ import annotations

import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn

from megatron_sppo.parallel.job import Job

_PORT_KEY, _SECRET_KEY = "watch_port", "watch_secret"
_SECRET_BYTES = 16  # from the launcher's store: whoever scans ports must not end a job
_GREETING_SECONDS = 5.0
_DONE, _FAILED, _TOLD, _NOTHING = b"d", b"f", b"t", b""  # last words on a connection; nothing: it died
_ECHO_SECONDS = 2.0  # what fails because a rank is gone may fail before that is known
_LAUNCHER_SECONDS = 10.0  # for a rank that failed to say why, and for the launcher to end the others
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


@contextmanager
def watching(job: Job) -> Iterator[None]:
    """Inside, the death of any rank ends this one. Collective over a job in two parts; nothing to do for another."""
    if job.store is None:
        yield
        return
    watch = _Hub(job) if job.rank == 0 else _Spoke(job)
    os.register_at_fork(after_in_child=watch.close)  # a writer of checkpoints that outlives its rank must not look like it
    threading.Thread(target=watch.run, name="watch", daemon=True).start()
    try:
        yield
    except BaseException as error:
        if isinstance(error, RuntimeError) and watch.is_ending.wait(_ECHO_SECONDS):
            time.sleep(3600)  # an echo of what the watch is saying; it ends this process
        watch.leave(_FAILED)
        raise
    watch.leave(_DONE)


@dataclass
class _Greeting:
    until: float  # monotonic seconds
    read: bytes = b""


class _Hub:
    """Rank 0's end: a connection from each other rank."""

    def __init__(self, job: Job) -> None:
        assert job.store is not None
        self.is_ending = threading.Event()
        self._job, self._is_leaving, self._ranks = job, False, dict[socket.socket, int]()
        self._greetings: dict[socket.socket, _Greeting] = {}  # of connections that may be a rank's
        self._listener = socket.create_server(("", 0))
        self._secret = secrets.token_hex(_SECRET_BYTES // 2).encode()
        job.store.set(_SECRET_KEY, self._secret.decode())
        job.store.set(_PORT_KEY, str(self._listener.getsockname()[1]))

    def run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._is_leaving:
                for key, _ in selector.select(timeout=1.0):
                    if key.fileobj is self._listener:
                        connection, _ = self._listener.accept()
                        connection.setblocking(False)
                        self._greetings[connection] = _Greeting(time.monotonic() + _GREETING_SECONDS)
                        selector.register(connection, selectors.EVENT_READ)
                    elif key.fileobj in self._greetings:
                        self._greeted(key.fileobj, selector)
                    elif isinstance(key.fileobj, socket.socket):
                        selector.unregister(key.fileobj)
                        self._heard(_last_word(key.fileobj), self._ranks.pop(key.fileobj))
                for connection in [c for c, greeting in self._greetings.items() if greeting.until < time.monotonic()]:
                    self._turn_away(connection, selector)

    def _greeted(self, connection: socket.socket, selector: selectors.BaseSelector) -> None:
        """A part of a greeting; whoever does not know the job's secret is turned away."""
        greeting = self._greetings[connection]
        part = b""
        with suppress(OSError):  # reset by a stranger
            part = connection.recv(_SECRET_BYTES + 4 - len(greeting.read))
        greeting.read += part
        if not part:
            self._turn_away(connection, selector)
        elif len(greeting.read) == _SECRET_BYTES + 4:
            if not secrets.compare_digest(greeting.read[:_SECRET_BYTES], self._secret):
                self._turn_away(connection, selector)
                return
            del self._greetings[connection]
            connection.setblocking(True)
            _keep_alive(connection)
            self._ranks[connection] = int.from_bytes(greeting.read[_SECRET_BYTES:], "big")

    def _turn_away(self, connection: socket.socket, selector: selectors.BaseSelector) -> None:
        del self._greetings[connection]
        selector.unregister(connection)
        connection.close()

    def _heard(self, word: bytes, rank: int) -> None:
        if word == _DONE or self._is_leaving:
            return
        self.is_ending.set()
        if word == _FAILED:
            time.sleep(_LAUNCHER_SECONDS)
            _say(f"{self._job.name_of(rank)} has ended with the error above; the job ends.")
        else:
            _say(_gone(self._job, rank))
        self._tell(_TOLD)
        _end()

    def leave(self, word: bytes) -> None:
        """This rank's last word, to all others."""
        self._is_leaving = True
        self._tell(word)

    def close(self) -> None:
        """This process's ends of all connections."""
        for connection in (self._listener, *self._greetings, *self._ranks):
            connection.close()

    def _tell(self, word: bytes) -> None:
        for connection in list(self._ranks):
            with suppress(OSError):  # that one has ended too
                connection.sendall(word)


class _Spoke:
    """Any other rank's end: one connection, to rank 0."""

    def __init__(self, job: Job) -> None:
        assert job.store is not None
        self.is_ending = threading.Event()
        self._job, self._is_leaving = job, False
        port = int(job.store.get(_PORT_KEY))
        self._connection = socket.create_connection((os.environ["MASTER_ADDR"], port))
        _keep_alive(self._connection)
        self._connection.sendall(job.store.get(_SECRET_KEY) + job.rank.to_bytes(4, "big"))

    def run(self) -> None:
        word = _last_word(self._connection)
        if word == _DONE or self._is_leaving:
            return
        self.is_ending.set()
        if word == _FAILED:
            time.sleep(_LAUNCHER_SECONDS)
        if word == _NOTHING and self._job.rank == 1:  # one rank speaks where rank 0 cannot
            _say(_gone(self._job, 0))
        _end()

    def leave(self, word: bytes) -> None:
        """This rank's last word."""
        self._is_leaving = True
        with suppress(OSError):  # rank 0 has ended too
            self._connection.sendall(word)

    def close(self) -> None:
        """This process's end of the connection."""
        self._connection.close()


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in _KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, seconds)


def _last_word(connection: socket.socket) -> bytes:
    """Blocks until there is one."""
    try:
        return connection.recv(1)
    except OSError:  # no answer to the probes, or a reset
        return _NOTHING


def _gone(job: Job, rank: int) -> str:
    return (
        f"{job.name_of(rank)} is gone: its process was killed (out of memory?) or its machine is down. The job ends; "
        "start it again to go on from the latest checkpoint."
    )


def _say(sentence: str) -> None:
    print(f"megatron-sppo: error: {sentence}", file=sys.stderr, flush=True)


def _end() -> NoReturn:
    """At once: the main thread may be inside a collective that never ends."""
    os._exit(1)
