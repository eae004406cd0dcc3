"""Run a program under torchrun, with a limit after which it and all of its ranks are killed."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

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


def printed_results(output: str) -> Iterator[dict[str, Any]]:
    """What a program printed as ``RESULT {...}``, wherever in a line: another rank's unfinished line may come before it."""
    for found in re.finditer(r"RESULT (?=\{)", output):
        yield json.JSONDecoder().raw_decode(output, found.end())[0]


def run_in_group(command: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = 120.0) -> str:
    """Output of ``command``; none of its processes outlives this call."""
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
        kill_tree(process.pid)
        output, _ = process.communicate()
        raise LaunchFailed(f"no end after {timeout:.0f} s: {' '.join(command)}\n{output[-TAIL_CHARACTERS:]}") from None
    finally:
        kill_tree(process.pid)
    if process.returncode != 0:
        raise LaunchFailed(f"exit code {process.returncode}: {' '.join(command)}\n{output[-TAIL_CHARACTERS:]}")
    return output


def kill_tree(root: int) -> None:
    """SIGKILL to a process and all below it: each rank is in a session of its own, which a signal to torchrun's group misses."""
    try:
        process = psutil.Process(root)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return  # all of it has ended
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
