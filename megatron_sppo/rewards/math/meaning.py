"""The way from a tree to what it means as an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product

from megatron_sppo.rewards.math import ast
from megatron_sppo.rewards.math.answers import (
    Assigned,
    Based,
    Equation,
    Inequality,
    Matrix,
    Meaning,
    Ordered,
    Scalar,
    Unordered,
    as_reals,
    is_name,
    is_quantity,
    with_unit,
)
from megatron_sppo.rewards.math.ast import INFINITY, Node, has_kind, negate, symbols
from megatron_sppo.rewards.math.bounds import MAX_ITEMS, MAX_SIGN_BRANCHES, Unreadable
from megatron_sppo.rewards.math.judge import Judge
from megatron_sppo.rewards.math.reals import EVERYTHING, Interval, Reals, from_absolute, from_inequality

SCALARS = frozenset({"number", "symbol", "constant", "add", "multiply", "power", "root", "call", "degrees"})


class Interpreter:
    """Raises Unreadable where a tree has no meaning as an answer."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def meaning(self, node: Node) -> Meaning:  # noqa: PLR0911  (one line for each kind)
        if node.kind in {"relation", "sequence", "union", "difference", "intersection", "matrix", "based", "unit"}:
            found: Meaning = getattr(self, f"_{node.kind}")(node)
            return found
        if node.kind == "reals":
            return EVERYTHING
        if has_kind(node, ["sign"]):
            return Unordered(tuple(self.meaning(branch) for branch in branches(node)))
        if node.kind == "multiply" and sum(arg.kind == "matrix" for arg in node.args) == 1:
            return self._scaled_matrix(node)
        if node.kind == "multiply" and len(node.args) == 2 and node.args[0] == ast.MINUS_ONE and node.args[1].kind == "degrees":
            return Scalar(negate(node.args[1].args[0]), "degree^1")
        if node.kind == "degrees":
            return Scalar(node.args[0], "degree^1")
        if node.kind not in SCALARS or any(each.kind not in SCALARS for each in node.walk()):
            raise Unreadable(f"a {node.kind} has no value")
        return Scalar(node)

    # --- lists, tuples, matrices -----------------------------------------------------------------------------------------

    def _sequence(self, node: Node) -> Meaning:
        brackets = node.text
        if brackets == "{}":
            return Unordered(self._flat(node.args), is_set=True)
        if brackets and brackets[0] in "([:":
            if any(has_kind(arg, ["sign"]) for arg in node.args):
                return Unordered(tuple(self.meaning(branch) for branch in branches(node)))
            return Ordered(brackets, tuple(self.meaning(arg) for arg in node.args))
        return self._list(self._flat(node.args), frozenset(brackets.split()))

    def _flat(self, nodes: Sequence[Node]) -> tuple[Meaning, ...]:
        items: list[Meaning] = []
        for node in nodes:
            found = self.meaning(node)
            items += found.items if isinstance(found, Unordered) and not found.is_set else [found]
        if len(items) > MAX_ITEMS:
            raise Unreadable("too many items")
        return tuple(items)

    def _list(self, items: tuple[Meaning, ...], words: frozenset[str]) -> Meaning:
        """A bare list: roots of one unknown lose its name; inequalities become one set of reals."""
        if all(isinstance(item, Reals) for item in items):
            sets = [item for item in items if isinstance(item, Reals)]
            common = sets[0]
            for each in sets[1:]:
                common = common.intersect(each, self.judge)
            if "and" in words or (common.intervals and "or" not in words):
                return common
            return Reals(tuple(interval for each in sets for interval in each.intervals)).normal(self.judge)
        first = items[0]
        if isinstance(first, Assigned):
            rest = [item.value if isinstance(item, Assigned) and item.name == first.name else item for item in items[1:]]
            if all(isinstance(item, Scalar) for item in [first.value, *rest]):
                return Assigned(first.name, Unordered((first.value, *rest), "or" in words))
        return Unordered(items, "or" in words)

    def _matrix(self, node: Node) -> Matrix:
        return Matrix(tuple(row.args for row in node.args))

    def _scaled_matrix(self, node: Node) -> Matrix:
        factors = tuple(arg for arg in node.args if arg.kind != "matrix")
        inner = next(arg for arg in node.args if arg.kind == "matrix")
        return Matrix(tuple(tuple(Node("multiply", (*factors, cell)) for cell in row.args) for row in inner.args))

    def _based(self, node: Node) -> Meaning:
        digits, _, base = node.text.partition("_")
        if base == "10" and digits.lstrip("-").isdigit():
            return Scalar(ast.number(int(digits)))
        return Based(node.text)

    def _unit(self, node: Node) -> Meaning:
        return with_unit(self.meaning(node.args[0]), node.text)

    # --- sets of reals ---------------------------------------------------------------------------------------------------

    def _union(self, node: Node) -> Meaning:
        parts = [self.meaning(arg) for arg in node.args]
        if all(isinstance(part, Unordered) for part in parts):
            return Unordered(tuple(item for part in parts if isinstance(part, Unordered) for item in part.items), is_set=True)
        return Reals(tuple(interval for part in parts for interval in as_reals(part).intervals)).normal(self.judge)

    def _intersection(self, node: Node) -> Meaning:
        one, other = (as_reals(self.meaning(arg)) for arg in node.args)
        return one.intersect(other, self.judge)

    def _difference(self, node: Node) -> Meaning:
        whole, points = (self.meaning(arg) for arg in node.args)
        if not isinstance(points, Unordered) or not all(isinstance(item, Scalar) for item in points.items):
            raise Unreadable("a difference of other sets")
        return as_reals(whole).without([item.node for item in points.items if isinstance(item, Scalar)], self.judge)

    # --- relations -------------------------------------------------------------------------------------------------------

    def _relation(self, node: Node) -> Meaning:
        operators, operands = node.text.split(), list(node.args)
        if "~" in operators:  # what is written before it is exact, after a mere name it is all there is
            cut = operators.index("~")
            if cut == 0 and is_name(operands[0]) and len(operands) == 2:
                return Assigned(operands[0], self.meaning(operands[1]))
            operators, operands = operators[:cut], operands[: cut + 1]
            if not operators:
                return self.meaning(operands[0])
        if operators == ["in"]:
            if not is_name(operands[0]):
                raise Unreadable("membership of an expression")
            inner = self.meaning(operands[1])
            return as_reals(inner) if isinstance(inner, Ordered) and len(inner.items) == 2 else inner
        if set(operators) == {"="}:
            return self._equation(operands)
        if set(operators) <= {"<", "<=", ">", ">=", "!="}:
            return self._inequality(operators, operands)
        raise Unreadable("a relation of another form")

    def _equation(self, operands: list[Node]) -> Meaning:
        first, last = operands[0], operands[-1]
        if len(operands) == 2 and is_name(last) and not symbols(first) and first.kind in SCALARS:
            first, last = last, first
        if is_name(first) and (first.kind == "call" or not symbols(first) & symbols(last)):
            self._require_agreement(operands[1:])
            return Assigned(first, self.meaning(last))
        if is_quantity(first) and not symbols(last):
            self._require_agreement(operands[1:])
            return Assigned(first, self.meaning(last))
        if not any(symbols(each) for each in operands):
            self._require_agreement(operands)
            return self.meaning(last)
        if len(operands) != 2 or has_kind(Node("add", (first, last)), ["sign", "sequence", "unit"]):
            raise Unreadable("an equation of another form")
        return Equation(Node("add", (first, negate(last))))

    def _require_agreement(self, operands: list[Node]) -> None:
        """``2 + 3 = 5`` means 5; ``2 + 2 = 5`` means nothing."""
        constants = [each.args[0] if each.kind == "unit" else each for each in operands if not symbols(each)]
        if len(constants) > 1 and any(has_kind(each, ["sign", "sequence"]) for each in constants):
            raise Unreadable("an equation of another form")
        if not all(self.judge.equal(one, other) for one, other in pairwise(constants)):
            raise Unreadable("a false equation")

    def _inequality(self, operators: list[str], operands: list[Node]) -> Meaning:
        if len(operands) == 3 and operands[1].kind == "symbol" and (between := self._between(operators, operands)) is not None:
            return between
        found: Meaning | None = None
        for left, operator, right in zip(operands, operators, operands[1:], strict=False):
            if has_kind(Node("add", (left, right)), ["sequence", "sign", "unit"]):
                raise Unreadable("an inequality of another form")
            part = from_absolute(left, operator, right, self.judge)
            part = part or from_inequality(left, operator, right, self.judge)
            if part is None:
                if len(operators) > 1 or operator == "!=":
                    raise Unreadable("an inequality of another form")
                greater, less = (left, right) if operator.startswith(">") else (right, left)
                return Inequality(Node("add", (greater, negate(less))), strict="=" not in operator)
            found = part if not isinstance(found, Reals) else found.intersect(part, self.judge)
        assert found is not None
        return found

    def _between(self, operators: list[str], operands: list[Node]) -> Reals | None:
        """``a < x <= b``, whatever a and b are."""
        low, name, high = operands
        if operators[0][0] != operators[1][0] or "!=" in operators or name.text in symbols(low) | symbols(high):
            return None
        if any(each.kind not in SCALARS or has_kind(each, ["sequence", "sign", "unit"]) for each in (low, high)):
            return None
        closed_low, closed_high = ("=" in operator for operator in operators)
        if operators[0].startswith(">"):
            low, high, closed_low, closed_high = high, low, closed_high, closed_low
        closed_low, closed_high = closed_low and low != negate(INFINITY), closed_high and high != INFINITY
        return Reals((Interval(low, closed_low, high, closed_high),))


def branches(node: Node) -> list[Node]:
    """The trees that plus-minus signs stand for. With a minus-plus they go together, otherwise each is free."""
    signs = [each.text for each in node.walk() if each.kind == "sign"]
    count = len(signs)
    if 2**count > MAX_SIGN_BRANCHES:
        raise Unreadable("too many signs")
    choices = [(True,) * count, (False,) * count] if "-+" in signs else list(product((True, False), repeat=count))
    return [_choose(node, iter(choice)) for choice in choices]


def _choose(node: Node, upper: object) -> Node:
    """Signs in the order of ``walk``."""
    iterator = upper
    if node.kind == "sign":
        positive = next(iterator) == (node.text == "+-")  # type: ignore[call-overload]
        inner = _choose(node.args[0], iterator)
        return inner if positive else negate(inner)
    return replace(node, args=tuple(_choose(arg, iterator) for arg in node.args))
