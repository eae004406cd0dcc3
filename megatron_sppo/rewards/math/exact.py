"""Exact values: quotients of polynomials over Q in prime radicals, i, pi, e, symbols and opaque atoms.

A monomial is a sorted tuple of (generator, exponent > 0). Generators are strings by kind:
``p:7`` (a prime, exponent below 1), ``c:i``, ``c:pi``, ``c:e``, ``s:x`` (a symbol), ``x:...`` (a power with a symbolic
exponent), ``f:...`` (opaque: a function's value, a root of a sum). Products of distinct prime radicals are linearly
independent over Q, so two values without opaque generators are equal exactly when their cross products are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

from megatron_sppo.rewards.math.bounds import MAX_BITS, MAX_EXPONENT, MAX_NAME, MAX_OPERATIONS, MAX_TERMS, TooComplex

Monomial: TypeAlias = tuple[tuple[str, Fraction], ...]
Polynomial: TypeAlias = dict[Monomial, Fraction]

TRIAL_DIVISORS = 10_000


@dataclass(frozen=True)
class Value:
    over: Polynomial
    under: Polynomial = field(default_factory=lambda: {(): Fraction(1)})

    @property
    def rational(self) -> Fraction | None:
        """The value where it is a rational number."""
        if not self.over:
            return Fraction(0)
        if self.over.keys() == {()} == self.under.keys():
            return self.over[()] / self.under[()]
        return None

    def generators(self) -> frozenset[str]:
        return frozenset(name for poly in (self.over, self.under) for monomial in poly for name, _ in monomial)

    def key(self) -> str:
        """Equal for equal text order of terms; unequal keys prove nothing."""
        return f"{_text(self.over)}/{_text(self.under)}"


def _text(poly: Polynomial) -> str:
    return "+".join(f"{poly[each]}" + "".join(f"*{name}^{power}" for name, power in each) for each in sorted(poly))


class Budget:
    """Work allowed in one comparison."""

    def __init__(self) -> None:
        self.left = MAX_OPERATIONS

    def spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise TooComplex("too many operations")


def constant(value: Fraction | int) -> Value:
    value = Fraction(value)
    return Value({(): value} if value else {})


def generator(name: str, exponent: Fraction | int = 1) -> Value:
    if len(name) > MAX_NAME:
        raise TooComplex("an atom is too long")
    return Value({((name, Fraction(exponent)),): Fraction(1)})


# --- polynomials --------------------------------------------------------------------------------------------------------


def add_polynomials(one: Polynomial, other: Polynomial, factor: int = 1) -> Polynomial:
    total = dict(one)
    for monomial, coefficient in other.items():
        value = total.get(monomial, Fraction(0)) + factor * coefficient
        if value:
            total[monomial] = value
        else:
            total.pop(monomial, None)
    if len(total) > MAX_TERMS:
        raise TooComplex("too many terms")
    return total


def multiply_polynomials(one: Polynomial, other: Polynomial, budget: Budget) -> Polynomial:
    budget.spend(len(one) * len(other))
    product: Polynomial = {}
    for left, left_coefficient in one.items():
        for right, right_coefficient in other.items():
            coefficient, monomial = _join(left, right)
            value = product.get(monomial, Fraction(0)) + coefficient * left_coefficient * right_coefficient
            if _bits(value) > MAX_BITS:
                raise TooComplex("a number is too large")
            if value:
                product[monomial] = value
            else:
                product.pop(monomial, None)
    if len(product) > MAX_TERMS:
        raise TooComplex("too many terms")
    return product


def _join(left: Monomial, right: Monomial) -> tuple[Fraction, Monomial]:
    """Product of two monomials with i^2 = -1 and p^{1/2} p^{1/2} = p carried out."""
    if not left or not right:
        return Fraction(1), left or right
    powers = dict(left)
    for name, exponent in right:
        powers[name] = powers.get(name, Fraction(0)) + exponent
    coefficient = Fraction(1)
    for name, exponent in list(powers.items()):
        if name.startswith("p:") and exponent >= 1:
            whole = math.floor(exponent)
            coefficient *= Fraction(int(name[2:])) ** whole
            powers[name] = exponent - whole
        elif name == "c:i" and exponent >= 2:
            coefficient *= (1, 1, -1, -1)[int(exponent) % 4]
            powers[name] = exponent % 2
        if not powers[name]:
            del powers[name]
    return coefficient, tuple(sorted(powers.items()))


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


# --- values -------------------------------------------------------------------------------------------------------------


def add(one: Value, other: Value, budget: Budget) -> Value:
    if one.under == other.under:
        return reduced(add_polynomials(one.over, other.over), one.under)
    over = add_polynomials(
        multiply_polynomials(one.over, other.under, budget), multiply_polynomials(other.over, one.under, budget)
    )
    return reduced(over, multiply_polynomials(one.under, other.under, budget))


def multiply(one: Value, other: Value, budget: Budget) -> Value:
    over = multiply_polynomials(one.over, other.over, budget)
    return reduced(over, multiply_polynomials(one.under, other.under, budget))


def inverse(value: Value) -> Value:
    if not value.over:
        raise ZeroDivisionError
    return reduced(value.under, value.over)


def reduced(over: Polynomial, under: Polynomial) -> Value:
    """Without common monomials; a denominator of one term has coefficient 1."""
    if not over:
        return Value({})
    shared = _common(over, under) if () not in over and () not in under else {}
    if shared:
        over, under = _divide(over, shared), _divide(under, shared)
    leading = under[min(under)]
    if leading != 1:
        over = {monomial: value / leading for monomial, value in over.items()}
        under = {monomial: value / leading for monomial, value in under.items()}
    return Value(over, under)


def _common(over: Polynomial, under: Polynomial) -> dict[str, Fraction]:
    monomials = [dict(monomial) for monomial in (*over, *under)]
    names = set(monomials[0]).intersection(*monomials[1:])
    return {name: min(each[name] for each in monomials) for name in names}


def _divide(poly: Polynomial, shared: dict[str, Fraction]) -> Polynomial:
    return {
        tuple((name, power - shared.get(name, 0)) for name, power in monomial if power != shared.get(name)): value
        for monomial, value in poly.items()
    }


def integer_power(value: Value, exponent: int, budget: Budget) -> Value:
    if abs(exponent) > MAX_EXPONENT or _growth(value) * abs(exponent) > MAX_BITS:
        raise TooComplex("an exponent is too large")
    base = inverse(value) if exponent < 0 else value
    if base.rational is not None:
        return constant(base.rational ** abs(exponent))
    result, left = constant(1), abs(exponent)
    while left:
        if left & 1:
            result = multiply(result, base, budget)
        left >>= 1
        if left:
            base = multiply(base, base, budget)
    return result


def _growth(value: Value) -> int:
    """Bits that each factor may add."""
    return max(_bits(number) for poly in (value.over or {(): Fraction(1)}, value.under) for number in poly.values())


def equal(one: Value, other: Value, budget: Budget) -> bool:
    left = multiply_polynomials(one.over, other.under, budget)
    return left == multiply_polynomials(other.over, one.under, budget)


def factors(number: int) -> Iterator[tuple[int, int]]:
    """(prime, exponent); what trial division leaves counts as prime."""
    for divisor in _divisors():
        if divisor * divisor > number or divisor > TRIAL_DIVISORS:
            break
        exponent = 0
        while number % divisor == 0:
            number //= divisor
            exponent += 1
        if exponent:
            yield divisor, exponent
    if number > 1:
        root = math.isqrt(number)
        yield (root, 2) if root * root == number else (number, 1)


def _divisors() -> Iterator[int]:
    yield 2
    yield from range(3, TRIAL_DIVISORS + 2, 2)


SIZES = {"c:pi": math.pi, "c:e": math.e}


def approximate(value: Value) -> float | None:
    """A float for ordering; None where the value is no real number written in primes, pi and e."""
    totals = []
    for poly in (value.over, value.under):
        total = 0.0
        for monomial, coefficient in poly.items():
            try:
                term = float(coefficient)
                for name, exponent in monomial:
                    if name not in SIZES and not name.startswith("p:"):
                        return None
                    term *= (SIZES.get(name) or float(name[2:])) ** float(exponent)
            except OverflowError:
                return None
            total += term
        totals.append(total)
    return totals[0] / totals[1] if totals[1] else None
