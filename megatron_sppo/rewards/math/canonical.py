"""A scalar expression's tree to its exact value (``exact.py``)."""

from __future__ import annotations

import math
from fractions import Fraction

from megatron_sppo.rewards.math import exact
from megatron_sppo.rewards.math.ast import Node
from megatron_sppo.rewards.math.bounds import MAX_BITS, MAX_EXPONENT, MAX_FACTORIAL, TooComplex, Unreadable
from megatron_sppo.rewards.math.exact import Budget, Value, constant, generator

ANGLES = frozenset("sin cos tan cot sec csc".split())


class Canonical:
    """Values of nodes under one budget. Raises TooComplex, Unreadable (no scalar) and ZeroDivisionError."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def value(self, node: Node) -> Value:
        handler = getattr(self, f"_{node.kind}", None)
        if handler is None:
            raise Unreadable(f"{node.kind} is no scalar")
        result: Value = handler(node)
        return result

    def _number(self, node: Node) -> Value:
        return constant(node.value)

    def _symbol(self, node: Node) -> Value:
        return generator(f"s:{node.text}")

    def _constant(self, node: Node) -> Value:
        return generator(f"c:{node.text}")

    def _degrees(self, node: Node) -> Value:
        return self.value(node.args[0])

    def _add(self, node: Node) -> Value:
        total = constant(0)
        for arg in node.args:
            total = exact.add(total, self.value(arg), self.budget)
        return total

    def _multiply(self, node: Node) -> Value:
        total = constant(1)
        for arg in node.args:
            total = exact.multiply(total, self.value(arg), self.budget)
        return total

    def _power(self, node: Node) -> Value:
        base, exponent = (self.value(arg) for arg in node.args)
        rational = exponent.rational
        if rational is None:
            return self.symbolic_power(base, exponent)
        if rational.denominator == 1:
            return exact.integer_power(base, rational.numerator, self.budget)
        return self.fractional_power(base, rational)

    def _root(self, node: Node) -> Value:
        index = self.value(node.args[1]).rational
        if index is None or index.denominator != 1 or not 2 <= index <= MAX_EXPONENT:
            raise Unreadable("root index")
        radicand = self.value(node.args[0])
        rational = radicand.rational
        if rational is not None and rational < 0 and index % 2:  # the real root
            return exact.multiply(constant(-1), self.fractional_power(constant(-rational), 1 / index), self.budget)
        return self.fractional_power(radicand, 1 / index)

    def _call(self, node: Node) -> Value:
        args = [self.value(arg) for arg in node.args]
        if node.text in {"factorial", "binomial", "floor", "ceil", "abs", "gcd", "lcm", "max", "min"}:
            rationals = [arg.rational for arg in args]
            if None not in rationals:
                return constant(arithmetic(node.text, [each for each in rationals if each is not None]))
        return generator(f"f:{self.opaque_name(node)}({'|'.join(arg.key() for arg in args)})")

    def opaque_name(self, node: Node) -> str:
        """The sine of 30 degrees is not the sine of 30."""
        in_degrees = node.text in ANGLES and any(each.kind == "degrees" for each in node.walk())
        return f"{node.text} degrees" if in_degrees else node.text

    # --- powers ------------------------------------------------------------------------------------------------------

    def fractional_power(self, base: Value, exponent: Fraction) -> Value:
        if not base.over:
            if exponent < 0:
                raise ZeroDivisionError
            return base
        if exponent < 0:
            base, exponent = exact.inverse(base), -exponent
        over = self.polynomial_power(base.over, exponent)
        return exact.multiply(over, exact.inverse(self.polynomial_power(base.under, exponent)), self.budget)

    def polynomial_power(self, poly: exact.Polynomial, exponent: Fraction) -> Value:
        """A single term's factors one by one; a sum is opaque, less its rational content."""
        if len(poly) == 1:
            ((monomial, coefficient),) = poly.items()
            result = self.rational_power(coefficient, exponent)
            for name, power in monomial:
                result = exact.multiply(result, self.generator_power(name, power, exponent), self.budget)
            return result
        content = _content(poly)
        rest = Value({monomial: value / content for monomial, value in poly.items()})
        outside = self.rational_power(content, exponent)
        whole = math.floor(exponent)
        part = generator(f"f:root({rest.key()})^{exponent - whole}")
        return exact.multiply(
            exact.multiply(outside, exact.integer_power(rest, whole, self.budget), self.budget), part, self.budget
        )

    def rational_power(self, value: Fraction, exponent: Fraction) -> Value:
        if max(value.numerator.bit_length(), value.denominator.bit_length()) * abs(exponent) > MAX_BITS:
            raise TooComplex("a power is too large")
        result = constant(1)
        if value < 0:
            if exponent.denominator != 2:
                return generator(f"f:power({value})^{exponent}")
            result = exact.integer_power(generator("c:i"), exponent.numerator % 4, self.budget)
        for number, sign in ((abs(value.numerator), 1), (value.denominator, -1)):
            for prime, count in exact.factors(number):
                power = sign * count * exponent
                whole = math.floor(power)
                part = constant(Fraction(prime) ** whole)
                if power != whole:
                    part = exact.multiply(part, generator(f"p:{prime}", power - whole), self.budget)
                result = exact.multiply(result, part, self.budget)
        return result

    def generator_power(self, name: str, power: Fraction, exponent: Fraction) -> Value:
        if name == "c:i" or (
            power.denominator == 1 and power.numerator % 2 == 0 and name[0] in "sf" and exponent.denominator % 2 == 0
        ):
            return generator(f"f:root({name}^{power})^{exponent}")  # the root of x^2 is |x|, left to the worker
        result = power * exponent
        if name.startswith("p:"):
            return self.rational_power(Fraction(int(name[2:])), result)
        return generator(name, result)

    def symbolic_power(self, base: Value, exponent: Value) -> Value:
        """2^{n+1} = 2 * (2^n): one generator for each (base, monomial of the exponent)."""
        if list(exponent.under) != [()]:
            return generator(f"f:power({base.key()})^({exponent.key()})")
        scale = exponent.under[()]
        result = constant(1)
        for monomial, coefficient in exponent.over.items():
            for name, power in self.base_factors(base):
                part = self.one_power(name, monomial, power * coefficient / scale)
                result = exact.multiply(result, part, self.budget)
        return result

    def base_factors(self, base: Value) -> list[tuple[str, Fraction]]:
        rational = base.rational
        if rational is not None and rational > 0:
            return [
                (f"p:{prime}", Fraction(sign * count))
                for number, sign in ((rational.numerator, 1), (rational.denominator, -1))
                for prime, count in exact.factors(number)
            ]
        if (
            list(base.under) == [()]
            and len(base.over) == 1
            and base.over == generator(name := next(iter(base.generators()), "")).over
        ):
            return [(name, Fraction(1))]
        return [(f"f:{base.key()}", Fraction(1))]

    def one_power(self, name: str, monomial: exact.Monomial, coefficient: Fraction) -> Value:
        if not monomial:  # the rational part of the exponent
            if name.startswith("p:"):
                return self.rational_power(Fraction(int(name[2:])), coefficient)
            atom = generator(name, abs(coefficient))
        else:
            inner = "*".join(f"{each}^{power}" for each, power in monomial)
            opaque = name.startswith("f:") or any(each == "c:i" or each.startswith("f:") for each, _ in monomial)
            atom = generator(f"{'f' if opaque else 'x'}:{name}|{inner}", abs(coefficient))
        return atom if coefficient > 0 else exact.inverse(atom)


def _content(poly: exact.Polynomial) -> Fraction:
    """The positive rational that is common to all coefficients."""
    numerator = math.gcd(*(value.numerator for value in poly.values()))
    return Fraction(numerator, math.lcm(*(value.denominator for value in poly.values())))


def arithmetic(name: str, args: list[Fraction]) -> Fraction:
    """Integer functions of rational numbers, bounded."""
    if name in {"max", "min"}:
        return max(args) if name == "max" else min(args)
    if name in {"floor", "ceil"}:
        return Fraction(math.floor(args[0]) if name == "floor" else math.ceil(args[0]))
    if name == "abs":
        return abs(args[0])
    if any(arg.denominator != 1 or arg < 0 for arg in args):
        raise Unreadable(f"{name} of such numbers")
    whole = [int(arg) for arg in args]
    if name in {"gcd", "lcm"}:
        if sum(each.bit_length() for each in whole) > MAX_BITS:
            raise TooComplex("a common multiple is too large")
        return Fraction((math.gcd if name == "gcd" else math.lcm)(*whole))
    if max(whole) > MAX_FACTORIAL:
        raise TooComplex("a factorial is too large")
    return Fraction(math.factorial(whole[0]) if name == "factorial" else math.comb(*whole))
