"""Where the program stands in a response: the last fenced block of Python after the last `</think>`. Linear in the length."""

from __future__ import annotations

import re

FENCE = re.compile(r"^ {0,3}(?P<fence>`{3,}|~{3,})[ \t]*(?P<tag>[^\s`]*)[^`\n]*$", re.MULTILINE)
PYTHON_TAGS = frozenset(("", "python", "python3", "py", "py3"))
MAX_CHARACTERS = 500_000


def last_program(response: str) -> str | None:
    """Its text; None where there is none, or the last fence is not closed (a response cut off in its program).

    Blocks with the name of another language (`text`, `output`, `cpp`) are passed over.
    """
    text = response.rpartition("</think>")[2].replace("\r\n", "\n")
    opening: re.Match[str] | None = None
    found: str | None = None
    for fence in FENCE.finditer(text):
        if opening is None:
            opening = fence
        elif _closes(fence, opening):
            if opening["tag"].lower() in PYTHON_TAGS:
                found = text[opening.end() + 1 : fence.start()]
            opening = None
    if opening is not None or found is None or not found.strip() or len(found) > MAX_CHARACTERS:
        return None
    return found


def _closes(fence: re.Match[str], opening: re.Match[str]) -> bool:
    """A fence without a language, at least as long as the one that opened the block."""
    return not fence["tag"] and fence["fence"].startswith(opening["fence"])
