"""The parent's side of one supervisor."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_sppo.config.code_limits import CodeLimits

PACKAGE_ROOT = Path(__file__).resolve().parents[3]
START = "import sys; sys.path.append(sys.argv.pop()); from megatron_sppo.rewards.code.supervisor import main; main()"
START_SECONDS = 30.0
KILL_SECONDS = 2.0  # from a kill order to the supervisor's report; later the supervisor is killed, and its namespace with it
MAX_MESSAGE = 1 << 16


class SandboxFailure(RuntimeError):
    """The supervisor is gone or silent: says nothing about the program."""


class Worker:
    """One supervisor process; used by one thread at a time."""

    def __init__(self, limits: CodeLimits) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-I", "-S", "-B", "-c", START, str(theirs.fileno()), json.dumps(asdict(limits))]
        try:
            self.process = subprocess.Popen(
                [*command, str(PACKAGE_ROOT)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()], env={}, cwd="/", start_new_session=True,
            )  # fmt: skip
        finally:
            theirs.close()
        try:
            self.offers: Mapping[str, Any] = self.report(START_SECONDS)
        except SandboxFailure:
            self.close()
            raise

    def start(self, mode: str, seconds: float, descriptors: Sequence[int]) -> None:
        """A program in ``mode`` (see runner.py) with these as 0, 1, ...; they stay open here."""
        try:
            socket.send_fds(self.control, [json.dumps({"mode": mode, "seconds": seconds}).encode()], list(descriptors))
        except OSError as error:
            raise SandboxFailure(str(error)) from error

    def kill_program(self) -> None:
        with contextlib.suppress(OSError):
            self.control.send(b"kill")

    def report(self, seconds: float) -> dict[str, Any]:
        """How the program ended; SandboxFailure if that is not said in time."""
        waiting = select.poll()
        waiting.register(self.control, select.POLLIN)
        try:
            message = self.control.recv(MAX_MESSAGE) if waiting.poll(max(0.0, seconds) * 1000) else b""
        except OSError as error:
            raise SandboxFailure(str(error)) from error
        if not message:
            raise SandboxFailure("the sandbox's supervisor does not answer")
        found: dict[str, Any] = json.loads(message)
        return found

    def close(self) -> None:
        self.control.close()
        self.process.kill()  # the inner process goes with it
        self.process.wait()
