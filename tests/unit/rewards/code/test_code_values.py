"""What the parent reads from a sandbox and computes with it: exact, bounded, quick."""

from __future__ import annotations

import ast
import contextlib
import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_sppo.rewards.code.expression import Splitter, evaluate
from megatron_sppo.rewards.code.values import Raised, Unreadable, equal, read_result, same_output

EVALUATION_ERRORS = (TypeError, ValueError, ArithmeticError, LookupError, RecursionError)


def result(value: object) -> bytes:
    return json.dumps({"v": value}).encode()


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ([1, {"t": [True, None]}], [1, (True, None)]),
        ({"i": "-0x" + "f" * 40}, -int("f" * 40, 16)),
        ({"f": "inf"}, math.inf),
        ({"f": "0x1.8p+0"}, 1.5),
        ({"s": [1, 2, 1]}, {1, 2}),
        ({"d": [[{"t": [1]}, "a"]]}, {(1,): "a"}),
        ({"b": "00ff"}, b"\x00\xff"),
    ],
)
def test_tags(written: object, value: object) -> None:
    assert read_result(result(written)) == value


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"3",
        b"null",
        b'{"v": {"o": "Cheat"}}',
        b'{"v": {"i": "zz"}}',
        b'{"v": {"s": [[]]}}',
        b'{"v": {"d": [[1]]}}',
        b'{"v": {}}',
        b'{"v": {"t": 3}}',
        b'{"v": {"i": 3}}',
        b"[" * 100_000,
        b'{"v":' + b"[" * 100_000,
        b'{"v": ' + b"9" * 5000 + b"}",
        b'{"v": {"a": 1, "b": 2}}',
        b"\xff\xfe\x00",
    ],
)
def test_broken_results_are_unreadable(line: bytes) -> None:
    with pytest.raises(Unreadable):
        read_result(line)


def test_an_exception_is_named() -> None:
    with pytest.raises(Raised, match="KeyError"):
        read_result(b'{"e": "KeyError"}')


@pytest.mark.parametrize("tag", ["s", "d"])
def test_colliding_hashes_do_not_stop_the_parent(tag: str) -> None:
    modulus = 2**61 - 1  # CPython's: all multiples hash to 0
    keys = [{"i": hex(n * modulus)} for n in range(1, 40_000)]
    started = time.perf_counter()
    with pytest.raises(Unreadable):
        read_result(result({tag: keys if tag == "s" else [[key, 0] for key in keys]}))
    assert time.perf_counter() - started < 2.0


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(line: bytes) -> None:
    with pytest.raises((Unreadable, Raised)):
        read_result(line)


@pytest.mark.parametrize(
    ("one", "other", "tolerance", "same"),
    [
        ((1, [2]), [1, (2,)], None, True), ({1}, [1], None, False), ("1", 1, None, False), ([1], [1, 2], None, False),
        ({"a": (1,)}, {"a": [1]}, None, True), (0.1 + 0.2, 0.3, None, False), (0.1 + 0.2, 0.3, 1e-9, True),
        (True, 1, None, True), (10**400, 1.0, 1e-6, False), (math.nan, math.nan, 1e-6, False), (math.inf, math.inf, 1e-6, True),
    ],
)  # fmt: skip
def test_equality(one: object, other: object, tolerance: float | None, same: bool) -> None:
    assert equal(one, other, tolerance) is same


@pytest.mark.parametrize(
    ("actual", "expected", "same"),
    [
        ("a\nb", "a\nb\n\n", True),
        ("a \nb\t", "a\nb", True),
        ("a\n\nb", "a\nb", False),
        (" a", "a", False),
        ("", "\n", True),
        ("\na", "a", False),
    ],
)
def test_output(actual: str, expected: str, same: bool) -> None:
    assert same_output(actual, expected, None) is same


def assert_value(source: str, *values: object) -> object:
    splitter = Splitter({}, ())
    template = splitter.visit(ast.parse(source, mode="eval").body)
    return evaluate(template, values)


@pytest.mark.parametrize(
    "source",
    [
        "f() * f()",
        "f() ** f()",
        "f() % 3",
        "f() // 7",
        "round(1, f())",
        "sum(f())",
        "'a' * f()",
        "2 ** f()",
        "f() / 3",
        "[0] * f()",
    ],
)
@pytest.mark.parametrize(
    "value", [1 << 4_000_000, [[]] * 100_000, "%999999999d", -(10**9)], ids=["bits", "lists", "format", "negative"]
)
def test_nothing_large_or_slow_is_computed(source: str, value: object) -> None:
    started = time.perf_counter()
    with contextlib.suppress(*EVALUATION_ERRORS):
        assert_value(source, value, value)
    assert time.perf_counter() - started < 0.5


@given(st.lists(st.integers(-50, 50) | st.floats(-5, 5), min_size=2, max_size=2))
def test_our_arithmetic_is_pythons(values: list[float]) -> None:
    one, other = values
    assert assert_value("abs(f() - g()) <= 3 or not f() > g()", one, other, one, other) == (
        abs(one - other) <= 3 or not one > other
    )
    assert assert_value("[f() + 1, -g()] == [f() + 1, -g()]", one, other, one, other) is True
