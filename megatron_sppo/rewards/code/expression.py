"""The part of an assert that the parent computes: a small expression language over values from the sandbox.

``assert abs(f(3) - 1.5) < 1e-6`` is split: the sandbox evaluates ``f(3)``, and never learns of the rest; we evaluate
``abs(<value> - 1.5) < 1e-6``. Only the node types and functions below exist here, all linear in the size of the values.
"""

from __future__ import annotations

import ast
import builtins
import math
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from megatron_sppo.rewards.code.faults import Inseparable
from megatron_sppo.rewards.code.values import guarded_set

HOLE = "hole "  # a name that no source text can contain
MAX_BITS = 1 << 16
MAX_DIGITS = 400


def _sum(values: Sequence[Any], start: Any = 0) -> Any:
    """Of numbers: a sum of lists takes quadratic time."""
    if not all(isinstance(value, (int, float)) for value in (*values, start)):
        raise TypeError("only numbers")
    return sum(values, start)


def _round(value: Any, ndigits: Any = None) -> Any:
    if ndigits is not None and abs(ndigits) > MAX_DIGITS:
        raise OverflowError("too many digits")
    return round(value, ndigits)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{function.__name__: function for function in (abs, len, sorted, min, max, list, tuple, all, any, bool, int, float)},
    "sum": _sum,
    "round": _round,
    "set": guarded_set,
    "frozenset": guarded_set,
    "math.isclose": math.isclose,
    "math.isnan": math.isnan,
    "math.isinf": math.isinf,
    "math.sqrt": math.sqrt,
    "math.fabs": math.fabs,
}
COLLECTIONS: dict[type, Callable[[Any], Any]] = {ast.List: list, ast.Tuple: tuple, ast.Set: guarded_set}
CONSTANTS = {"math.pi": math.pi, "math.e": math.e, "math.inf": math.inf}
KEYWORDS = frozenset(("rel_tol", "abs_tol", "reverse", "ndigits"))
BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip
UNARY: dict[type, Callable[[Any], Any]] = {ast.Not: operator.not_, ast.USub: operator.neg, ast.UAdd: operator.pos}
COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.In: lambda one, other: one in other, ast.NotIn: lambda one, other: one not in other,
}  # fmt: skip


class Splitter(ast.NodeTransformer):
    """Takes what only the program can evaluate out of an expression; ``holes`` are those parts as source.

    ``constants`` are the literals that the tests have names for, ``imported`` the names of modules and their members. A call
    of anything imported or built in that is not in our table is not the program's business: such a test is inseparable.
    """

    def __init__(self, constants: Mapping[str, ast.expr], imported: Collection[str]) -> None:
        self.constants, self.imported, self.holes = constants, imported, []  # type: ignore[var-annotated]

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, (ast.Call, ast.Name, ast.Attribute, ast.Subscript)):
            return self._named(node)
        if not isinstance(node, PURE):
            raise Inseparable(type(node).__name__)
        return self.generic_visit(node)

    def _named(self, node: ast.Call | ast.Name | ast.Attribute | ast.Subscript) -> ast.expr:
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            return ast.Subscript(self.visit(node.value), node.slice, node.ctx)
        if isinstance(node, ast.Call) and dotted(node.func) in FUNCTIONS:
            if not all(keyword.arg in KEYWORDS for keyword in node.keywords):
                raise Inseparable("keyword")
            keywords = [ast.keyword(keyword.arg, self.visit(keyword.value)) for keyword in node.keywords]
            return ast.Call(node.func, [self.visit(argument) for argument in node.args], keywords)
        if dotted(node) in CONSTANTS:
            return ast.Constant(CONSTANTS[dotted(node)])
        if isinstance(node, ast.Name) and node.id in self.constants:
            return self.constants[node.id]
        return self._hole(node)

    def _hole(self, node: ast.expr) -> ast.expr:
        root = node
        while isinstance(root, (ast.Call, ast.Attribute, ast.Subscript)):
            root = root.func if isinstance(root, ast.Call) else root.value
        if not isinstance(root, ast.Name) or root.id in self.imported or hasattr(builtins, root.id) or root.id in self.constants:
            raise Inseparable(ast.unparse(root)[:80])
        self.holes.append(ast.unparse(_Substitute(self.constants).visit(node)))
        return ast.Name(f"{HOLE}{len(self.holes) - 1}", ast.Load())


PURE = (
    ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.Load,
    ast.boolop, *BINARY, *UNARY, *COMPARE,
)  # fmt: skip


class _Substitute(ast.NodeTransformer):
    def __init__(self, constants: Mapping[str, ast.expr]) -> None:
        self.constants = constants

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.constants.get(node.id, node)


def dotted(node: ast.expr) -> str:
    """``math.isclose`` of such a node; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return ""


def evaluate(node: ast.expr, holes: Sequence[Any]) -> Any:
    """The value of what :class:`Splitter` has left, with the sandbox's values in its holes. Raises what Python would."""
    value: Any
    match node:
        case ast.Constant():
            value = node.value
        case ast.Name():
            value = holes[int(node.id.removeprefix(HOLE))]
        case ast.List() | ast.Tuple() | ast.Set():
            value = COLLECTIONS[type(node)]([evaluate(item, holes) for item in node.elts])
        case ast.Dict():
            value = {
                evaluate(key, holes): evaluate(value, holes)
                for key, value in zip(node.keys, node.values, strict=True)
                if key is not None
            }
        case ast.Subscript():
            value = evaluate(node.value, holes)[evaluate(node.slice, holes)]
        case ast.Call():
            arguments = [evaluate(argument, holes) for argument in node.args]
            value = FUNCTIONS[dotted(node.func)](*arguments, **{k.arg or "": evaluate(k.value, holes) for k in node.keywords})
        case _:
            value = _operation(node, holes)
    return value


def _operation(node: ast.expr, holes: Sequence[Any]) -> Any:
    match node:
        case ast.UnaryOp():
            return UNARY[type(node.op)](evaluate(node.operand, holes))
        case ast.BinOp():
            return _binary(node.op, evaluate(node.left, holes), evaluate(node.right, holes))
        case ast.BoolOp():
            values = (evaluate(value, holes) for value in node.values)
            return all(values) if isinstance(node.op, ast.And) else any(values)
        case ast.Compare():
            operands = [evaluate(operand, holes) for operand in (node.left, *node.comparators)]
            steps = zip(node.ops, operands, operands[1:], strict=False)
            return all(COMPARE[type(step)](one, other) for step, one, other in steps)
    raise Inseparable(type(node).__name__)


def _binary(kind: ast.operator, one: Any, other: Any) -> Any:
    """Bounded: nothing large out of something small, no long division."""
    if not isinstance(kind, (ast.Add, ast.Sub)):
        if not all(isinstance(value, (int, float)) for value in (one, other)):
            raise TypeError("only numbers")
        bits = [value.bit_length() if isinstance(value, int) else 64 for value in (one, other)]
        if (isinstance(kind, ast.Pow) and (bits[1] > 16 or bits[0] * abs(other) > MAX_BITS)) or sum(bits) > MAX_BITS:
            raise OverflowError("too large")
    return BINARY[type(kind)](one, other)
