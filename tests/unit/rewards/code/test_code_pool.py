"""Supervisors: any thread, any death, forks, and no orphan."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from megatron_sppo.config.code_limits import CodeLimits
from megatron_sppo.rewards.code.reward import CodeReward
from tests.unit.rewards.code.processes import descendants

ROOT = Path(__file__).resolve().parents[4]
DOUBLE = "print(2 * int(input()))"


def doubling(number: int) -> dict[str, list[str]]:
    return {"inputs": [f"{number}\n"], "outputs": [f"{2 * number}\n"]}


def gone_within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_many_threads_share_two_workers(reward, make_sample) -> None:
    def ask(number: int) -> list[float]:
        wrong = {"inputs": ["1\n"], "outputs": [f"{number + 3}\n"]}
        return [v.reward for v in reward([make_sample(DOUBLE, doubling(number)), make_sample(DOUBLE, wrong)])]

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(24))) == [[1.0, 0.0]] * 24
    assert len(reward.pool._idle) <= 2


def test_order_is_kept_and_reasons_are_counted(reward, make_sample) -> None:
    samples = [make_sample(DOUBLE, doubling(n)) if n % 3 else make_sample("print(", doubling(n)) for n in range(9)]
    before = reward.counts["runtime error"]
    assert [v.reward for v in reward(samples)] == [0.0, 1.0, 1.0] * 3
    assert reward.counts["runtime error"] == before + 3
    assert reward([]) == []


def test_killed_idle_workers_are_replaced(reward, grade) -> None:
    assert grade(DOUBLE, doubling(3)).reward == 1.0
    for worker in reward.pool._idle:
        worker.process.kill()
    assert grade(DOUBLE, doubling(3)).reward == 1.0


def test_a_worker_killed_in_the_middle_costs_a_second_attempt(reward, grade) -> None:
    slow = "import time\ntime.sleep(0.5)\n" + DOUBLE
    known = descendants()
    killer = threading.Timer(0.25, lambda: [os.kill(pid, signal.SIGKILL) for pid in descendants() if _is_supervisor(pid)])
    killer.start()
    before = reward.pool.counts["workers lost"]
    verdict = grade(slow, doubling(4))
    killer.join()
    assert verdict.reward == 1.0
    assert reward.pool.counts["workers lost"] > before
    assert gone_within(2.0, lambda: len(descendants()) <= len(known) + 2)


def _is_supervisor(pid: int) -> bool:
    try:
        return b"code.supervisor" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_tests_that_stay_whole_can_be_refused(make_sample) -> None:
    sample = make_sample("def f(x): return x", {"test_code": "for n in range(3):\n    assert f(n) == n"})
    for allowed, reason in ((True, "passed"), (False, "bad tests")):
        made = CodeReward(CodeLimits(workers=1, tests_in_child=allowed))
        assert made([sample])[0].reason == reason
        made.close()


def test_an_exit_status_does_not_cost_a_worker(reward, grade) -> None:
    before = dict(reward.pool.counts)
    assert {grade(f"import os\nos._exit({status})", doubling(1)).reason for status in range(1, 256, 8)} == {"runtime error"}
    assert dict(reward.pool.counts) == before


def test_closing_ends_all_processes() -> None:
    known = descendants()
    made = CodeReward(CodeLimits(workers=1))
    assert descendants() - known
    made.close()
    assert gone_within(2.0, lambda: not descendants() - known)


def test_a_fork_starts_its_own(reward, grade, make_sample) -> None:
    assert grade(DOUBLE, doubling(5)).reward == 1.0
    child = os.fork()
    if child == 0:
        passed = reward([make_sample(DOUBLE, doubling(6))])[0].reward == 1.0
        reward.close()
        os._exit(0 if passed else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert grade(DOUBLE, doubling(7)).reward == 1.0


PARENT = """
import sys, time
from megatron_sppo.config.code_limits import CodeLimits
from megatron_sppo.rewards.code.reward import CodeReward
from megatron_sppo.rewards.protocol import Sample
reward = CodeReward(CodeLimits(workers=1, test_seconds=30))
print("ready", flush=True)
reward([Sample("", "```\\nwhile True: pass\\n```", '{"inputs": [""], "outputs": [""]}', "", False)])
"""


@pytest.mark.parametrize("deadly", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_killed_parent(deadly: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    time.sleep(0.3)
    mine = {pid for pid in descendants() if _belongs_to(pid, parent.pid)}
    assert len(mine) >= 3  # the supervisor's two halves and the program
    parent.send_signal(deadly)
    parent.wait()
    parent.stdout.close()
    assert gone_within(3.0, lambda: not any(Path(f"/proc/{pid}").exists() for pid in mine))


def _belongs_to(pid: int, ancestor: int) -> bool:
    while pid > 1 and pid != ancestor:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            return False
    return pid == ancestor
