"""The pool of worker processes: any thread, crashes, hangs, forks, and no orphan."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from megatron_sppo.rewards.math.ast import Node
from megatron_sppo.rewards.math.grader import compare_answers
from megatron_sppo.rewards.math.parser import parse
from megatron_sppo.rewards.math.tokenizer import Reading
from megatron_sppo.rewards.math.workers import Pool

ROOT = Path(__file__).resolve().parents[2]


def tree(text: str) -> Node:
    return parse(text, Reading())


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool(2)
    yield made
    made.close()


def pids(pool: Pool) -> list[int]:
    return [worker.process.pid for worker in pool._idle]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def gone_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


def test_verdicts_of_identities(pool: Pool) -> None:
    assert pool.equal(tree(r"\sin 2x"), tree(r"2\sin x\cos x")) is True
    assert pool.equal(tree(r"\sin 2x"), tree(r"2\sin x")) is False
    assert pool.equal(tree(r"\ln(xy)"), tree(r"\ln x+\ln y")) is True
    assert pool.equal(tree(r"u(t+1)"), tree(r"u(1+t)")) is True
    assert pool.equal(tree(r"u(t)"), tree(r"u(2t)")) is False
    assert pool.equal(tree(r"\sqrt{-x^2-1}"), tree(r"5")) is False  # real nowhere: nothing to agree on
    assert pool.counts["jobs"] == 6 and not pool.counts["timeouts"]


def test_workers_start_when_they_are_needed_and_are_kept() -> None:
    pool = Pool(2)
    assert compare_answers("42", "42", pool)[0] and compare_answers(r"\sqrt8", r"2\sqrt2", pool)[0] and not pids(pool)
    assert compare_answers(r"\cot x", r"\frac{1}{\tan x}", pool) == (True, "mathematics")
    first = pids(pool)
    assert compare_answers(r"\cot x", r"\tan x", pool)[0] is False and pids(pool) == first
    pool.close()
    assert gone_within(first[0], 5.0)


def test_a_killed_worker_is_replaced(pool: Pool) -> None:
    assert pool.equal(tree(r"\sin x"), tree(r"\cos(x-\pi/2)"))
    (victim,) = pids(pool)
    os.kill(victim, signal.SIGKILL)
    assert pool.equal(tree(r"\sin x"), tree(r"\cos(x-\pi/2)")) is True
    assert pool.counts["crashes"] == 1 and pids(pool) != [victim]


def test_a_hanging_worker_is_killed_and_the_answer_is_wrong(pool: Pool) -> None:
    assert compare_answers(r"\sin x", r"\cos(x-\pi/2)", pool)[0]
    (victim,) = pids(pool)
    os.kill(victim, signal.SIGSTOP)
    started = time.monotonic()
    assert compare_answers(r"\sin x", r"\cos(x-\pi/2)", pool) == (False, "timeout")
    assert time.monotonic() - started < 2.0 and pool.counts["timeouts"] == 1
    assert gone_within(victim, 5.0)
    assert compare_answers(r"\sin x", r"\cos(x-\pi/2)", pool)[0]


def test_more_threads_than_workers(pool: Pool) -> None:
    with ThreadPoolExecutor(8) as threads:
        verdicts = list(threads.map(lambda n: pool.equal(tree(rf"\sin({n}x)"), tree(r"\sin(3x)")), [1, 2, 3, 4] * 10))
    assert verdicts == [False, False, True, False] * 10 and len(pids(pool)) <= 2


def test_a_fork_gets_its_own_workers(pool: Pool) -> None:
    assert pool.equal(tree(r"\sin x"), tree(r"\cos(x-\pi/2)"))
    before = pids(pool)
    child = os.fork()
    if child == 0:
        right = pool.equal(tree(r"\sin x"), tree(r"\cos(x-\pi/2)")) and pids(pool) != before
        pool.close()
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.equal(tree(r"\sin x"), tree(r"\cos(x-\pi/2)")) and pids(pool) == before


@pytest.mark.parametrize("end", ["os._exit(1)", "os.kill(os.getpid(), 9)"])
def test_workers_do_not_outlive_their_parent(end: str) -> None:
    script = (
        "import os\nfrom megatron_sppo.rewards.math import grade\n"
        "from megatron_sppo.rewards.math.workers import shared_pool\n"
        r"assert grade(r'\cot x', r'\boxed{1/\tan x}') == 1.0" + "\n"
        f"print(*[worker.process.pid for worker in shared_pool()._idle], flush=True)\n{end}\n"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False).stdout
    assert shown.split() and all(gone_within(int(pid), 5.0) for pid in shown.split())


def test_a_worker_ends_itself_when_a_job_takes_too_long() -> None:
    """Should the parent die during a job, no one else would: the alarm's default action is death."""
    script = (
        "import sys\nsys.path.insert(0, '.')\nfrom megatron_sppo.rewards.math import worker\n"
        "def forever(one, other):\n    while True: pass\n"
        "worker.same = forever\nworker.main()\n"
    )
    job = b'[["number", "1", []], ["number", "2", []]]\n'
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdin is not None
    process.stdin.write(job)
    process.stdin.flush()
    assert process.wait(timeout=10) == -signal.SIGALRM


def test_a_worker_imports_neither_torch_nor_sympy() -> None:
    script = "import sys\nimport megatron_sppo.rewards.math.worker\nimport megatron_sppo.rewards.math.reward\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True).stdout.split()
    assert not {"torch", "sympy", "numpy", "vllm"} & set(loaded)
