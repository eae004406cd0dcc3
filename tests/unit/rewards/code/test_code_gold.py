"""Golds: what is read, what is refused, and that nothing else happens."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_sppo.rewards.code.asserts import AssertTests, CallTable, Separated
from megatron_sppo.rewards.code.faults import BadTests
from megatron_sppo.rewards.code.gold import CallTests, StdioTests, read_tests


def read(**tests: object) -> object:
    return read_tests(json.dumps(tests))


def test_lines_become_texts() -> None:
    assert read(inputs=[["1", "2"]], outputs=[["3"]]) == StdioTests(("1\n2",), ("3",))


def test_integer_keys_come_back() -> None:
    found = read(fn_name="f", inputs=[[{"1": 2}, {"a": 1}]], outputs=[{"-3": 4}])
    assert found == CallTests("f", ([{1: 2}, {"a": 1}],), ({-3: 4},))


def test_the_program_is_never_told_what_is_expected() -> None:
    found = read(asserts=["assert f(12345) == 67890", "assert abs(f(1) - g(2)) < 1e-9", "assert not f('a')"])
    assert isinstance(found, AssertTests)
    assert [check.holes for check in found.checks if isinstance(check, Separated)] == [
        ("f(12345)",),
        ("f(1)", "g(2)"),
        ("f('a')",),
    ]


def test_constants_of_the_tests_are_written_into_the_calls() -> None:
    found = read(test_code="xs = [1, 2]\nwant = 3\nassert f(xs) == want")
    assert isinstance(found, AssertTests)
    assert [check.holes for check in found.checks if isinstance(check, Separated)] == [("f([1, 2])",)]


def test_humaneval_plus_loop_is_a_table() -> None:
    code = "def check(candidate):\n    inputs = [[0.5]]\n    results = [1.5]\n"
    code += "    for i, (inp, exp) in enumerate(zip(inputs, results)):\n        assertion(candidate(*inp), exp, 0)\n"
    found = read(test_code=code, entry_point="f")
    assert isinstance(found, AssertTests)
    assert found.checks == (CallTable(("f(0.5)",), (1.5,), 1e-6),)


@pytest.mark.parametrize(
    "statement",
    [
        "assert isinstance(f(1), int)",
        "assert str(f(1)) == '1'",
        "assert all(f(n) == n for n in range(3))",
        "assert f(1) == reference(1)\ndef reference(x): return x",
        "import numpy as np\nassert np.allclose(f(1), [1])",
        "assert 1 == 1",
        "try:\n    f(1)\nexcept ValueError:\n    pass\nelse:\n    assert False",
    ],
)
def test_what_cannot_be_taken_apart_stays_whole(statement: str) -> None:
    found = read(asserts=[statement])
    assert isinstance(found, AssertTests)
    assert found.whole
    assert not found.checks


@pytest.mark.parametrize(
    "tests",
    [
        {},
        {"inputs": ["1"]},
        {"inputs": "1", "outputs": "1"},
        {"inputs": ["1"], "outputs": []},
        {"inputs": [1], "outputs": ["1"]},
        {"inputs": ["1"], "outputs": [["1", 2]]},
        {"fn_name": 3, "inputs": [[1]], "outputs": [1]},
        {"fn_name": "f()", "inputs": [[1]], "outputs": [1]},
        {"fn_name": "f", "inputs": [1], "outputs": [1]},
        {"fn_name": "f", "inputs": ["{"], "outputs": ["1"]},
        {"fn_name": "f", "inputs": ["1"], "outputs": [1]},
        {"inputs": ["1"], "outputs": ["1"], "tolerance": "big"},
        {"inputs": ["1"], "outputs": ["1"], "tolerance": float("nan")},
        {"inputs": ["1"], "outputs": ["1"], "tolerance": -1},
        {"asserts": []},
        {"asserts": "assert f()"},
        {"asserts": [1]},
        {"asserts": ["assert ("]},
        {"asserts": ["f(1)"]},
        {"test_code": 1},
        {"test_code": ""},
        {"test_code": "def check(candidate): assert 1"},
        {"asserts": ["assert " + "(" * 1000 + "f(1)" + ")" * 1000]},
        {"asserts": ["assert " + "-" * 100_000 + "f(1)"]},
        {"asserts": ["assert f(1) == '\0'"]},
    ],
)
def test_bad_tests(tests: dict[str, object]) -> None:
    with pytest.raises(BadTests):
        read(**tests)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=4
)
KEYS = st.sampled_from(["inputs", "outputs", "fn_name", "asserts", "test_list", "setup", "test_code", "entry_point", "tolerance"])


@given(st.dictionaries(KEYS, JSON | st.lists(st.text(max_size=9) | st.lists(JSON, max_size=3), max_size=3), max_size=4))
def test_any_json_is_read_or_refused(tests: dict[str, object]) -> None:
    try:
        found = read(**tests)
    except BadTests:
        return
    assert isinstance(found, (StdioTests, CallTests, AssertTests))


@given(st.text())
def test_any_text_is_read_or_refused(gold: str) -> None:
    with pytest.raises(BadTests):
        read_tests(gold)


@given(st.text(alphabet="assert f(1)=[]{}<+-*/%.,:'\"#\n lambdorinot~@"))
def test_any_statement_is_read_or_refused(statement: str) -> None:
    try:
        assert isinstance(read(asserts=["assert " + statement]), AssertTests)
    except BadTests:
        return


def test_hostile_golds_are_quick() -> None:
    started = time.perf_counter()
    for gold in ("[" * 1_000_000, '{"a":' * 500_000, "9" * 1_000_000, '{"asserts": ["assert f(' + "9" * 100_000 + ')==1"]}'):
        with pytest.raises(BadTests):
            read_tests(gold)
    assert time.perf_counter() - started < 5.0
