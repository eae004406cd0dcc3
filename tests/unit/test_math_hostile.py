"""Model text is hostile: nothing is executed, nothing hangs, whatever is thrown at the grader."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_sppo.rewards.math import grade, grade_detailed
from tests.unit.hostile_math import HOSTILE

LIMIT_SECONDS = 2.0


GOLDS = ["42", "x^2+1", r"\sqrt{2}+\sqrt{3}", r"\sin x", r"\{1,2\}"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_are_wrong_and_fast(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for gold in GOLDS:
        started = time.perf_counter()
        reward = grade(gold, f"\\boxed{{{HOSTILE[name]}}}")
        assert reward == 0.0 and time.perf_counter() - started < LIMIT_SECONDS, gold
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_gold_is_no_worse(name: str) -> None:
    started = time.perf_counter()
    assert grade(HOSTILE[name], r"\boxed{41}") == 0.0
    grade(HOSTILE[name], f"\\boxed{{{HOSTILE[name]}+0}}")
    assert time.perf_counter() - started < 2 * LIMIT_SECONDS


@pytest.mark.parametrize("name", HOSTILE)
def test_the_compatible_grader_is_safe_too(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for response in (f"\\boxed{{{HOSTILE[name]}}}", HOSTILE[name]):
        started = time.perf_counter()
        assert grade(r"\sqrt{2}+1", response, "reasoning360") == 0.0
        assert time.perf_counter() - started < LIMIT_SECONDS
    assert not list(tmp_path.iterdir())


def test_a_response_of_many_boxes_is_read_in_linear_time() -> None:
    started = time.perf_counter()
    assert grade("1", "\\boxed" * 200_000) == 0.0
    assert grade("1", "\\boxed{" * 200_000) == 0.0
    assert grade("1", r"\boxed{1}" * 200_000) == 1.0
    assert time.perf_counter() - started < LIMIT_SECONDS


PIECES = st.sampled_from(
    r"\frac \sqrt { } ( ) [ ] , . ; | ! ^ _ + - * / = < > \pm \in \cup \text{cm} \text{or} \pi x y e i 0 1 12 3.5 1e5 % \% \$ $ "
    r"\begin{pmatrix} \end{pmatrix} \\ & \left \right \{ \} \infty \sin \ln \log_2 ^\circ ' \overline \binom \mathbb{R} : ~ \, "
    r"x^2 2^{10} ± √ ½ ² ∞ ≤ or and cm".split()
)


@given(st.lists(PIECES, max_size=25), st.lists(PIECES, max_size=12), st.sampled_from(["", " "]))
def test_fuzz_of_the_grammar(answer: list[str], gold: list[str], space: str) -> None:
    started = time.perf_counter()
    verdict = grade_detailed(space.join(gold), f"\\boxed{{{space.join(answer)}}}")
    assert verdict.reward in {0.0, 1.0} and time.perf_counter() - started < LIMIT_SECONDS
    assert grade(space.join(gold), f"\\boxed{{{space.join(answer)}}}", "reasoning360") in {0.0, 1.0}


@given(st.text(max_size=80), st.text(max_size=40))
def test_fuzz_of_any_text(answer: str, gold: str) -> None:
    assert grade(gold, f"\\boxed{{{answer}}}") in {0.0, 1.0}
    assert grade(gold, answer, "reasoning360") in {0.0, 1.0}


@given(st.lists(PIECES, min_size=1, max_size=15))
def test_whatever_is_right_for_itself_stays_right(pieces: list[str]) -> None:
    """A gold in a box is right, unless the box ends before the gold does."""
    gold = " ".join(pieces).strip()
    verdict = grade_detailed(gold, f"\\boxed{{{gold}}}")
    assert verdict.reward == float(verdict.answer == gold) or verdict.reason != "different"


CALLERS = """
import resource, sys, time
from concurrent.futures import ThreadPoolExecutor
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
from megatron_sppo.rewards.math import grade
from tests.unit.hostile_math import HOSTILE
def seconds(job):
    gold, name = job
    started = time.thread_time()
    assert grade(gold, f"\\\\boxed{{{HOSTILE[name]}}}") == 0.0, job
    return time.thread_time() - started, *job
with ThreadPoolExecutor(8) as threads:
    print(max(threads.map(seconds, [(gold, name) for name in HOSTILE for gold in ("x^2+1", "42")]))[0])
"""


def test_eight_callers_of_hostile_answers_in_two_gigabytes(tmp_path: Path) -> None:
    """CPU time in the caller's thread: eight of them share two cores and this limit; a worker's second is the worker's own.

    Gigabytes of address space. A canary would lie in the working directory.
    """
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", CALLERS, str(2 << 30)]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0 and float(run.stdout) < LIMIT_SECONDS / 4, run.stdout + run.stderr
    assert not list(tmp_path.iterdir())


def test_a_caller_deep_in_its_stack_gets_a_verdict() -> None:
    def called_from(depth: int, box: str) -> float:
        return called_from(depth - 1, box) if depth else grade("x+1", f"\\boxed{{{box}}}")

    for box in ("(" * 28 + "1" + ")" * 28, r"\sqrt{" * 30 + "2" + "}" * 30, "-" * 110 + "1"):
        assert called_from(800, box) == 0.0


def test_eight_callers_at_once() -> None:
    pairs = [
        ("42", "42", 1.0), ("42", "43", 0.0), (r"\sin 2x", r"2\sin x\cos x", 1.0), (r"\sin 2x", r"2\sin x", 0.0),
        (r"\sqrt{3+2\sqrt2}", r"1+\sqrt2", 1.0), (r"\sin x", HOSTILE["exp of exp"], 0.0), ("x^2-1", "(x-1)(x+1)", 1.0),
        (r"\cot x", r"\frac{\cos x}{\sin x}", 1.0),
    ]  # fmt: skip
    with ThreadPoolExecutor(8) as threads:
        rewards = list(threads.map(lambda pair: grade(pair[0], f"\\boxed{{{pair[1]}}}"), pairs * 25))
    assert rewards == [right for _, _, right in pairs] * 25
