r"""Recursive descent over one expression: sums, products, powers, fractions, functions. Brackets are for ``parser.py``.

Products by juxtaposition never take a number on the right (``x2`` and ``\frac12 3`` are outside the grammar), so that an
answer with something appended is not read as itself.
"""

from __future__ import annotations

from megatron_sppo.rewards.math import ast
from megatron_sppo.rewards.math.ast import Node, call, negate, number
from megatron_sppo.rewards.math.bounds import Unreadable
from megatron_sppo.rewards.math.literals import Literals
from megatron_sppo.rewards.math.products import grouped, product_of, quotient
from megatron_sppo.rewards.math.vocabulary import FUNCTIONS

ACCENTS = frozenset({"overline", "dot", "ddot", "hat", "vec", "tilde"})
FUNCTION_LETTERS = frozenset("fghFGHPQ")  # `f(x + 1)` is a value of f; `x(x + 1)` is a product
INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot", "sec": "arcsec", "csc": "arccsc"}
OPENINGS = frozenset({"(", "[", "{", "{set", "<(", "frac", "sqrt", "cbrt", "binom", "lfloor", "lceil", "|", "||"}) | ACCENTS


class Arithmetic(Literals):
    """The rules below brackets."""

    def stacked(self) -> Node:
        r"""A sum, or two around ``\over`` or ``\choose``, which take all of their group."""
        node = self.sum()
        operator = self.accept("over", "choose")
        if operator is None:
            return node
        return quotient(node, self.sum()) if operator == "over" else call("binomial", node, self.sum())

    # --- sums and products ---------------------------------------------------------------------------------------------

    def sum(self) -> Node:
        self.enter()
        terms = [self.signed_term()]
        while self.at("+", "-", "+-", "-+"):
            terms.append(self.signed_term())
        self.depth -= 1
        return terms[0] if len(terms) == 1 else Node("add", tuple(grouped(term) for term in terms))

    def signed_term(self) -> Node:
        sign = self.accept("+", "-", "+-", "-+")
        if sign is None:
            return self.product()
        self.enter()
        term = self.signed_term()
        self.depth -= 1
        if sign in {"+-", "-+"}:
            return Node("sign", (term,), sign)
        return negate(term) if sign == "-" else term

    def product(self) -> Node:
        factors = [self.power()]
        while True:
            operator = self.accept("*", "/")
            if operator is not None:
                following = self.divisor() if operator == "/" else self.signed_factor()
                if operator == "/":
                    factors = [quotient(product_of(factors), following)]
                else:
                    factors.append(following)
            elif self.starts_factor():
                factors.append(self.power())
            else:
                return product_of(factors)

    def signed_factor(self) -> Node:
        sign = self.accept("-", "+")
        factor = self.power()
        return negate(factor) if sign == "-" else factor

    def divisor(self) -> Node:
        factors = [self.signed_factor()]
        while self.reading.tight_products and not self.token.spaced and self.starts_factor():
            factors.append(self.power())
        return product_of(factors)

    def starts_factor(self) -> bool:
        token = self.token
        if token.kind == "op" and token.text == "|":
            return self.bars == 0
        if token.kind == "number":  # 5!5! and 2^{3}3^{2}, but not x2
            return self.tokens[self.position - 1].text in {"!", "}"} and self.ahead(1).text in {"!", "^"}
        return token.kind == "name" or (token.kind == "op" and (token.text in OPENINGS or token.text.startswith("begin ")))

    # --- powers and postfixes --------------------------------------------------------------------------------------------

    def power(self) -> Node:
        self.enter()
        base = self.postfixed(self.atom())
        if self.accept("^"):
            base = self.postfixed(Node("power", (grouped(base), self.exponent())))
        if self.at("^"):
            raise Unreadable("two exponents on one base")
        self.depth -= 1
        return base

    def postfixed(self, base: Node) -> Node:
        while True:
            if self.accept("!"):
                base = call("factorial", base)
            elif self.accept("degrees"):
                base = Node("degrees", (base,))
            else:
                return base

    def exponent(self) -> Node:
        if self.at("{"):
            return self.group()
        sign = self.accept("-", "+")
        self.enter()
        node = self.atom()
        if self.accept("^"):
            node = Node("power", (node, self.exponent()))
        self.depth -= 1
        return negate(node) if sign == "-" else node

    # --- atoms -----------------------------------------------------------------------------------------------------------

    def atom(self) -> Node:
        self.enter()
        node = self.bare_atom()
        self.depth -= 1
        return node

    def bare_atom(self) -> Node:
        token = self.token
        if token.kind == "number":
            return self.number()
        if token.kind == "name":
            self.position += 1
            return self.function(token.text) if token.text in FUNCTIONS else self.named(token.text)
        if token.kind == "op" and token.text in {"frac", "binom"}:
            self.position += 1
            over, under = self.argument(), self.argument()
            return quotient(over, under) if token.text == "frac" else call("binomial", over, under)
        if token.kind == "op" and token.text in {"sqrt", "cbrt"}:
            self.position += 1
            return self.root(token.text)
        if token.kind == "op" and token.text in ACCENTS:
            self.position += 1
            return self.subscripted(f"{token.text}({self.raw_group()})")
        return self.bracketed()

    def bracketed(self) -> Node:
        raise NotImplementedError

    def group(self) -> Node:
        """``{...}`` as grouping."""
        self.expect("{")
        node = self.stacked()
        self.expect("}")
        return node

    def argument(self) -> Node:
        r"""``{...}``, or a single digit or name as in ``\frac12``."""
        if self.at("{"):
            return self.group()
        if self.token.kind == "number":
            return number(int(self.digit()))
        if self.token.kind == "name" or self.at("frac", "sqrt", "(", "|"):
            return self.atom()
        raise Unreadable("missing argument")

    # --- names -----------------------------------------------------------------------------------------------------------

    def named(self, name: str) -> Node:
        if name in {"pi", "e", "i", "infinity"} and not self.at("_"):
            return Node("constant", text=name)
        return self.subscripted(name)

    def subscripted(self, name: str) -> Node:
        """A symbol with its subscripts and primes, and its argument where it is a function's name."""
        while self.at("_") or (self.token.kind == "op" and self.token.text.startswith("'")):
            if self.accept("_"):
                name += f"_{self.raw_group().lower()}" if self.at("{") else f"_{self.raw_group()}"
            else:
                name += self.token.text
                self.position += 1
        if self.at("(") and not self.token.spaced and (name[0] in FUNCTION_LETTERS or self.lone_argument()):
            return self.applied(name)
        return Node("symbol", text=name)

    def applied(self, name: str) -> Node:
        """``f(x)``; ``P(X = 1)`` and ``P(A | B)`` are names as they stand."""
        start, depth, bars = self.position, self.depth, self.bars
        try:
            return call(f"apply {name}", *self.arguments())
        except Unreadable:
            if name[0] not in "PE":
                raise
            self.position, self.depth, self.bars = start, depth, bars
        words, level = [], 0
        while self.token.kind != "end":
            level += {"(": 1, ")": -1}.get(self.token.text, 0)
            words.append(self.token.text)
            self.position += 1
            if level == 0:
                return Node("symbol", text=name + "".join(words))
        raise Unreadable("brackets that do not end")

    def lone_argument(self) -> bool:
        """``u(t)`` and ``I(0)``, unlike ``x(x + 1)``."""
        return self.ahead(1).kind in {"name", "number"} and self.ahead(2).text == ")"

    def arguments(self) -> tuple[Node, ...]:
        self.expect("(")
        items = [self.sum()]
        while self.accept(","):
            items.append(self.sum())
        self.expect(")")
        return tuple(items)

    def root(self, name: str) -> Node:
        index = ast.number(3 if name == "cbrt" else 2)
        if self.accept("["):
            index = self.sum()
            self.expect("]")
        if self.at("{"):
            return Node("root", (self.group(), index))
        return Node("root", (self.atom(), index))

    def function(self, name: str) -> Node:
        base = exponent = None
        if self.accept("_"):
            base = self.exponent()
        if self.accept("^"):
            exponent = self.exponent()
        if self.accept("_"):
            base = self.exponent()
        if name in INVERSES and exponent == ast.MINUS_ONE:
            name, exponent = INVERSES[name], None
        self.enter()
        arguments = self.function_arguments(name)
        self.depth -= 1
        if name in {"sqrt", "cbrt"}:
            node = Node("root", (*arguments, number(2 if name == "sqrt" else 3)))
        elif name == "exp":
            node = Node("power", (Node("constant", text="e"), *arguments))
        else:
            node = call(name, *arguments, *([base] if base is not None else []))
        return node if exponent is None else Node("power", (node, exponent))

    def function_arguments(self, name: str) -> tuple[Node, ...]:
        """One in brackets, or the product that follows: ``sin 2t``."""
        if self.at("("):
            found = self.arguments()
            if len(found) > 1 and name not in {"gcd", "lcm", "max", "min"}:
                raise Unreadable("too many arguments")
            return found
        if self.at("{"):
            return (self.group(),)
        factors = [self.power()]
        while self.starts_factor() and not (self.token.kind == "name" and self.token.text in FUNCTIONS):
            factors.append(self.power())
        return (product_of(factors),)
