"""The process that starts graded programs, one after the other: an interpreter of its own, process 1 of its namespace.

It never reads what a program writes. It gets a program's descriptors from the parent over a socket, forks, confines the
fork and turns it into a fresh interpreter, waits, kills whatever is left, and reports how the program ended. It ends when
the parent's end of the socket closes; the namespace, and everything in it, ends with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from megatron_sppo.rewards.code import exposed, kernel, landlock, namespaces, seccomp
from megatron_sppo.rewards.code.confine import FREE_DESCRIPTORS, MIB, NUM_DESCRIPTORS, Confinement

KILL = b"kill"
MAX_MESSAGE = 1 << 16


def main() -> None:
    """``argv``: the socket's descriptor, the limits as JSON."""
    control = socket.socket(fileno=int(sys.argv[1]))
    limits = json.loads(sys.argv[2])
    runner = Path(__file__).with_name("runner.py").read_text()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    in_namespaces = namespaces.enter()
    if in_namespaces:
        _stay_outside_while(os.fork())
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # no program may look into this process
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    confinement = _confinement(in_namespaces, limits)
    ready = {
        "namespaces": in_namespaces,
        "root": confinement.new_root,
        "landlock": landlock.version(),
        "seccomp": confinement.filtered,
    }
    control.send(json.dumps(ready).encode())
    Supervisor(control, confinement, runner).serve()


def _stay_outside_while(child: int) -> None:
    """The outer process only waits, so that the parent has someone to kill; the inner one goes on."""
    if child:
        os.closerange(0, 64)
        os.waitpid(child, 0)
        os._exit(0)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)


def _confinement(in_namespaces: bool, limits: dict[str, Any]) -> Confinement:
    interpreter, readable = exposed.interpreter(), exposed.readable_paths()
    new_root = in_namespaces and _new_root(readable, limits["file_mib"] * MIB)
    if not new_root:
        os.chdir("/")
    filtered = seccomp.supported() and _seccomp_works()
    return Confinement(interpreter, in_namespaces, new_root, _landlock_rules(new_root), filtered, limits)


def _landlock_rules(new_root: bool) -> int:
    """A descriptor out of the way of a program's own; -1 where there is no Landlock.

    Without a root of its own a program writes nowhere: no limit of ours counts its files on a real disk.
    """
    if not landlock.version():
        return -1
    writable = ["/dev/null", *([namespaces.WORK] if new_root else [])]
    low = landlock.ruleset([*exposed.readable_paths(), *exposed.DEVICES], writable)
    rules = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, FREE_DESCRIPTORS)
    os.close(low)
    return rules


def _new_root(readable: list[str], work_bytes: int) -> bool:
    try:
        namespaces.build_root(exposed.without_nested(readable), exposed.DEVICES, work_bytes)
    except OSError:
        return False
    return True


def _seccomp_works() -> bool:
    """Tried in a child: a filter cannot be taken off."""
    child = os.fork()
    if child == 0:
        try:
            kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
            seccomp.install(os.getpid())
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


class Supervisor:
    """Serves one parent, one program at a time."""

    def __init__(self, control: socket.socket, confinement: Confinement, runner: str) -> None:
        self.control, self.confinement = control, confinement
        self.runner = runner
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.child_ended = reader
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def serve(self) -> None:
        while True:
            message, descriptors, *_ = socket.recv_fds(self.control, MAX_MESSAGE, NUM_DESCRIPTORS)
            if not message:
                return
            if message == KILL:  # for a program that has just ended by itself
                continue
            self.control.send(json.dumps(self._run(json.loads(message), descriptors)).encode())

    def _run(self, job: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        started = time.monotonic()
        trouble, troubled = os.pipe()
        program = os.fork()
        if program == 0:
            self.confinement.become(self.runner, job["mode"], descriptors, job["seconds"], troubled)
        for descriptor in (*descriptors, troubled):
            os.close(descriptor)
        status, usage = self._wait(program, started + job["seconds"] + 1.0)
        self._sweep()
        confined = not os.read(trouble, 1)
        os.close(trouble)
        return {"confined": confined, "status": status, "cpu": usage.ru_utime + usage.ru_stime, "memory_kib": usage.ru_maxrss}

    def _wait(self, program: int, deadline: float) -> tuple[int, Any]:
        """Until it ends, or the parent or the deadline says so. The parent's limit comes first; this one is for a lost parent."""
        watched = select.poll()
        watched.register(self.control, select.POLLIN)
        watched.register(self.child_ended, select.POLLIN)
        while True:
            ended, status, usage = os.wait4(program, os.WNOHANG)
            if ended:
                return status, usage
            events = dict(watched.poll(max(0.0, deadline - time.monotonic()) * 1000))
            if self.child_ended in events:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.child_ended, 4096)
            if self.control.fileno() in events or time.monotonic() >= deadline:
                os.kill(program, signal.SIGKILL)
                _, status, usage = os.wait4(program, 0)
                if self.control.fileno() in events and not self.control.recv(MAX_MESSAGE):
                    os._exit(0)
                return status, usage

    def _sweep(self) -> None:
        """Nothing of a program outlives it: processes it may have left (where the filter does not forbid them), then files."""
        if self.confinement.in_namespaces and os.getpid() == 1:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)  # all but this process, in this namespace
        else:
            for orphan in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(orphan, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)
        if self.confinement.new_root and any(os.scandir(namespaces.WORK)):
            self._renew_folder()

    def _renew_folder(self) -> None:
        """A new file system, whatever was in the old one; Landlock's rules are about the old one."""
        namespaces.fresh_work(self.confinement.limits["file_mib"] * MIB)
        if self.confinement.landlock_rules >= 0:
            os.close(self.confinement.landlock_rules)
            self.confinement = replace(self.confinement, landlock_rules=_landlock_rules(new_root=True))


def _children() -> list[int]:
    """Of this process: orphans come to it."""
    listed = Path("/proc/self/task", str(os.getpid()), "children")
    return [int(word) for word in listed.read_text().split()] if listed.exists() else []
