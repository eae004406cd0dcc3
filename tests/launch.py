"""Run a program under torchrun in its own process group, with a limit after which the whole group is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TAIL_CHARACTERS = 6000


class LaunchFailed(AssertionError):
    """The program failed or ran past its limit; the message ends with its last output."""


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_torchrun(
    program: str | Path,
    nproc: int,
    args: Sequence[object] = (),
    env: Mapping[str, str] | None = None,
    timeout: float = 120.0,
) -> str:
    """Output (stdout and stderr together) of ``program`` on ``nproc`` ranks.

    ``program`` is a script (a path that ends in .py) or a module name. Raises `LaunchFailed` when a rank fails or the
    limit of ``timeout`` seconds is reached.
    """
    target = [str(program)] if str(program).endswith(".py") else ["-m", str(program)]
    endpoint = ["--nnodes", "1", "--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    command = [sys.executable, "-m", "torch.distributed.run", *endpoint, "--nproc-per-node", str(nproc), *target, *map(str, args)]
    return run_in_group(command, env=env, timeout=timeout)


def run_in_group(command: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = 120.0) -> str:
    """Output of ``command``; its process group does not outlive this call."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **(env or {})}
    process = subprocess.Popen(
        list(command),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _kill_group(process.pid)
        output, _ = process.communicate()
        raise LaunchFailed(f"no end after {timeout:.0f} s: {' '.join(command)}\n{output[-TAIL_CHARACTERS:]}") from None
    finally:
        _kill_group(process.pid)
    if process.returncode != 0:
        raise LaunchFailed(f"exit code {process.returncode}: {' '.join(command)}\n{output[-TAIL_CHARACTERS:]}")
    return output


def _kill_group(group: int) -> None:
    """Ranks are children of torchrun: ending torchrun alone would leave them."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return  # all of it has ended
