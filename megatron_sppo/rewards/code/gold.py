"""The tests of a problem, read from the gold's JSON. Formats: docs/code_reward.md."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_sppo.rewards.code.asserts import AssertTests, read_asserts, read_test_code
from megatron_sppo.rewards.code.faults import BadTests

MAX_CHARACTERS = 256 << 20
MAX_TESTS = 10_000


@dataclass(frozen=True)
class StdioTests:
    """stdin and expected stdout of each test."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tolerance: float | None = None


@dataclass(frozen=True)
class CallTests:
    """Arguments and expected result of each call of ``name``, a function or a method of the class `Solution`."""

    name: str
    arguments: tuple[list[Any], ...]
    expected: tuple[Any, ...]
    tolerance: float | None = None


Tests = StdioTests | CallTests | AssertTests


def read_tests(gold: str) -> Tests:
    """:class:`BadTests` for anything that is not one of the formats, or has no test at all."""
    if len(gold) > MAX_CHARACTERS:
        raise BadTests("too long")
    try:
        found = json.loads(gold)
    except (ValueError, RecursionError) as error:
        raise BadTests("not JSON") from error
    if not isinstance(found, dict):
        raise BadTests("no object")
    if "asserts" in found or "test_list" in found:
        return read_asserts(_texts(found.get("asserts", found.get("test_list"))), _optional_text(found, "setup"))
    if "test_code" in found:
        return read_test_code(_optional_text(found, "test_code"), _optional_text(found, "entry_point"))
    inputs, outputs = _paired(found.get("inputs"), found.get("outputs"))
    tolerance = _tolerance(found.get("tolerance"))
    if found.get("fn_name"):
        return _call_tests(_optional_text(found, "fn_name"), inputs, outputs, tolerance)
    return StdioTests(tuple(map(_stream, inputs)), tuple(map(_stream, outputs)), tolerance)


def _paired(inputs: Any, outputs: Any) -> tuple[list[Any], list[Any]]:
    if not (isinstance(inputs, list) and isinstance(outputs, list) and len(inputs) == len(outputs)):
        raise BadTests("inputs and outputs are not two lists of one length")
    if not 0 < len(inputs) <= MAX_TESTS:
        raise BadTests(f"{len(inputs)} tests")
    return inputs, outputs


def _tolerance(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and 0 <= value < 1):
        raise BadTests("tolerance is no number from 0 to 1")
    return float(value)


def _stream(value: Any) -> str:
    """A text, or its lines (APPS has both)."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    raise BadTests("an input or output is no text")


def _call_tests(name: str, inputs: Sequence[Any], outputs: Sequence[Any], tolerance: float | None) -> CallTests:
    if not name.isidentifier():
        raise BadTests("fn_name is no identifier")
    arguments = tuple(_arguments(value) for value in inputs)
    # LiveCodeBench writes arguments as lines of JSON, and then the result as JSON too.
    expected = [_json(value) if isinstance(given, str) else value for given, value in zip(inputs, outputs, strict=True)]
    return CallTests(name, arguments, tuple(map(_integer_keys, expected)), tolerance)


def _arguments(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [_json(line) for line in value.split("\n") if line.strip()]
    if not isinstance(value, list):
        raise BadTests("the arguments of a call are no list")
    return [_integer_keys(argument) for argument in value]


def _json(text: Any) -> Any:
    if not isinstance(text, str):
        raise BadTests("arguments are text but the result is not")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadTests("an argument or result is not JSON") from error


def _integer_keys(value: Any) -> Any:
    """JSON has turned a dictionary's integer keys into text; APPS and TACO mean integers."""
    if isinstance(value, Mapping) and value and all(key.lstrip("-").isdecimal() and len(key) < 20 for key in value):
        return {int(key): item for key, item in value.items()}
    return value


def _texts(value: Any) -> list[str]:
    if not (isinstance(value, list) and 0 < len(value) <= MAX_TESTS and all(isinstance(text, str) for text in value)):
        raise BadTests("asserts are no list of texts")
    return value


def _optional_text(found: Mapping[str, Any], key: str) -> str:
    value = found.get(key)
    if value is not None and not isinstance(value, str):
        raise BadTests(f"{key} is no text")
    return value or ""
