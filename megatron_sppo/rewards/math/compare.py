"""Whether two answers mean the same: one rule for each pair of kinds, and every other pair is different."""

from __future__ import annotations

from collections.abc import Sequence

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
    is_quantity,
)
from megatron_sppo.rewards.math.ast import Node
from megatron_sppo.rewards.math.bounds import Unreadable
from megatron_sppo.rewards.math.judge import Judge
from megatron_sppo.rewards.math.reals import Reals
from megatron_sppo.rewards.math.units import agree


def same(gold: Meaning, answer: Meaning, judge: Judge) -> bool:
    if isinstance(gold, Assigned) or isinstance(answer, Assigned):
        return _same_assigned(gold, answer, judge)
    if isinstance(gold, Reals) or isinstance(answer, Reals):
        try:
            return as_reals(gold).same(as_reals(answer), judge)
        except Unreadable:
            return False
    if isinstance(gold, Unordered) or isinstance(answer, Unordered):
        pair = (gold, answer)
        if any(isinstance(each, Ordered) and each.brackets == "()" for each in pair) and any(
            isinstance(each, Unordered) and _names_differ(each.items) for each in pair
        ):
            items = [each.items for each in pair if isinstance(each, Unordered | Ordered)]
            return _pairwise(items[0], items[1], judge)
        return _same_unordered(gold, answer, judge)
    return _same_kind(gold, answer, judge)


def _same_kind(gold: Meaning, answer: Meaning, judge: Judge) -> bool:
    if isinstance(gold, Scalar) and isinstance(answer, Scalar):
        return agree(gold.unit, answer.unit) and judge.equal(gold.node, answer.node)
    if isinstance(gold, Ordered) and isinstance(answer, Ordered):
        return gold.brackets == answer.brackets and _pairwise(gold.items, answer.items, judge)
    if isinstance(gold, Equation) and isinstance(answer, Equation):
        return judge.proportional(gold.difference, answer.difference)
    if isinstance(gold, Inequality) and isinstance(answer, Inequality):
        return gold.strict == answer.strict and judge.proportional(gold.difference, answer.difference, positive=True)
    if isinstance(gold, Matrix) and isinstance(answer, Matrix):
        return _same_matrix(gold, answer, judge)
    return isinstance(gold, Based) and gold == answer


def _pairwise(gold: Sequence[Meaning], answer: Sequence[Meaning], judge: Judge) -> bool:
    return len(gold) == len(answer) and all(same(one, other, judge) for one, other in zip(gold, answer, strict=True))


def _same_matrix(gold: Matrix, answer: Matrix, judge: Judge) -> bool:
    shapes = [[len(row) for row in matrix.rows] for matrix in (gold, answer)]
    return shapes[0] == shapes[1] and all(
        judge.equal(one, other)
        for row, other_row in zip(gold.rows, answer.rows, strict=True)
        for one, other in zip(row, other_row, strict=True)
    )


def _same_assigned(gold: Meaning, answer: Meaning, judge: Judge) -> bool:
    """The name may be missing on one side; two different names are two different statements."""
    if isinstance(gold, Assigned) and isinstance(answer, Assigned):
        if gold.name == answer.name:
            return same(gold.value, answer.value, judge)
        if not (is_quantity(gold.name) or is_quantity(answer.name)):
            return _called_alike(gold.name, answer.name) and same(gold.value, answer.value, judge)
        one, other = (_difference(each) for each in (gold, answer))  # x + y = 5, y + x = 5 and y = 5 - x
        return one is not None and other is not None and judge.proportional(one, other)
    if isinstance(gold, Assigned) and is_quantity(gold.name) and not isinstance(answer, Equation):
        return False  # x + y = 5 may be a line: 5 alone is not
    if isinstance(gold, Equation) or isinstance(answer, Equation):
        one, other = (_difference(each) for each in (gold, answer))
        return one is not None and other is not None and judge.proportional(one, other)
    gold_value = gold.value if isinstance(gold, Assigned) else gold
    answer_value = answer.value if isinstance(answer, Assigned) else answer
    return same(gold_value, answer_value, judge)


def _called_alike(one: Node, other: Node) -> bool:
    r"""``y = ...``, ``f(x) = ...`` and ``\text{Area} = ...`` may name the same value; x = 5 and y = 5 do not."""
    return one.kind != other.kind or "text " in one.text + other.text


def _difference(meaning: Meaning) -> Node | None:
    if isinstance(meaning, Equation):
        return meaning.difference
    if isinstance(meaning, Assigned) and isinstance(meaning.value, Scalar):
        return Node("add", (meaning.name, Node("multiply", (Node("number", text="-1"), meaning.value.node))))
    return None


def _same_unordered(gold: Meaning, answer: Meaning, judge: Judge) -> bool:
    """Lists as multisets, sets as sets; one element alone is a list of one."""
    wanted = gold.items if isinstance(gold, Unordered) else (gold,)
    found = answer.items if isinstance(answer, Unordered) else (answer,)
    if any(isinstance(each, Unordered) and each.is_set for each in (gold, answer)):
        wanted, found = _distinct(wanted, judge), _distinct(found, judge)
    if len(wanted) != len(found):
        return False
    if _names_differ(wanted) != _names_differ(found):  # x = 1, y = 2 and a bare 1, 2: the order says which is which
        return _pairwise(wanted, found, judge)
    left = list(found)
    for item in wanted:
        match = next((index for index, each in enumerate(left) if same(item, each, judge)), None)
        if match is None:
            return False
        del left[match]
    return True


def _names_differ(items: Sequence[Meaning]) -> bool:
    names = {item.name for item in items if isinstance(item, Assigned)}
    return len(names) == len(items) > 1


def _distinct(items: Sequence[Meaning], judge: Judge) -> tuple[Meaning, ...]:
    kept: list[Meaning] = []
    for item in items:
        if not any(same(item, each, judge) for each in kept):
            kept.append(item)
    return tuple(kept)
