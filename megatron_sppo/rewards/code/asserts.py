"""Tests that are asserts (MBPP, HumanEval, HumanEval+), taken apart so that the program never sees what is expected of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from megatron_sppo.rewards.code.expression import Splitter
from megatron_sppo.rewards.code.faults import BadTests, Inseparable

MAX_CHARACTERS = 4 << 20
FLOAT_TOLERANCE = 1e-6  # of HumanEval+ where it expects floats


@dataclass(frozen=True)
class Separated:
    """``holes`` are evaluated in the sandbox, ``template`` here, with their values."""

    holes: tuple[str, ...]
    template: ast.expr


@dataclass(frozen=True)
class CallTable:
    """HumanEval+'s loop over ``inputs`` and ``results``: literals, as source of the call and as value of the result."""

    calls: tuple[str, ...]
    expected: tuple[object, ...]
    tolerance: float | None


@dataclass(frozen=True)
class AssertTests:
    """``setup`` (imports) runs in the sandbox before anything else. ``whole`` is code that could not be taken apart."""

    setup: str
    checks: tuple[Separated | CallTable, ...] = ()
    whole: str = ""


@dataclass
class _Reading:
    entry: str
    imports: dict[str, str] = field(default_factory=dict)  # name: statement
    constants: dict[str, ast.expr] = field(default_factory=dict)
    checks: list[Separated | CallTable] = field(default_factory=list)

    def read(self, statements: Iterable[ast.stmt]) -> None:
        for statement in statements:
            self._read_one(statement)

    def _read_one(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Import() | ast.ImportFrom():
                names = [(alias.asname or alias.name).partition(".")[0] for alias in statement.names]
                self.imports |= dict.fromkeys(names, ast.unparse(statement))
            case ast.Assign(targets=[ast.Name() as name]):
                _literal(statement.value)
                self.constants[name.id] = statement.value
            case ast.Assert():
                splitter = Splitter(self.constants, self.imports)
                template = splitter.visit(_renamed(statement.test, self.entry))
                if not splitter.holes:
                    raise Inseparable("asks nothing of the program")
                self.checks.append(Separated(tuple(splitter.holes), template))
            case ast.For():
                self.checks.append(self._call_table(statement))
            case ast.Expr(value=ast.Constant()) | ast.Pass():
                pass
            case _:
                raise Inseparable(type(statement).__name__)

    def setup(self) -> str:
        """The imports that a call in the sandbox needs: tests often import what only their own comparison uses."""
        holes = [hole for check in self.checks if isinstance(check, Separated) for hole in check.holes]
        needed = {name for hole in holes for name in re.findall(r"\w+", hole)}
        return "\n".join(dict.fromkeys(source for name, source in self.imports.items() if name in needed or name == "*"))

    def _call_table(self, loop: ast.For) -> CallTable:
        """``for i, (inp, exp) in enumerate(zip(inputs, results)): assertion(candidate(*inp), exp, atol)``."""
        if ast.unparse(loop.iter) != "enumerate(zip(inputs, results))" or ast.unparse(loop.target) != "(i, (inp, exp))":
            raise Inseparable("a loop")
        match loop.body:
            case [
                ast.Expr(value=ast.Call(func=ast.Name(id="assertion"), args=[call, ast.Name(id="exp"), ast.Constant(value=atol)]))
            ]:
                pass
            case _:
                raise Inseparable("a loop")
        if ast.unparse(call) != "candidate(*inp)" or isinstance(atol, bool) or not isinstance(atol, (int, float)):
            raise Inseparable("a loop")
        inputs, results = (_literal(self.constants[name]) for name in ("inputs", "results") if name in self.constants)
        if not (isinstance(inputs, list) and isinstance(results, list) and len(inputs) == len(results) > 0):
            raise BadTests("inputs and results differ in length")
        calls = tuple(f"{self.entry}({', '.join(map(repr, arguments))})" for arguments in inputs)
        return CallTable(calls, tuple(results), float(atol) or (FLOAT_TOLERANCE if _floats(results) else None))


def read_asserts(statements: Sequence[str], setup: str) -> AssertTests:
    """A list of asserts and the imports that they need; :class:`BadTests` where it is no Python."""
    code = "\n".join([setup, *statements])
    return _taken_apart(code, _parsed(code).body, entry="")


def read_test_code(code: str, entry: str) -> AssertTests:
    """Asserts at top level, or in `check(candidate)`, where ``entry`` names the program's function."""
    module = _parsed(code)
    checks = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    if checks and not entry.isidentifier():
        raise BadTests("check(candidate) without an entry_point")
    called = f"{code}\n\ncheck({entry})\n" if checks else code
    others = [node for node in module.body if node not in checks and not _is_check_call(node)]
    loops = any(isinstance(node, ast.For) for check in checks for node in check.body)
    if loops:  # HumanEval+ brings its own comparison, which the table replaces
        others = [node for node in others if not (isinstance(node, ast.FunctionDef) and node.name in ("assertion", "is_floats"))]
    body = [statement for check in checks for statement in check.body]
    return _taken_apart(called, [*others, *body], entry)


def _taken_apart(code: str, statements: Sequence[ast.stmt], entry: str) -> AssertTests:
    reading = _Reading(entry)
    try:
        reading.read(statements)
    except Inseparable:
        return AssertTests("", whole=code)
    except (RecursionError, MemoryError) as error:
        raise BadTests("too deep") from error
    if not reading.checks:
        raise BadTests("no assert")
    return AssertTests(reading.setup(), tuple(reading.checks))


def _parsed(code: str) -> ast.Module:
    if len(code) > MAX_CHARACTERS:
        raise BadTests("too long")
    try:
        module = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadTests("not Python") from error
    if not any(isinstance(node, ast.Assert) or _is_check_call(node) or isinstance(node, ast.For) for node in ast.walk(module)):
        raise BadTests("no assert")
    return module


def _renamed(test: ast.expr, entry: str) -> ast.expr:
    """`candidate` is what `check` is called with."""
    for node in ast.walk(test):
        if entry and isinstance(node, ast.Name) and node.id == "candidate":
            node.id = entry
    return test


def _is_check_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "check"


def _literal(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise Inseparable("no literal") from error


def _floats(results: Sequence[object]) -> bool:
    first = results[0]
    return isinstance(first, float) or (isinstance(first, (list, tuple)) and bool(first) and isinstance(first[0], float))
