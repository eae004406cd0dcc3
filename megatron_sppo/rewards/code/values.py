"""Values that come out of the sandbox: plain Python values in tagged JSON (written by runner.py), read without trust."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

COLLISIONS_ALLOWED = 100


class Unreadable(ValueError):
    """No plain value: an object, broken text, too deep, or made to be slow."""


class Raised(Exception):
    """The program raised an exception of the type named."""


def read_result(line: bytes) -> Any:
    """The value of a result line; :class:`Raised` or :class:`Unreadable`."""
    try:
        message = json.loads(line)
        if isinstance(message, dict) and isinstance(message.get("e"), str):
            raise Raised(message["e"])
        if not (isinstance(message, dict) and "v" in message):
            raise Unreadable("no result")
        return _decoded(message["v"])
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise Unreadable(str(error)[:80]) from error


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    return DECODERS[tag](content)


def guarded_set(items: Iterable[Any]) -> frozenset[Any]:
    """A set, unless its elements were chosen to collide: a set of n such integers costs n squared."""
    listed = list(items)
    if len(listed) > COLLISIONS_ALLOWED:
        different = len(set(map(repr, listed)))  # texts are hashed with a secret
        if different > 2 * len(set(map(hash, listed))) + COLLISIONS_ALLOWED:
            raise Unreadable("colliding hashes")
    return frozenset(listed)


def _decoded_dict(pairs: Sequence[Sequence[Any]]) -> dict[Any, Any]:
    decoded = [(_decoded(key), _decoded(item)) for key, item in pairs]
    guarded_set(key for key, _ in decoded)
    return dict(decoded)


DECODERS: dict[str, Callable[[Any], Any]] = {
    "i": lambda text: int(text, 16),  # linear, unlike decimal
    "f": float.fromhex,
    "b": bytes.fromhex,
    "t": lambda items: tuple(_decoded(item) for item in items),
    "s": lambda items: guarded_set(_decoded(item) for item in items),
    "d": _decoded_dict,
}


def equal(actual: Any, expected: Any, tolerance: float | None) -> bool:
    """Python's equality, tuples being lists (JSON has no tuples); numbers within ``tolerance``, relative or absolute."""
    if isinstance(actual, (list, tuple)) and isinstance(expected, (list, tuple)):
        pairs = zip(actual, expected, strict=False)
        return len(actual) == len(expected) and all(equal(one, other, tolerance) for one, other in pairs)
    if isinstance(actual, dict) and isinstance(expected, dict):
        return actual.keys() == expected.keys() and all(equal(actual[key], expected[key], tolerance) for key in expected)
    if tolerance is not None and _is_number(actual) and _is_number(expected):
        return close(actual, expected, tolerance)
    return bool(actual == expected)


def close(one: float, other: float, tolerance: float) -> bool:
    try:
        return one == other or math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # an integer beyond the floats
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def same_output(actual: str, expected: str, tolerance: float | None) -> bool:
    """Line by line, trailing white space aside; with ``tolerance`` word by word, numbers compared as numbers."""
    ours, theirs = actual.rstrip(), expected.rstrip()
    if ours.count("\n") != theirs.count("\n"):  # before millions of lines are taken apart
        return False
    lines = zip(ours.split("\n"), theirs.split("\n"), strict=True)
    return all(one.rstrip() == other.rstrip() or _same_words(one, other, tolerance) for one, other in lines)


def _same_words(one: str, other: str, tolerance: float | None) -> bool:
    if tolerance is None:
        return False
    theirs = other.split()
    ours = one.split(maxsplit=len(theirs))
    return len(ours) == len(theirs) and all(_same_word(*pair, tolerance) for pair in zip(ours, theirs, strict=True))


def _same_word(one: str, other: str, tolerance: float) -> bool:
    if one == other:
        return True
    try:
        return close(float(one), float(other), tolerance)
    except ValueError:
        return False
