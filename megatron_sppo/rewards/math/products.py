"""Products and quotients of trees."""

from __future__ import annotations

from megatron_sppo.rewards.math.ast import Node, call, invert, number


def product_of(factors: list[Node]) -> Node:
    return factors[0] if len(factors) == 1 else Node("multiply", tuple(grouped(factor) for factor in factors))


def grouped(node: Node) -> Node:
    """``[a]`` within an expression is a group; alone it is a list of one."""
    return node.args[0] if node.kind == "sequence" and node.text == "[]" and len(node.args) == 1 else node


def quotient(over: Node, under: Node) -> Node:
    """``over / under``; ``dy/dx`` is the derivative, one symbol, not y/x."""
    over, under = grouped(over), grouped(under)
    if over.kind == under.kind == "number" and under.value:
        return number(over.value / under.value)
    head, variable = differential(over), differential(under)
    if variable is not None and variable[1] and (head is not None or over.text in {"d", "partial"}):
        name, tail = head or (over, ())
        return call(f"derivative {over.text or ''}", name, *tail, *variable[1])
    return Node("multiply", (over, invert(under)))


def differential(node: Node) -> tuple[Node, tuple[Node, ...]] | None:
    """``d x`` or ``d^2 x`` as (its d, the rest)."""
    if node.kind != "multiply":
        return None
    head, *rest = node.args
    d = head.args[0] if head.kind == "power" else head
    return (head, tuple(rest)) if d.kind == "symbol" and d.text in {"d", "partial"} else None
