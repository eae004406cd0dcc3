"""Equality of two scalar trees: the same tree, the same exact value, or the same function by a worker's verdict."""

from __future__ import annotations

import time

from megatron_sppo.rewards.math import exact
from megatron_sppo.rewards.math.ast import Node, negate
from megatron_sppo.rewards.math.bounds import SYMBOLIC_SECONDS, TooComplex, Unreadable
from megatron_sppo.rewards.math.canonical import Canonical
from megatron_sppo.rewards.math.exact import Budget, Value
from megatron_sppo.rewards.math.workers import Pool


class Judge:
    """For one (gold, response) pair: it holds the pair's budgets of work and of worker time."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.budget = Budget()
        self.seconds_left = SYMBOLIC_SECONDS
        self.timed_out = False
        self._values: dict[Node, Value | None] = {}

    def equal(self, one: Node, other: Node) -> bool:
        if one == other:
            return True
        try:
            left, right = self.value(one), self.value(other)
            if left is not None and right is not None:
                if exact.equal(left, right, self.budget):
                    return True
                if not any(name.startswith("f:") for name in left.generators() | right.generators()):
                    return False
        except TooComplex:
            pass
        except (Unreadable, ZeroDivisionError):
            return False
        return self._ask(one, other)

    def value(self, node: Node) -> Value | None:
        """None where it is too complex to be written out."""
        if node not in self._values:
            try:
                self._values[node] = Canonical(self.budget).value(node)
            except TooComplex:
                self._values[node] = None
        return self._values[node]

    def _ask(self, one: Node, other: Node) -> bool:
        if self.seconds_left <= 0:
            self.timed_out = True
            return False
        started = time.monotonic()
        verdict = self.pool.equal(one, other, self.seconds_left)
        self.seconds_left -= time.monotonic() - started
        self.timed_out |= verdict is None
        return bool(verdict)

    def size(self, node: Node) -> float | None:
        """For ordering end points; infinity included."""
        if node.kind == "constant" and node.text == "infinity":
            return float("inf")
        if node == negate(Node("constant", text="infinity")):
            return float("-inf")
        try:
            value = self.value(node)
        except (Unreadable, ZeroDivisionError):
            return None
        return None if value is None else exact.approximate(value)

    def proportional(self, one: Node, other: Node, *, positive: bool = False) -> bool:
        """Whether ``one = c * other`` for a rational c other than 0 (or above 0): the same equation (or inequality)."""
        try:
            left, right = self.value(one), self.value(other)
        except (Unreadable, ZeroDivisionError):
            return False
        if left is None or right is None or not left.over or not right.over:
            return self.equal(one, other)
        monomial = min(left.over)
        if monomial in right.over and left.over.keys() == right.over.keys():
            factor = right.over[monomial] / left.over[monomial]
            if (factor > 0 or not positive) and all(right.over[each] == factor * left.over[each] for each in left.over):
                return not positive or left.under == right.under
        return self.equal(one, other) or (not positive and self.equal(one, negate(other)))
