r"""Numbers as written: decimals, mixed numbers, digits of another base, and arguments that are taken as they stand."""

from __future__ import annotations

from fractions import Fraction

from megatron_sppo.rewards.math.ast import Node, number
from megatron_sppo.rewards.math.bounds import Unreadable
from megatron_sppo.rewards.math.cursor import Cursor
from megatron_sppo.rewards.math.numbers import decimal, repeating
from megatron_sppo.rewards.math.tokenizer import Token


class Literals(Cursor):
    """The rules that need no other rule."""

    def number(self) -> Node:
        text = self.token.text
        self.position += 1
        if "." in text and self.at("overline", "dot"):
            self.position += 1
            value = repeating(text, self.raw_group())
        elif self.accept("_"):
            return self.based(text)
        else:
            value = decimal(text)
        if value is None:
            raise Unreadable("number out of bounds")
        return number(value + self.mixed_part() if text.isdigit() else value)

    def based(self, digits: str) -> Node:
        """``1011_2``: an answer of its own, never a part of an expression."""
        base = self.raw_group()
        if not digits.isdecimal() or not base.isdecimal() or len(base) > 2:
            raise Unreadable("a subscript on a number")
        return Node("based", text=f"{digits.lstrip('0') or '0'}_{base}")

    def mixed_part(self) -> Fraction:
        r"""The fraction of ``1\frac{4}{5}`` or ``1 4/5``, else 0."""
        before = self.tokens[self.position - 2] if self.position >= 2 else None
        if before is not None and before.kind == "op" and before.text in {"frac", "sqrt", "^", "_", "*", "/"}:
            return Fraction(0)
        start, tokens = self.position, list(self.tokens)
        if self.token.kind == "number" and self.token.spaced and self.ahead(1).text == "/" and self.ahead(2).kind == "number":
            over, under = self.token.text, self.ahead(2).text
            self.position += 3
        elif self.accept("frac"):
            over, under = self.raw_argument(), self.raw_argument()
        else:
            return Fraction(0)
        if over.isdecimal() and under.isdecimal() and len(over + under) < 100:
            if int(over) >= int(under):
                raise Unreadable("a whole number beside an improper fraction: a sum or a product")
            return Fraction(int(over), int(under))
        self.position, self.tokens = start, tokens
        return Fraction(0)

    def digit(self) -> str:
        """Take one digit off a number token."""
        token = self.token
        if not token.text.isdecimal():
            raise Unreadable("missing argument")
        rest = token.text[1:]
        if rest:
            self.tokens[self.position] = Token("number", rest, spaced=False)
        else:
            self.position += 1
        return token.text[0]

    def raw_argument(self) -> str:
        """The digits of an argument; other arguments come back as something that is no number."""
        if self.token.kind == "number" and self.token.text.isdecimal():
            return self.digit()
        if self.at("{") and self.ahead(1).kind == "number" and self.ahead(2).text == "}":
            self.position += 3
            return self.tokens[self.position - 2].text
        return "?"

    def raw_group(self) -> str:
        """The words of ``{...}`` or of one token, joined: part of a symbol's name."""
        if not self.accept("{"):
            if self.token.kind == "end":
                raise Unreadable("missing argument")
            self.position += 1
            return self.tokens[self.position - 1].text
        words: list[str] = []
        depth = 1
        while self.token.kind != "end":
            depth += {"{": 1, "}": -1}.get(self.token.text, 0) if self.token.kind == "op" else 0
            self.position += 1
            if depth == 0:
                return "".join(words)
            words.append(self.tokens[self.position - 1].text)
        raise Unreadable("a group that does not end")
