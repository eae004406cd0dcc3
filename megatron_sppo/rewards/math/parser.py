r"""Tokens to a tree: lists, relations, sets, brackets, units, matrices; what is inside an expression is ``arithmetic.py``'s."""

from __future__ import annotations

import re

from megatron_sppo.rewards.math.arithmetic import Arithmetic
from megatron_sppo.rewards.math.ast import Node, call, depth, number
from megatron_sppo.rewards.math.bounds import MAX_CHARACTERS, MAX_ITEMS, MAX_TREE_DEPTH, Unreadable
from megatron_sppo.rewards.math.characters import to_latex
from megatron_sppo.rewards.math.tokenizer import Reading, tokenize
from megatron_sppo.rewards.math.units import MULTIPLIERS, unit_of

RELATIONS = ("=", "<", ">", "<=", ">=", "!=", "~", "in")
CLOSINGS = {"(": (")", "]"), "[": ("]", ")"), "{set": ("set}",), "{": ("}",), "<(": (")>",)}
BRACKETS = {"<(": "(", ")>": ")", "{set": "{", "set}": "}"}
MATRICES = {"pmatrix", "bmatrix", "matrix", "Bmatrix", "array", "smallmatrix"}
NUMBER_SETS = {"R": "reals", "Z": "integers"}
BASE_NAMES = dict(
    zip(
        "two three four five six seven eight nine ten eleven twelve sixteen".split(),
        (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16),
        strict=True,
    )
)
BASED = re.compile(
    r"(?P<sign>-?)\s*(?:\\(?:text|mathrm)\s*\{)?\(?\s*(?P<digits>[0-9][0-9A-Za-z]*|[A-Fa-f][0-9A-Fa-f]*)\s*\)?\}?\s*_\s*\{?\s*"
    r"(?:\\(?:text|mathrm|textrm)\s*\{)?\s*\(?\s*(?:base\s*)?(?P<base>[0-9]{1,2}|[a-z]{3,7})\s*\)?\s*\}?\s*\}?"
)
COLUMNS = re.compile(r"(\\begin\s*\{array\})\s*\{[lcr| ]*\}")


def parse(text: str, reading: Reading) -> Node:
    """:class:`Unreadable` for anything outside the grammar or its bounds."""
    if len(text) > MAX_CHARACTERS:
        raise Unreadable("too long")
    text = text.strip().strip("$").strip().removesuffix("\\\\").rstrip()
    text = (
        text.removesuffix("\\").removesuffix(".").rstrip()
        if text.endswith((".", "\\")) and not text.endswith("\\right.")
        else text
    )
    based = BASED.fullmatch(to_latex(text))
    if based is not None and (base := _base(based["base"])) is not None and (base == 16 or based["digits"][0].isdigit()):
        return Node("based", text=f"{based['sign']}{based['digits'].upper().lstrip('0') or '0'}_{base}")
    parser = Parser(tokenize(COLUMNS.sub(r"\1", text), reading), reading)
    tree = parser.whole()
    if depth(tree) > MAX_TREE_DEPTH:
        raise Unreadable("too deep")
    return tree


def _base(text: str) -> int | None:
    base = BASE_NAMES.get(text, int(text) if text.isdecimal() else 0)
    return base if 2 <= base <= 36 else None


class Parser(Arithmetic):
    def whole(self) -> Node:
        node = self.items()
        if self.token.kind != "end":
            raise Unreadable(f"unexpected {self.token.text}")
        return node

    def items(self) -> Node:
        """Elements between commas, "or" and "and"; one alone stands for itself. The text holds the separators."""
        items, separators = [self.relation()], []
        while (separator := self.accept(",", "or", "and")) is not None:
            if separator == "," and self.at("or", "and"):
                separator = self.accept("or", "and") or separator
            items.append(self.relation())
            separators.append(separator)
            if len(items) > MAX_ITEMS:
                raise Unreadable("too many items")
        if not separators:
            return items[0]
        words = set(separators) - {","}
        return Node("sequence", tuple(items), " ".join(sorted(words)))

    def relation(self) -> Node:
        self.accept("~")  # in front, it says nothing about the value that follows
        operands, operators = [self.set_expression()], []
        while self.bars == 0 and self.accept(":"):
            operands.append(self.set_expression())
        if len(operands) > 1:
            return Node("sequence", tuple(operands), ":")  # a ratio, or a time
        while (operator := self.accept(*RELATIONS)) is not None:
            operators.append(operator)
            operands.append(self.set_expression())
        return operands[0] if not operators else Node("relation", tuple(operands), " ".join(operators))

    def set_expression(self) -> Node:
        node = self.measured()
        while (operator := self.accept("union", "cap", "setminus")) is not None:
            kind = {"union": "union", "cap": "intersection", "setminus": "difference"}[operator]
            node = Node(kind, (node, self.measured()))
        return node

    # --- units ---------------------------------------------------------------------------------------------------------

    def measured(self) -> Node:
        """A sum and what may stand around it: currency before, multiplier and unit after. Words in front name the value."""
        if self.token.kind == "text" and self.ahead(1).text in {"=", ":"}:
            self.position += 1
            return Node("symbol", text=f"text {self.tokens[self.position - 1].text.lower()}")
        sign = "-" if self.at("-") and self.ahead(1).kind == "currency" else ""
        self.position += bool(sign)
        currency = self.token.text if self.token.kind == "currency" else ""
        self.position += bool(currency)
        node = self.stacked()
        if sign:
            node = Node("multiply", (number(-1), node))
        if self.token.kind == "text" and self.token.text.lower() in MULTIPLIERS:
            node = Node("multiply", (node, number(MULTIPLIERS[self.token.text.lower()])))
            self.position += 1
        unit = self.unit()
        if currency and unit:
            raise Unreadable("two units")
        text = f"{currency}^1" if currency else unit
        return Node("unit", (node,), text) if text else node

    def unit(self) -> str:
        """The canonical unit that starts here, or nothing."""
        if self.accept("%"):
            return "percent^1"
        if self.token.kind == "currency":
            self.position += 1
            return f"{self.tokens[self.position - 1].text}^1"
        after_degrees = self.position > 0 and self.tokens[self.position - 1].text == "degrees"
        if after_degrees and self.token.text in {"C", "F"}:
            self.position += 1
            return f"{self.tokens[self.position - 1].text}^1"
        words: list[str] = []
        while self.token.kind == "text" or (words and self.at("^", "{", "}", "-", "*", "/")) or self.exponent_digit(words):
            words.append(self.token.text)
            self.position += 1
            if words[-1] == "}" and words.count("{") < words.count("}"):
                self.position -= 1
                words.pop()
                break
        if not words:
            return ""
        unit = unit_of(" ".join(words))
        if unit is None:
            raise Unreadable("words that are no unit")
        return unit

    def exponent_digit(self, words: list[str]) -> bool:
        return bool(words) and words[-1] in {"^", "{", "-"} and self.token.kind == "number" and len(self.token.text) == 1

    # --- brackets --------------------------------------------------------------------------------------------------------

    def bracketed(self) -> Node:
        token = self.token
        if token.kind == "op" and token.text in CLOSINGS:
            return self.sequence(token.text)
        if token.kind == "op" and token.text in {"|", "||"}:
            self.position += 1
            return self.absolute(token.text)
        if token.kind == "op" and token.text in {"lfloor", "lceil"}:
            self.position += 1
            node = self.sum()
            self.expect(token.text.replace("l", "r", 1))
            return call("floor" if token.text == "lfloor" else "ceil", node)
        if token.kind == "op" and token.text == "emptyset":
            self.position += 1
            return Node("sequence", (), "{}")
        if token.kind == "op" and token.text.startswith(("begin ", "mathbb ")):
            self.position += 1
            command, _, name = token.text.partition(" ")
            return self.matrix(name) if command == "begin" else self.number_set(name)
        raise Unreadable(f"unexpected {token.text or 'end'}")

    def number_set(self, name: str) -> Node:
        return Node(NUMBER_SETS[name]) if name in NUMBER_SETS else Node("symbol", text=f"mathbb {name}")

    def absolute(self, bar: str) -> Node:
        self.bars += 1
        node = self.sum()
        self.bars -= 1
        self.expect(bar)
        return call("abs", node)

    def sequence(self, opening: str) -> Node:
        """``(a)`` and ``{a}`` group, everything else is a tuple, an interval or a set."""
        self.enter()
        self.position += 1
        bars, self.bars = self.bars, (1 if opening == "{set" else 0)
        if self.accept(*CLOSINGS[opening]) is not None:
            if opening == "{set":
                self.bars, self.depth = bars, self.depth - 1
                return Node("sequence", (), "{}")
            raise Unreadable("empty brackets")
        node = self.items()
        if opening == "{set" and self.accept("|", ":"):
            node = self.items()  # {x | condition}: the condition says it all
            if node.kind != "relation":
                raise Unreadable("a set of another form")
            self.expect("set}")
            self.bars, self.depth = bars, self.depth - 1
            return node
        closing = self.accept(*CLOSINGS[opening])
        if closing is None:
            raise Unreadable(f"{opening} does not end")
        self.bars, self.depth = bars, self.depth - 1
        if node.kind == "matrix":
            return node
        several = node.kind == "sequence" and node.text in {"", "and", "or"}
        if not several and (opening == "{" or (opening == "(" and closing == ")")):
            return node
        brackets = BRACKETS.get(opening, opening) + BRACKETS.get(closing, closing)
        return Node("sequence", node.args if several else (node,), brackets)

    def matrix(self, name: str) -> Node:
        if name not in MATRICES:
            raise Unreadable(f"environment {name}")
        self.enter()
        rows, cells = [], [self.sum()]
        while not self.accept(f"end {name}"):
            if self.accept("&"):
                cells.append(self.sum())
            else:
                self.expect("\\\\")
                rows.append(Node("sequence", tuple(cells), "row"))
                if self.accept(f"end {name}"):
                    cells = []
                    break
                cells = [self.sum()]
            if len(rows) * len(cells) > MAX_ITEMS:
                raise Unreadable("too many cells")
        self.depth -= 1
        rows += [Node("sequence", tuple(cells), "row")] if cells else []
        if len({len(row.args) for row in rows}) != 1:
            raise Unreadable("rows of unequal length")
        return Node("matrix", tuple(rows))
