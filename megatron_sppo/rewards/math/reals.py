"""Sets of reals as unions of intervals with exact end points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from megatron_sppo.rewards.math.ast import INFINITY, Node, negate, number, symbols
from megatron_sppo.rewards.math.bounds import Unreadable
from megatron_sppo.rewards.math.judge import Judge

MINUS_INFINITY = negate(INFINITY)
SAME_SIZE = 1e-12
FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "!=": "!="}


@dataclass(frozen=True)
class Interval:
    low: Node
    closed_low: bool
    high: Node
    closed_high: bool


@dataclass(frozen=True)
class Reals:
    intervals: tuple[Interval, ...]

    def normal(self, judge: Judge) -> Reals:
        """Sorted, without empty parts, parts that touch joined; as it is where end points are symbolic."""
        sized = [(judge.size(each.low), judge.size(each.high), each) for each in self.intervals]
        if any(low is None or high is None for low, high, _ in sized):
            return self
        kept: list[Interval] = []
        for low, high, interval in sorted(sized, key=lambda item: (item[0], not item[2].closed_low)):
            if _before(high, low) or (_alike(low, high) and not (interval.closed_low and interval.closed_high)):
                continue
            if kept and self._touch(kept[-1], interval, judge):
                kept[-1] = _join(kept[-1], interval, judge)
            else:
                kept.append(interval)
        return Reals(tuple(kept))

    @staticmethod
    def _touch(left: Interval, right: Interval, judge: Judge) -> bool:
        end, start = judge.size(left.high), judge.size(right.low)
        return _before(start, end) or (_alike(start, end) and (left.closed_high or right.closed_low))

    def intersect(self, other: Reals, judge: Judge) -> Reals:
        parts = []
        for one in self.intervals:
            for two in other.intervals:
                low, closed_low = _inner(one.low, one.closed_low, two.low, two.closed_low, judge, largest=True)
                high, closed_high = _inner(one.high, one.closed_high, two.high, two.closed_high, judge, largest=False)
                parts.append(Interval(low, closed_low, high, closed_high))
        return Reals(tuple(parts)).normal(judge)

    def without(self, points: Sequence[Node], judge: Judge) -> Reals:
        result = self
        for point in points:
            holes = (Interval(MINUS_INFINITY, False, point, False), Interval(point, False, INFINITY, False))
            result = result.intersect(Reals(holes), judge)
        return result

    def same(self, other: Reals, judge: Judge) -> bool:
        one, two = self.normal(judge).intervals, other.normal(judge).intervals
        left = list(two)
        if len(one) != len(two):
            return False
        for interval in one:
            match = next((each for each in left if _same_interval(interval, each, judge)), None)
            if match is None:
                return False
            left.remove(match)
        return True


EVERYTHING = Reals((Interval(MINUS_INFINITY, False, INFINITY, False),))


def _same_interval(one: Interval, two: Interval, judge: Judge) -> bool:
    return (
        (one.closed_low, one.closed_high) == (two.closed_low, two.closed_high)
        and judge.equal(one.low, two.low)
        and judge.equal(one.high, two.high)
    )


def _alike(one: float | None, two: float | None) -> bool:
    assert one is not None and two is not None
    return one == two or (math.isfinite(one) and math.isfinite(two) and abs(one - two) <= SAME_SIZE * max(abs(one), abs(two)))


def _before(one: float | None, two: float | None) -> bool:
    assert one is not None and two is not None
    return one < two and not _alike(one, two)


def _join(left: Interval, right: Interval, judge: Judge) -> Interval:
    end, other = judge.size(left.high), judge.size(right.high)
    if _alike(end, other):
        return Interval(left.low, left.closed_low, left.high, left.closed_high or right.closed_high)
    last = right if _before(end, other) else left
    return Interval(left.low, left.closed_low, last.high, last.closed_high)


def _inner(one: Node, closed_one: bool, two: Node, closed_two: bool, judge: Judge, *, largest: bool) -> tuple[Node, bool]:
    first, second = judge.size(one), judge.size(two)
    if one == two:
        return one, closed_one and closed_two
    if one in {INFINITY, MINUS_INFINITY}:
        return two, closed_two
    if two in {INFINITY, MINUS_INFINITY}:
        return one, closed_one
    if first is None or second is None:
        raise Unreadable("end points that cannot be ordered")
    if _alike(first, second):
        return one, closed_one and closed_two
    return (one, closed_one) if _before(second, first) == largest else (two, closed_two)


def from_inequality(left: Node, operator: str, right: Node, judge: Judge) -> Reals | None:
    """Of one that is linear in one symbol, ``2x > 6`` say; None for others. A false or true statement is Unreadable."""
    if right.kind == "symbol" and left.kind != "symbol":
        left, operator, right = right, FLIPPED[operator], left
    difference = Node("add", (left, negate(right)))
    slope = linear(difference, judge)
    if slope is None:
        return None
    name, coefficient = slope
    if coefficient < 0:
        operator = FLIPPED[operator]
    end = Node("add", (Node("symbol", text=name), Node("multiply", (number(-1 / coefficient), difference))))
    end = right if left == Node("symbol", text=name) else end
    if operator == "!=":
        return EVERYTHING.without([end], judge)
    closed = operator.endswith("=")
    if operator.startswith(">"):
        return Reals((Interval(end, closed and end != MINUS_INFINITY, INFINITY, False),))
    return Reals((Interval(MINUS_INFINITY, False, end, closed and end != INFINITY),))


def from_absolute(left: Node, operator: str, right: Node, judge: Judge) -> Reals | None:
    """Of ``|u| < c`` and its kin, u linear in one symbol and c a constant; None for others."""
    if right.kind == "call" and right.text == "abs":
        left, operator, right = right, FLIPPED[operator], left
    if left.kind != "call" or left.text != "abs" or symbols(right):
        return None
    size = judge.size(right)
    if size is None or size < 0:
        return None
    upper = from_inequality(left.args[0], operator, right, judge)
    lower = from_inequality(left.args[0], FLIPPED[operator], negate(right), judge)
    if upper is None or lower is None:
        return None
    if operator.startswith(">"):
        return Reals((*upper.intervals, *lower.intervals)).normal(judge)
    return upper.intersect(lower, judge)


def linear(node: Node, judge: Judge) -> tuple[str, Fraction] | None:
    """(symbol, coefficient) where the node is ``coefficient * symbol + constant``."""
    try:
        value = judge.value(node)
    except ZeroDivisionError:
        return None
    if value is None or value.under.keys() != {()}:
        return None
    names = {name for name in value.generators() if name.startswith(("s:", "x:", "f:"))}
    if len(names) != 1 or not (name := next(iter(names))).startswith("s:"):
        return None
    with_name = [(monomial, each) for monomial, each in value.over.items() if any(part == name for part, _ in monomial)]
    if len(with_name) != 1 or with_name[0][0] != ((name, Fraction(1)),):
        return None
    return name[2:], with_name[0][1] / value.under[()]
