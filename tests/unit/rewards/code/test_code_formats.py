"""Right and wrong programs in every format of tests, graded by the real sandbox."""

from __future__ import annotations

from typing import Any

import pytest

SUM_IO = {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}
SUM_CALLS = {"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [3, 7]}
SUM_APPS = {"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [[3], [7]]}
SUM_LINES = {"fn_name": "add", "inputs": ["1\n2", "3\n4"], "outputs": ["3", "7"]}
SUM_ASSERTS = {"asserts": ["assert add(1, 2) == 3", "assert add(3, 4) == 7"]}
CHECK = "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert not candidate(0, 0)\n"
SUM_CHECK = {"test_code": CHECK, "entry_point": "add"}
PLUS = """import numpy as np
def is_floats(x) -> bool:
    return isinstance(x, float)
def assertion(out, exp, atol):
    assert out == exp
def check(candidate):
    inputs = [[1, 2], [3, 4]]
    results = [3, 7]
    for i, (inp, exp) in enumerate(zip(inputs, results)):
        assertion(candidate(*inp), exp, 0)
"""
SUM_PLUS = {"test_code": PLUS, "entry_point": "add"}
SUM_LOOP = {"test_code": "for n in range(5):\n    assert add(n, 1) == n + 1"}
FUNCTION_TESTS = [SUM_CALLS, SUM_APPS, SUM_LINES, SUM_ASSERTS, SUM_CHECK, SUM_PLUS, SUM_LOOP]

READ = "a, b = map(int, input().split())\n"
ADD = "def add(a, b):\n    return a + b\n"


@pytest.mark.parametrize("tests", FUNCTION_TESTS)
def test_a_function_passes_and_its_wrong_sisters_do_not(grade, tests: dict[str, Any]) -> None:
    assert grade(ADD, tests).reward == 1.0
    assert grade("def add(a, b):\n    return a * b + 5\n", tests).reason == "wrong answer"
    assert grade("def add(a, b):\n    raise KeyError(a)\n", tests).reason == "runtime error"
    assert grade("def other(a, b):\n    return a + b\n", tests).reason == "runtime error"
    assert grade("def add(a, b):\n    while True: pass\n", tests).reason == "timeout"


@pytest.mark.parametrize("tests", [SUM_CALLS, SUM_APPS, SUM_LINES])
def test_leetcode_classes_and_the_names_they_expect(grade, tests: dict[str, Any]) -> None:
    program = (
        "class Solution:\n    def add(self, a: List[int], b: int) -> int:\n        return reduce(lambda x, y: x + y, [a, b])"
    )
    assert grade(program, tests).reward == 1.0


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (READ + "print(a + b)", "passed"),
        (READ + "print(a + b, end='   \\n\\n')", "passed"),
        (READ + "import os\nprint(a + b, flush=True)\nos._exit(0)", "passed"),
        ("def main():\n    a, b = map(int, input().split())\n    print(a + b)\nif __name__ == '__main__':\n    main()", "passed"),
        ("import sys\na, b = map(int, sys.stdin.buffer.read().split())\nsys.stdout.write(str(a + b))", "passed"),
        (
            READ + "import threading\nthreading.stack_size(2**25)\nt = threading.Thread(target=lambda: print(a + b))\nt.start()",
            "passed",
        ),
        (READ + "import asyncio\nasync def f(): print(a + b)\nasyncio.run(f())", "passed"),
        (READ + "open('note', 'w').write('x')\nprint(a + b)\nimport sys; sys.exit(0)", "passed"),
        (READ + "print(a - b)", "wrong answer"),
        (READ + "print(' ' + str(a + b))", "wrong answer"),
        (READ + "print(a + b)\nprint()\nprint(1)", "wrong answer"),
        ("print(3)", "wrong answer"),  # right for the first test alone
        (READ + "print(a + b)\nraise SystemExit(3)", "runtime error"),
        (READ + "print(a + b", "runtime error"),
        ("import numpy", "runtime error"),
        (READ + "x = [0] * 10**9", "memory"),
    ],
)
def test_programs_that_read_and_print(grade, program: str, reason: str) -> None:
    verdict = grade(program, SUM_IO)
    assert (verdict.reason, verdict.reward) == (reason, float(reason == "passed"))


def test_numbers_are_close_only_where_the_tests_say_so(grade) -> None:
    exact = {"inputs": [""], "outputs": ["0.5 yes\n"]}
    assert grade("print(0.50000001, 'yes')", exact).reason == "wrong answer"
    assert grade("print(0.50000001, 'yes')", {**exact, "tolerance": 1e-6}).reward == 1.0
    assert grade("print(0.51, 'yes')", {**exact, "tolerance": 1e-6}).reward == 0.0
    assert grade("print(0.5, 'no')", {**exact, "tolerance": 1e-6}).reward == 0.0
    calls = {"fn_name": "f", "inputs": [[1]], "outputs": [[0.5, 1.0]]}
    assert grade("def f(x): return (0.50000001, 1)", calls).reason == "wrong answer"
    assert grade("def f(x): return (0.50000001, 1)", {**calls, "tolerance": 1e-6}).reward == 1.0


def test_a_wrapped_result_is_wrapped_in_all_tests_or_in_none(grade) -> None:
    tests = {"fn_name": "f", "inputs": [[1], [2]], "outputs": [[1], [2]]}
    assert grade("def f(x): return x", tests).reward == 1.0
    assert grade("def f(x): return [x]", tests).reward == 1.0
    assert grade("def f(x): return [x] if x == 1 else x", tests).reward == 0.0


@pytest.mark.parametrize(
    ("assertion", "right", "wrong"),
    [
        ("assert f(2) is None", "None", "0"),
        ("assert f(2) is not None", "0", "None"),
        ("assert f(2) in (1, 4)", "4", "5"),
        ("assert abs(f(2) - 1.5) < 1e-6", "1.5000001", "1.6"),
        ("import math\nassert math.isclose(f(2), 1.5, rel_tol=1e-3)", "1.5001", "1.6"),
        ("import math\nassert f(math.pi) == 3", "int(x)", "x"),
        ("assert set(f(2)) == set([1, 2])", "[2, 1, 1]", "[2]"),
        ("assert sorted(f(2)) == [1, 2]", "[2, 1]", "[2]"),
        ("assert f(2)[0] == 'a' and len(f(2)) == 2", "'ab'", "'b'"),
        ("assert f(2) == {1: (2, 3), 'k': {4}}", "{1: (2, 3), 'k': {4}}", "{1: [2, 3], 'k': {4}}"),
        ("assert f(2) == -2**70", "-2**70", "2**70"),
        ("assert f(2) == float('inf')", "float('inf')", "1e308"),
        ("assert 1 < f(2) <= 3, 'message'", "3", "4"),
        ("assert f(f(2)) == 4", "x if x == 4 else 4", "x"),
        ("assert round(f(2), 2) == 3.14", "3.1415", "3.2"),
        ("assert (f(2) == 3) == True", "3", "4"),
    ],
)
def test_forms_of_asserts(grade, assertion: str, right: str, wrong: str) -> None:
    assert grade(f"def f(x): return {right}", {"asserts": [assertion]}).reason == "passed"
    assert grade(f"def f(x): return {wrong}", {"asserts": [assertion]}).reason == "wrong answer"


@pytest.mark.parametrize("gold", ["", "null", "[]", '{"inputs": [], "outputs": []}', '{"asserts": ["print(1)"]}', "[" * 100_000])
def test_bad_tests_are_counted(grade, reward, gold: str) -> None:
    before = reward.pool.counts["bad tests"]
    assert (grade(ADD, gold).reason, grade(ADD, gold).reward) == ("bad tests", 0.0)
    assert reward.pool.counts["bad tests"] == before + 2
