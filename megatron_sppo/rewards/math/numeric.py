"""Equality of two scalar trees by identity testing: 80 digits at fixed points, real and of both signs. For worker processes.

Agreement to 50 digits at every point where both sides are defined counts as equality. A function that is not known, u(t),
is evaluated as some fixed analytic function. Points where only one side is real are outside the domain and prove nothing,
unless i itself occurs.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from typing import Any

import mpmath
from mpmath import mp

from megatron_sppo.rewards.math.ast import Node, has_kind, symbols
from megatron_sppo.rewards.math.canonical import ANGLES

DIGITS = 80
AGREEMENT = mpmath.mpf(10) ** -50
NOISE = mpmath.mpf(10) ** -70
POINTS = 8
NEEDED_POINTS = 2
MAX_EXPONENT_BITS = 40

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sin": mpmath.sin, "cos": mpmath.cos, "tan": mpmath.tan, "cot": mpmath.cot, "sec": mpmath.sec, "csc": mpmath.csc,
    "arcsin": mpmath.asin, "arccos": mpmath.acos, "arctan": mpmath.atan, "arccot": mpmath.acot, "arcsec": mpmath.asec,
    "arccsc": mpmath.acsc, "sinh": mpmath.sinh, "cosh": mpmath.cosh, "tanh": mpmath.tanh, "coth": mpmath.coth,
    "arcsinh": mpmath.asinh, "arccosh": mpmath.acosh, "arctanh": mpmath.atanh, "ln": mpmath.log, "abs": abs,
    "lg": lambda x: mpmath.log(x) / mpmath.log(10), "floor": mpmath.floor, "ceil": mpmath.ceil,
    "factorial": mpmath.factorial, "binomial": mpmath.binomial, "max": max, "min": min,
}  # fmt: skip
LOG_BASE = 7.3890123  # of `log` without a base: neither e nor 10, so that `\log 2` equals no logarithm of a stated base


def same(one: Node, other: Node) -> bool:
    """ArithmeticError and ValueError where neither can be evaluated."""
    names = sorted(symbols(one) | symbols(other))
    complex_allowed = any(node.kind == "constant" and node.text == "i" for side in (one, other) for node in side.walk())
    agreed = 0
    with mp.workdps(DIGITS):
        for point in range(POINTS if names or has_kind(one, ["call"]) else 1):
            values = {name: _coordinate(name, point) for name in names}
            try:
                left, right = Evaluation(values).of(one), Evaluation(values).of(other)
            except ZeroDivisionError:
                continue
            if not (mpmath.isfinite(left) and mpmath.isfinite(right)):
                continue
            if names and not complex_allowed and (_imaginary(left) or _imaginary(right)):
                continue
            if abs(left - right) > AGREEMENT * max(abs(left), abs(right)) + NOISE:
                return False
            agreed += 1
    return agreed >= (NEEDED_POINTS if names else 1)


def _imaginary(value: Any) -> bool:
    return bool(abs(mpmath.im(value)) > NOISE + AGREEMENT * abs(value))


def _coordinate(name: str, point: int) -> Any:
    """The first half of the points is positive. Fixed by the name, so that runs agree."""
    generator = random.Random(zlib.crc32(f"{name} {point}".encode()))  # noqa: S311
    size = mpmath.mpf(generator.getrandbits(200)) / 2**200 * 3 + mpmath.mpf(1) / 7
    return size if point < POINTS // 2 or generator.random() < 0.3 else -size


class Evaluation:
    def __init__(self, values: dict[str, Any]) -> None:
        self.values, self.in_angle = values, False

    def of(self, node: Node) -> Any:
        return getattr(self, f"_{node.kind}")(node)

    def _number(self, node: Node) -> Any:
        return mpmath.mpf(node.value.numerator) / node.value.denominator

    def _symbol(self, node: Node) -> Any:
        return self.values[node.text]

    def _constant(self, node: Node) -> Any:
        return {"pi": +mp.pi, "e": +mp.e, "i": mpmath.mpc(0, 1), "infinity": mpmath.inf}[node.text]

    def _degrees(self, node: Node) -> Any:
        value = self.of(node.args[0])
        return value * mp.pi / 180 if self.in_angle else value

    def _add(self, node: Node) -> Any:
        return sum((self.of(arg) for arg in node.args), mpmath.mpf(0))

    def _multiply(self, node: Node) -> Any:
        return mpmath.fprod([self.of(arg) for arg in node.args])

    def _power(self, node: Node) -> Any:
        base, exponent = (self.of(arg) for arg in node.args)
        if abs(exponent) > 2**MAX_EXPONENT_BITS:
            raise ArithmeticError("an exponent is too large")
        return base**exponent

    def _root(self, node: Node) -> Any:
        radicand, index = (self.of(arg) for arg in node.args)
        if mpmath.im(radicand) == 0 and mpmath.re(radicand) < 0 and mpmath.isint(index) and int(index) % 2:
            return -((-radicand) ** (1 / index))
        return radicand ** (1 / index)

    def _call(self, node: Node) -> Any:
        outside, self.in_angle = self.in_angle, node.text in ANGLES
        args = [self.of(arg) for arg in node.args]
        self.in_angle = outside
        if node.text == "log":
            return mpmath.log(args[0]) / mpmath.log(args[1] if len(args) > 1 else LOG_BASE)
        if node.text in FUNCTIONS:
            if node.text in {"factorial", "binomial"} and any(abs(arg) > 2**MAX_EXPONENT_BITS for arg in args):
                raise ArithmeticError("a factorial is too large")
            return FUNCTIONS[node.text](*args)
        if not node.text.startswith(("apply ", "derivative ")):
            raise ValueError(f"no value of {node.text}")
        seed = mpmath.mpf(zlib.crc32(node.text.encode())) / 2**31
        return mpmath.cos(seed + sum(arg * mpmath.sqrt(position + 2) for position, arg in enumerate(args))) + seed
