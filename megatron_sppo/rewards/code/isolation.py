"""What the sandbox keeps programs from on this machine: measured with a program that tries."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from megatron_sppo.config.code_limits import CodeLimits
from megatron_sppo.errors import UserError
from megatron_sppo.rewards.code.limits import MIB
from megatron_sppo.rewards.code.pool import Pool
from megatron_sppo.rewards.code.traffic import Late, Program

SECRET = "canary"  # noqa: S105
PROBE = r"""
import os, sys
folder, port = sys.stdin.read().split()

def attempt(name, action):
    try:
        if action():
            print(name)
    except Exception:
        pass

def connect():
    import socket
    socket.create_connection(("127.0.0.1", int(port)), timeout=1)
    return True

def fork():
    child = os.fork()
    if child == 0:
        os._exit(0)
    return True

attempt("reads", lambda: "canary" in open(folder + "/secret").read())
attempt("writes", lambda: open(folder + "/written", "w"))
attempt("network", connect)
attempt("processes", fork)
print("done")
"""


@dataclass(frozen=True)
class Isolation:
    """What a program could do, and by which means it is kept from the rest."""

    reachable: frozenset[str]  # of reads, writes, network, processes
    means: tuple[str, ...]

    def __str__(self) -> str:
        closed = [name for name in ("network", "reads", "writes", "processes") if name not in self.reachable]
        return f"programs are kept from {', '.join(closed) or 'nothing'} by {', '.join(self.means) or 'nothing'}"


def measured(pool: Pool) -> Isolation:
    """Starts one worker, which stays for the programs to come."""
    with pool.worker() as worker, _bait() as (folder, port):
        with Program(worker, "stdio", 10.0, MIB, quiet=False) as running:
            running.send(running.jobs, b"%d\n%s" % (len(PROBE), PROBE.encode()), last=True)
            running.send(running.stdin, f"{folder} {port}".encode(), last=True)
            try:
                while not running.turn():
                    continue
            except Late as error:
                raise RuntimeError("the code sandbox does not run a small program within 10 s") from error
        said = running.received(running.stdout).decode().split()
        if "done" not in said:
            reason = running.received(running.stderr).decode("utf-8", "replace")[-500:]
            raise RuntimeError(f"the code sandbox cannot run a program: {running.report} {reason}")
        kinds = {"namespaces": "namespaces", "root": "a root of their own", "landlock": "Landlock", "seccomp": "seccomp"}
        means = tuple(words for name, words in kinds.items() if worker.offers[name])
        return Isolation(frozenset(said) - {"done"}, means)


def require(isolation: Isolation, limits: CodeLimits) -> None:
    open_doors = [name for name in ("network", "reads", "writes") if name in isolation.reachable]
    if open_doors and not limits.allow_weak_isolation:
        raise UserError(
            f"reward.code.allow_weak_isolation=false, but {' and '.join(open_doors)} cannot be denied to programs here "
            "(no user namespaces, no Landlock with seccomp); use a kernel of 5.13 or later, or set it to true."
        )


@contextmanager
def _bait() -> Iterator[tuple[str, int]]:
    """A folder that anyone could read and write, and a port that listens."""
    with tempfile.TemporaryDirectory(prefix="megatron-sppo-probe-") as folder, socket.socket() as listener:
        Path(folder).chmod(0o777)
        Path(folder, "secret").write_text(SECRET)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield folder, listener.getsockname()[1]
