"""What an answer can be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from megatron_sppo.rewards.math import ast
from megatron_sppo.rewards.math.ast import INFINITY, Node, negate, symbols
from megatron_sppo.rewards.math.bounds import Unreadable
from megatron_sppo.rewards.math.reals import Interval, Reals


@dataclass(frozen=True)
class Scalar:
    node: Node
    unit: str = ""


@dataclass(frozen=True)
class Ordered:
    brackets: str
    items: tuple[Meaning, ...]


@dataclass(frozen=True)
class Unordered:
    items: tuple[Meaning, ...]
    is_set: bool = False


@dataclass(frozen=True)
class Assigned:
    """``x = 5``: the name may be left out."""

    name: Node
    value: Meaning


@dataclass(frozen=True)
class Equation:
    difference: Node


@dataclass(frozen=True)
class Inequality:
    """``difference > 0`` or ``>= 0`` in more than one variable."""

    difference: Node
    strict: bool


@dataclass(frozen=True)
class Matrix:
    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Based:
    text: str


Meaning: TypeAlias = Scalar | Ordered | Unordered | Reals | Assigned | Equation | Inequality | Matrix | Based


def is_name(node: Node) -> bool:
    """Something that an answer may be called: x, f(x), (x, y)."""
    if node.kind == "sequence":
        return node.text == "()" and all(arg.kind == "symbol" for arg in node.args)
    return node.kind == "symbol" or (node.kind == "call" and node.text.startswith(("apply ", "derivative ")))


def is_quantity(node: Node) -> bool:
    """What an answer's value may be said to be of: x + y, mn, AB, |S|, [ABC]."""
    if (node.kind == "call" and node.text == "abs") or (node.kind == "sequence" and node.text == "[]"):
        (inner,) = node.args
        return (inner.kind == "symbol" or is_quantity(inner)) and all(name.isupper() for name in symbols(inner))
    terms = node.args if node.kind == "add" else (node,)
    factors = [
        factor
        for term in terms
        for factor in (term.args if term.kind == "multiply" else (term,))
        if not (term.kind == "multiply" and factor == ast.MINUS_ONE)
    ]
    return len(factors) > 1 and len(symbols(node)) == len(factors) and all(factor.kind == "symbol" for factor in factors)


def with_unit(meaning: Meaning, unit: str) -> Meaning:
    if isinstance(meaning, Scalar):
        return replace(meaning, unit=unit)
    if isinstance(meaning, Unordered | Ordered):
        return replace(meaning, items=tuple(with_unit(item, unit) for item in meaning.items))
    return meaning


def as_reals(meaning: Meaning) -> Reals:
    """Of an interval or a finite set."""
    if isinstance(meaning, Reals):
        return meaning
    if isinstance(meaning, Ordered) and len(meaning.items) == 2:
        low, high = meaning.items
        if isinstance(low, Scalar) and isinstance(high, Scalar):
            closed_low = meaning.brackets[0] == "[" and low.node != negate(INFINITY)
            closed_high = meaning.brackets[1] == "]" and high.node != INFINITY
            return Reals((Interval(low.node, closed_low, high.node, closed_high),))
    if isinstance(meaning, Unordered) and meaning.is_set and all(isinstance(item, Scalar) for item in meaning.items):
        return Reals(tuple(Interval(item.node, True, item.node, True) for item in meaning.items if isinstance(item, Scalar)))
    raise Unreadable("no set of reals")
