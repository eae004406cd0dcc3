r"""LaTeX or plain mathematics to tokens. One pass, every character looked at a bounded number of times.

Kinds: ``number`` (digits as written), ``name`` (symbol, function or constant), ``text`` (words in ``\text{}`` or a unit),
``op`` (everything that has a place in the grammar, under one spelling), ``currency``, ``end``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from megatron_sppo.rewards.math import vocabulary
from megatron_sppo.rewards.math.bounds import MAX_CHARACTERS, MAX_TOKENS, Unreadable
from megatron_sppo.rewards.math.spelling import respelled
from megatron_sppo.rewards.math.units import UNITS, lookup, unit_of


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    spaced: bool = False  # white space or a spacing command came before


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read what is ambiguous."""

    thousands: bool = True  # `1,234` outside brackets is one number
    thousands_in_brackets: bool = False
    science: bool = True  # `2e+3` is 2000, not 2e + 3
    letter_units: bool = False  # `5 m` is five metres
    tight_products: bool = False  # `a/bc` is a/(bc)


SCANNER = re.compile(
    r"(?P<space>[ \t\r\n~]+)"
    r"|(?P<degrees>\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\degree(?![a-zA-Z])|\\deg(?![a-zA-Z]))"
    r"|(?P<prime>\^\s*(?:\{\s*(?:\\prime\s*)+\}|\\prime(?![a-zA-Z]))|'+)"
    r"|(?P<figure>\\(?:angle|measuredangle|triangle)\s*(?:\{\s*[A-Za-z]{1,5}\s*\}|[A-Za-z]{1,5}(?![a-zA-Z])))"
    r"|(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
    r"|(?P<command>\\[a-zA-Z]+\*?|\\.)"
    r"|(?P<word>[a-zA-Z]+)"
    r"|(?P<op>\*\*|<=|>=|!=|==|=<|=>|[-+*/^_()\[\]{},;:=<>|!&%])"
    r"|(?P<mark>\$)",
    re.DOTALL,
)
THOUSANDS = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?")
SCIENCE = re.compile(r"[eE][+-]?[0-9]{1,5}(?![0-9.])")
SCIENCE_UNSIGNED = re.compile(r"[eE][0-9]{1,5}(?![0-9.])")
ELLIPSIS = re.compile(r"\.\.\.|\\[lcd]?dots")
GROUP_OPENING = re.compile(r"\s*\{")
GROUP_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
LETTERS_ONLY = re.compile(r"[^\W\d_]+(?:[ \-][^\W\d_]+)*")
NOUN_LENGTH = 4  # from here on plain letters after a number are what is counted, not a product of symbols
FUNCTION_AND_LETTER = re.compile(r"(arc)?(sin|cos|tan|cot|sec|csc|ln|log)([a-zA-Z]|pi|theta|alpha|beta)")


def tokenize(text: str, reading: Reading) -> list[Token]:
    """Ends with an ``end`` token; :class:`Unreadable` for what is outside the alphabet or the limits."""
    if len(text) > MAX_CHARACTERS:
        raise Unreadable("too long")
    if ELLIPSIS.search(text):
        raise Unreadable("an ellipsis stands for unknown digits or terms")
    return [*_Scan(respelled(text), reading).run(), Token("end", "")]


def _spaced(content: str) -> str:
    return content.replace("~", " ").replace("\\,", " ").replace("\\ ", " ")


class _Scan:
    def __init__(self, text: str, reading: Reading, depth: int = 0) -> None:
        self.text, self.reading, self.depth = text, reading, depth
        self.position, self.brackets, self.spaced = 0, 0, False
        self.tokens: list[Token] = []

    def run(self) -> list[Token]:
        while self.position < len(self.text):
            match = SCANNER.match(self.text, self.position)
            if match is None:
                self._foreign()
                continue
            start, self.position = self.position, match.end()
            getattr(self, f"_{match.lastgroup}")(match.group(), start)
            if len(self.tokens) > MAX_TOKENS:
                raise Unreadable("too many tokens")
        return self.tokens

    def _add(self, kind: str, text: str) -> None:
        self.tokens.append(Token(kind, text, self.spaced))
        self.spaced = False

    def _foreign(self) -> None:
        """Words of another script are text; any other character, a lone point above all, is outside the grammar."""
        match = re.compile(r"[^\W\d_]+").match(self.text, self.position)
        if match is None:
            raise Unreadable(f"character {self.text[self.position]!r}")
        self.position = match.end()
        self._add("text", match.group())

    def _space(self, text: str, start: int) -> None:
        self.spaced = True

    def _degrees(self, text: str, start: int) -> None:
        self._add("op", "degrees")

    def _prime(self, text: str, start: int) -> None:
        self._add("op", "'" * max(1, text.count("'") + text.count("prime")))

    def _number(self, text: str, start: int) -> None:
        separators = self.reading.thousands_in_brackets if self.brackets else self.reading.thousands
        grouped = THOUSANDS.match(self.text, start) if separators else None
        if grouped is not None and not (start and self.text[start - 1] == ","):
            text, self.position = grouped.group(), grouped.end()
        exponent = (SCIENCE if self.reading.science else SCIENCE_UNSIGNED).match(self.text, self.position)
        if exponent is not None:
            self.position = exponent.end()
        self._add("number", text.replace(",", "") + (exponent.group() if exponent else ""))

    def _mark(self, text: str, start: int) -> None:
        """A lone dollar sign delimits mathematics or is a currency; both may be left out."""
        self.spaced = True

    def _op(self, text: str, start: int) -> None:
        self.brackets += {"(": 1, "[": 1, ")": -1, "]": -1}.get(text, 0)
        self._add("op", vocabulary.OPERATORS.get(text, text))

    # --- words -------------------------------------------------------------------------------------------------------

    def _word(self, text: str, start: int) -> None:
        if text.lower() in {"or", "and"}:
            self._add("op", text.lower())
        elif text in vocabulary.PLAIN_NAMES:
            self._add("name", vocabulary.PLAIN_NAMES[text])
        elif text == "in" and not self._after_value():
            self._add("op", "in")
        elif self._is_unit(text):
            self._add("text", text)
        elif text == "U" and self._between_brackets():
            self._add("op", "union")
        elif (glued := FUNCTION_AND_LETTER.fullmatch(text)) is not None:
            self._add("name", f"{glued[1] or ''}{glued[2]}")
            self._add("name", vocabulary.PLAIN_NAMES.get(glued[3], glued[3]))
        else:
            for letter in text:
                self._add("name", letter)

    def _is_unit(self, text: str) -> bool:
        if not self._after_value():
            return False
        if self.tokens[-1].text == "degrees" and text in {"C", "F"}:
            return True
        if len(text) == 1:
            below = len(self.tokens) > 1 and self.tokens[-1].text == "/" and self.tokens[-2].kind == "text"
            return (below or (self.reading.letter_units and self.spaced)) and text in UNITS
        if text == "per" or lookup(text) is not None or text.lower() in vocabulary.MULTIPLIER_WORDS:
            return True
        counted = self.spaced and len(text) >= NOUN_LENGTH and text.islower() and self.tokens[-1].kind in {"number", "text"}
        return counted and unit_of(text) is not None and FUNCTION_AND_LETTER.fullmatch(text) is None

    def _after_value(self) -> bool:
        last = self.tokens[-1] if self.tokens else None
        return last is not None and (
            last.kind in {"number", "text"}
            or (last.kind == "name" and last.text == "pi")
            or (last.kind == "op" and last.text in {")", "}", "degrees", "%", "/"})
            or (last.text == "*" and len(self.tokens) > 1 and self.tokens[-2].kind == "text")
        )

    def _between_brackets(self) -> bool:
        following = self.text[self.position :].lstrip()
        return (
            bool(self.tokens) and self.tokens[-1].text in {")", "]", "set}"} and following.startswith(("(", "[", "\\{", "\\left"))
        )

    # --- commands ----------------------------------------------------------------------------------------------------

    def _command(self, text: str, start: int) -> None:
        name = text[1:]
        if name in vocabulary.SPACING:
            self.spaced = True
        elif name in vocabulary.DECORATION:
            if name in {"left", "right"} and self.text[self.position : self.position + 1] == ".":
                self.position += 1
        elif name in vocabulary.CURRENCIES:
            self._add("currency", vocabulary.CURRENCIES[name])
        elif name in vocabulary.TEXT_COMMANDS:
            self._text(self._group())
        elif name in vocabulary.UPRIGHT_COMMANDS:
            self._upright(self._group())
        elif name in vocabulary.ENVIRONMENT_COMMANDS:
            self._add("op", f"{name} {self._group().strip()}")
        elif name in vocabulary.COMMAND_OPERATORS:
            operator = vocabulary.COMMAND_OPERATORS[name]
            self.brackets += {"{set": 1, "set}": -1}.get(operator, 0)
            self._add("op", operator)
        elif name in vocabulary.NAMES:
            self._add("name", vocabulary.NAMES[name])
        else:
            raise Unreadable(f"command {text}")

    def _figure(self, text: str, start: int) -> None:
        r"""``\angle ABC`` and ``m\angle{ABC}`` are one name."""
        if [token.text for token in self.tokens] == ["m"]:
            self.tokens.clear()
        self._add("name", " ".join(re.findall("[a-zA-Z]+", text)))

    def _group(self) -> str:
        """Content of the brace group that starts here."""
        opening = GROUP_OPENING.match(self.text, self.position)
        if opening is None:
            raise Unreadable("a command without its argument")
        depth = 1
        for brace in GROUP_BRACE.finditer(self.text, opening.end()):
            depth += {"{": 1, "}": -1}.get(brace.group(), 0)
            if depth == 0:
                self.position = brace.end()
                return self.text[opening.end() : brace.start()]
        raise Unreadable("a group that does not end")

    def _text(self, content: str) -> None:
        r"""Words stay text; ``\text{42}`` and ``\text{ or }`` are what they hold."""
        words = _spaced(content).replace("\\$", "$").replace("$", "").strip(" .")
        if words.startswith("(") and words.endswith(")") and unit_of(words[1:-1]) is not None and self._after_value():
            words = words[1:-1].strip()
        if not words:
            self.spaced = True
        elif words.lower().strip(", ") in {"or", "and"}:
            self._add("op", words.lower().strip(", "))
        elif words in {",", ";"}:
            self._add("op", ",")
        elif unit_of(words) is not None or LETTERS_ONLY.fullmatch(words):
            self._add("text", words)
        else:
            self._splice(words)

    def _upright(self, content: str) -> None:
        word = _spaced(content).strip()
        if word in vocabulary.PLAIN_NAMES and (word != "in" and len(word) > 1):
            self._add("name", vocabulary.PLAIN_NAMES[word])
        elif word and self._after_value() and unit_of(word) is not None and all(lookup(w) for w in re.findall("[a-zA-Z]+", word)):
            self._add("text", word)
        elif len(word) > 1 and word.isalpha():
            self._add("name", word)
        else:
            self._splice(word)

    def _splice(self, content: str) -> None:
        if self.depth >= 4:
            raise Unreadable("text within text")
        inner = _Scan(content, self.reading, self.depth + 1)
        inner.tokens = self.tokens[-1:]
        tokens = inner.run()[len(self.tokens[-1:]) :]
        if tokens:
            self.tokens += [replace(tokens[0], spaced=True), *tokens[1:]]
