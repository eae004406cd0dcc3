"""Run one program against its tests; stop at the first that fails. Expected values stay in this process."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from megatron_sppo.config.code_limits import CodeLimits
from megatron_sppo.rewards.code.asserts import AssertTests, CallTable, Separated
from megatron_sppo.rewards.code.expression import evaluate
from megatron_sppo.rewards.code.gold import CallTests, StdioTests, Tests
from megatron_sppo.rewards.code.limits import MIB
from megatron_sppo.rewards.code.traffic import Late, Overflow, Program
from megatron_sppo.rewards.code.values import Raised, Unreadable, equal, read_result, same_output
from megatron_sppo.rewards.code.worker import SandboxFailure, Worker

PASSED = "passed"
REASONS = {"MemoryError": "memory", "AssertionError": "wrong answer"}
EVALUATION_ERRORS = (TypeError, ValueError, ArithmeticError, LookupError, RecursionError, AttributeError)


def _ample(expected: Any) -> int:
    """Bytes that any spelling of a right result fits into; what is longer need not be read."""
    return max(MIB, 16 * len(repr(expected)))


def _failure(running: Program) -> str:
    """How a program that has ended did not end well; empty where it did."""
    assert running.report is not None
    if not running.report["confined"]:
        raise SandboxFailure("a program could not be confined")
    status = int(running.report["status"])
    # CPU time ends in these two; so does the kernel's last resort against memory.
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
    return "timeout" if killed else "runtime error" if status else ""


class Failed(Exception):
    """The program does not pass; the message is the verdict's reason."""


def grade(worker: Worker, program: str, tests: Tests, limits: CodeLimits) -> str:
    """``passed``, or why not. :class:`SandboxFailure` where nothing can be said."""
    run = Grading(worker, program, limits)
    try:
        match tests:
            case StdioTests():
                run.stdio(tests)
            case CallTests():
                run.calls(tests)
            case AssertTests():
                run.asserts(tests)
    except Failed as failure:
        return str(failure)
    except Late:
        return "timeout"
    except Overflow:
        return "output limit"
    return PASSED


class Grading:
    def __init__(self, worker: Worker, program: str, limits: CodeLimits) -> None:
        self.worker, self.limits = worker, limits
        source = program.encode("utf-8", "replace")
        self.source = b"%d\n" % len(source) + source
        self.output_bytes = int(limits.output_mib * MIB)
        self.deadline = time.monotonic() + limits.program_seconds

    def stdio(self, tests: StdioTests) -> None:
        for given, expected in zip(tests.inputs, tests.outputs, strict=True):
            seconds = min(self.limits.test_seconds, self.deadline - time.monotonic())
            if seconds <= 0:
                raise Late
            with Program(self.worker, "stdio", seconds, self.output_bytes, quiet=False) as running:
                running.send(running.jobs, self.source, last=True)
                running.send(running.stdin, given.encode("utf-8", "replace"), last=True)
                while not running.turn():
                    continue
            self._judge_end(running)
            if not same_output(running.received(running.stdout).decode("utf-8", "replace"), expected, tests.tolerance):
                raise Failed("wrong answer")

    def _judge_end(self, running: Program) -> None:
        failure = _failure(running)
        if failure:
            raise Failed("memory" if b"MemoryError" in running.received(running.stderr)[-1000:] else failure)

    @contextmanager
    def _conversation(self, mode: str) -> Iterator[Program]:
        with Program(self.worker, mode, self.limits.program_seconds, self.output_bytes, quiet=True) as running:
            running.send(running.jobs, self.source)
            self._next(running)  # the program itself, up to its last line
            yield running

    def _ask(self, running: Program, *job: object, result_bytes: int = MIB) -> Any:
        running.send(running.jobs, repr(job).encode("utf-8", "replace") + b"\n")
        return self._next(running, result_bytes)

    def _next(self, running: Program, result_bytes: int = MIB) -> Any:
        running.deadline = min(self.deadline, time.monotonic() + self.limits.test_seconds)
        running.allowance = min(result_bytes, self.output_bytes)
        line = running.line()
        if line is None:
            raise Failed(_failure(running) or "runtime error")
        try:
            return read_result(line)
        except Raised as error:
            raise Failed(REASONS.get(str(error), "runtime error")) from error
        except Unreadable as error:
            raise Failed("wrong answer") from error

    def calls(self, tests: CallTests) -> None:
        """A result may be given as it is or, as APPS does, in a list of its own: the same way for all tests of a problem."""
        plain = wrapped = True
        with self._conversation("solution" if b"class Solution" in self.source else "calls") as running:
            for arguments, expected in zip(tests.arguments, tests.expected, strict=True):
                value = self._ask(running, "call", tests.name, arguments, result_bytes=_ample(expected))
                plain = plain and equal(value, expected, tests.tolerance)
                in_list = isinstance(expected, list) and len(expected) == 1
                wrapped = wrapped and in_list and equal(value, expected[0], tests.tolerance)
                if not (plain or wrapped):
                    raise Failed("wrong answer")

    def asserts(self, tests: AssertTests) -> None:
        with self._conversation("calls") as running:
            if tests.whole:
                self._whole(running, tests.whole)
                return
            if tests.setup:
                self._ask(running, "run", tests.setup)
            for check in tests.checks:
                if isinstance(check, CallTable):
                    self._table(running, check)
                else:
                    self._separated(running, check)

    def _separated(self, running: Program, check: Separated) -> None:
        values = [self._ask(running, "value", hole) for hole in check.holes]
        try:
            holds = bool(evaluate(check.template, values))
        except EVALUATION_ERRORS as error:  # the assert itself would have raised it
            raise Failed("wrong answer") from error
        if not holds:
            raise Failed("wrong answer")

    def _table(self, running: Program, table: CallTable) -> None:
        for call, expected in zip(table.calls, table.expected, strict=True):
            if not equal(self._ask(running, "value", call, result_bytes=_ample(expected)), expected, table.tolerance):
                raise Failed("wrong answer")

    def _whole(self, running: Program, code: str) -> None:
        """The weakest form: the program shares a process with the code that tests it."""
        nonce = secrets.token_hex(16)
        if self._ask(running, "check", code, nonce) != nonce:
            raise Failed("wrong answer")
