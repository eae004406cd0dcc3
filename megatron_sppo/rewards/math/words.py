r"""Answers in words: ``\text{even}``, ``Evelyn``, ``(C)``. Case and brackets aside, lists of words unordered."""

from __future__ import annotations

import re
from dataclasses import dataclass

from megatron_sppo.rewards.math.bounds import MAX_CHARACTERS

TEXT_GROUP = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mbox|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}")
SPACING = re.compile(r"\\[,;:! ]|\\q?quad(?![a-zA-Z])|~|\s+")
PHRASES = re.compile(r"[^\W\d_][^\W\d_ .,'()&/-]*(?:[ .,'()&/-]+[^\W\d_]+)*\.?")
SEPARATOR = re.compile(r",| and | & ")
ARTICLE = re.compile(r"(?:a|an|the) (?=.)")
SHORT_WORDS = frozenset({"no", "up"})
WORD_LENGTH = 3  # from here on plain letters are a word rather than a product of symbols
PHRASE_LENGTH = 4  # ... and no anagram of it is the same


@dataclass(frozen=True)
class Words:
    phrases: tuple[str, ...]  # sorted, case kept
    marked: bool  # in a text command
    longest: int  # letters of the longest word

    @property
    def folded(self) -> tuple[str, ...]:
        return tuple(sorted(ARTICLE.sub("", phrase.casefold(), count=1) for phrase in self.phrases))

    @property
    def is_text(self) -> bool:
        return self.marked or self.longest >= WORD_LENGTH or bool(SHORT_WORDS & set(self.folded))

    @property
    def is_plain_word(self) -> bool:
        """No product of symbols either."""
        return not self.marked and self.longest >= PHRASE_LENGTH


def words_of(text: str) -> Words | None:
    """None where there is more than words."""
    if len(text) > MAX_CHARACTERS:
        return None
    unwrapped, marks = TEXT_GROUP.subn(r"\1", text)
    plain = SPACING.sub(" ", unwrapped.replace("$", "")).strip().rstrip(".").strip()
    if plain.startswith("{") and plain.endswith("}"):
        plain = plain[1:-1].strip()
    while plain.startswith("(") and plain.endswith(")") and "," not in plain:
        plain = plain[1:-1].strip()
    if not plain or any(character in plain for character in "\\{}^_=+*<>|0123456789[]"):
        return None
    if PHRASES.fullmatch(plain) is None:
        return None
    phrases = tuple(sorted(" ".join(part.replace("-", " ").split()) for part in SEPARATOR.split(plain) if part.strip()))
    return Words(phrases, marks > 0, max(len(word) for word in re.findall(r"[^\W\d_]+", plain)))


def same_words(gold: Words, answer: Words) -> bool:
    """Single letters are symbols, and case counts, unless the gold is marked as text."""
    if gold.is_text:
        return gold.folded == answer.folded
    return len(gold.phrases) == 1 and gold.phrases == answer.phrases
