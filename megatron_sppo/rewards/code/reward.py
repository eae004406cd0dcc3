"""The reward `code`: 1 where the program in the response passes all tests of the gold."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from megatron_sppo.config.code_limits import CodeLimits
from megatron_sppo.rewards.code.asserts import AssertTests
from megatron_sppo.rewards.code.extract import last_program
from megatron_sppo.rewards.code.faults import BadTests
from megatron_sppo.rewards.code.gold import Tests, read_tests
from megatron_sppo.rewards.code.grade import PASSED, grade
from megatron_sppo.rewards.code.isolation import measured, require
from megatron_sppo.rewards.code.pool import Pool
from megatron_sppo.rewards.code.worker import SandboxFailure
from megatron_sppo.rewards.protocol import Sample, Verdict

log = logging.getLogger(__name__)

ATTEMPTS = 2  # a supervisor may be killed from outside; that is not the program's fault


class CodeReward:
    """Callable from any thread. What the sandbox keeps a program from is measured when the reward is made, and announced.

    UserError where programs could reach the network or read files, unless ``allow_weak_isolation``.
    """

    def __init__(self, config: CodeLimits | None = None) -> None:
        self.limits = config or CodeLimits()
        self.pool = Pool(self.limits, self.limits.workers or max(1, min(8, os.cpu_count() or 1)))
        self.isolation = measured(self.pool)
        require(self.isolation, self.limits)
        log.info("code reward: %s; %d workers", self.isolation, self.pool.size)
        self.counts: Counter[str] = Counter()  # of reasons, over all calls
        self._lock = threading.Lock()

    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        with ThreadPoolExecutor(self.pool.size) as threads:
            verdicts = list(threads.map(self.verdict, samples))
        with self._lock:
            self.counts.update(verdict.reason for verdict in verdicts)
        return verdicts

    def verdict(self, sample: Sample) -> Verdict:
        program = last_program(sample.response)
        try:
            tests = read_tests(sample.gold)
        except BadTests as error:
            self._announce("bad tests", f"a gold holds no tests ({error}): {sample.gold[:80]!r}; such rows are graded 0")
            return Verdict(0.0, program, "bad tests")
        if program is None:
            return Verdict(0.0, None, "no code")
        if isinstance(tests, AssertTests) and tests.whole:
            if not self.limits.tests_in_child:
                return Verdict(0.0, program, "bad tests")
            self._announce("tests in child", "tests that cannot be taken apart run beside the program, which could forge them")
        reason = self._graded(program, tests)
        return Verdict(float(reason == PASSED), program, reason)

    def _graded(self, program: str, tests: Tests) -> str:
        for _ in range(ATTEMPTS):
            try:
                with self.pool.worker() as worker:
                    return grade(worker, program, tests, self.limits)
            except SandboxFailure as error:
                self._announce("sandbox failure", f"{error}; tried {ATTEMPTS} times, then graded 0")
                time.sleep(0.01)
        return "sandbox failure"

    def _announce(self, what: str, message: str) -> None:
        """Every one is counted, the first is logged."""
        self.pool.count(what)
        if self.pool.counts[what] == 1:
            log.warning("code reward: %s (counted, not repeated)", message)

    def close(self) -> None:
        self.pool.close()
