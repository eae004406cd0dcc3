r"""The bare problem statement behind the instructions that publishers wrap around it, and the one instruction that we add.

DAPO's public form is ``<header>\n\n<problem>\n\n<trailer>``; others carry the boxed sentence already, or nothing.
"""

from __future__ import annotations

import re

BOXED_SENTENCE = "Please output the final answer within \\boxed{}."
DAPO_HEADER = re.compile(r"\s*Solve the following math problem step by step\.[^\n]*Answer: ?\$Answer[^\n]*\n+")
DAPO_TRAILER = re.compile(r"\n+\s*Remember to put your answer on its own line after \"Answer:\"\.?\s*$")
BLANK_LINES = re.compile(r"\n[ \t]*\n\s*")


def bare_statement(text: str) -> str:
    """The problem alone: header, ``Answer:`` trailer and boxed sentence removed, blank lines to spaces, stripped."""
    text = DAPO_TRAILER.sub("", DAPO_HEADER.sub("", text, count=1))
    text = text.strip().removesuffix(BOXED_SENTENCE).strip()
    return BLANK_LINES.sub(" ", text)


def ask_for_box(statement: str) -> str:
    """The user message: the statement and the sentence that asks for a box."""
    return f"{statement} {BOXED_SENTENCE}"


def duplicate_key(statement: str) -> str:
    """Equal for statements that differ in white space alone."""
    return " ".join(statement.split())
