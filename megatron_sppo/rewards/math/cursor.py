"""A position in a list of tokens, and how deep the grammar has gone."""

from __future__ import annotations

from megatron_sppo.rewards.math.bounds import MAX_DEPTH, Unreadable
from megatron_sppo.rewards.math.tokenizer import Reading, Token


class Cursor:
    def __init__(self, tokens: list[Token], reading: Reading) -> None:
        self.tokens, self.reading = tokens, reading
        self.position, self.depth, self.bars = 0, 0, 0

    @property
    def token(self) -> Token:
        return self.tokens[self.position]

    def ahead(self, offset: int) -> Token:
        return self.tokens[min(self.position + offset, len(self.tokens) - 1)]

    def at(self, *operators: str) -> bool:
        return self.token.kind == "op" and self.token.text in operators

    def accept(self, *operators: str) -> str | None:
        if not self.at(*operators):
            return None
        self.position += 1
        return self.tokens[self.position - 1].text

    def expect(self, operator: str) -> None:
        if self.accept(operator) is None:
            raise Unreadable(f"expected {operator}, found {self.token.text or 'the end'}")

    def enter(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
