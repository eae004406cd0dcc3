"""The syntax tree: our own, frozen, bounded in depth and size, and writable as JSON for the workers.

kinds
    number (text "n/d")   symbol (name)   constant (pi, e, i, infinity)
    add, multiply (args)  power (base, exponent)   root (radicand, index)   call (name; args)   degrees (arg)
    sign ("+-" or "-+"; arg)   sequence (brackets such as "(]", "{}", "" for a bare list; items)   matrix (rows of sequences)
    relation (operators joined by spaces; operands)   union, difference, intersection (args)   unit (unit; arg)
    based (digits, "_", base)   reals, integers, empty
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any


@dataclass(frozen=True, slots=True)
class Node:
    kind: str
    args: tuple[Node, ...] = ()
    text: str = ""

    def walk(self) -> Iterator[Node]:
        yield self
        for arg in self.args:
            yield from arg.walk()

    @property
    def value(self) -> Fraction:
        """Of a number node."""
        return Fraction(self.text)


def number(value: Fraction | int) -> Node:
    return Node("number", text=str(Fraction(value)))


MINUS_ONE = number(-1)
ONE = number(1)
INFINITY = Node("constant", text="infinity")


def negate(node: Node) -> Node:
    if node.kind == "number":
        return number(-node.value)
    return Node("multiply", (MINUS_ONE, node))


def invert(node: Node) -> Node:
    return Node("power", (node, MINUS_ONE))


def call(name: str, *args: Node) -> Node:
    return Node("call", args, name)


def depth(node: Node) -> int:
    """Levels of the tree, without recursion: a chain of quotients may be deeper than the stack allows."""
    levels, level = 0, [node]
    while level:
        levels, level = levels + 1, [arg for each in level for arg in each.args]
    return levels


def symbols(node: Node) -> frozenset[str]:
    return frozenset(each.text for each in node.walk() if each.kind == "symbol")


def has_kind(node: Node, kinds: Iterable[str]) -> bool:
    wanted = frozenset(kinds)
    return any(each.kind in wanted for each in node.walk())


def to_json(node: Node) -> list[Any]:
    return [node.kind, node.text, [to_json(arg) for arg in node.args]]


def from_json(data: list[Any]) -> Node:
    kind, text, args = data
    return Node(kind, tuple(from_json(arg) for arg in args), text)
