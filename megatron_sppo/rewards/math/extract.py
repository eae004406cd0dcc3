r"""Where the answer stands in a response: the last ``\boxed{}`` after the last ``</think>``. Linear in the length."""

from __future__ import annotations

import re

OPENING = re.compile(r"\\boxed[ \t\r\n]*\{")
BRACE_OR_ESCAPE = re.compile(r"\\.|[{}]", re.DOTALL)  # `\{` and `\}` are characters, not braces


def last_box(response: str) -> str | None:
    """Its content, stripped; None where there is no box, or the last one is unterminated or empty."""
    text = response.rpartition("</think>")[2]
    opening = _last_opening(text)
    if opening is None:
        return None
    depth = 1
    for token in BRACE_OR_ESCAPE.finditer(text, opening.end()):
        depth += {"{": 1, "}": -1}.get(token.group(), 0)
        if depth == 0:
            return text[opening.end() : token.start()].strip() or None
    return None


def _last_opening(text: str) -> re.Match[str] | None:
    """A mention of the command without a brace opens no box."""
    end = len(text)
    while (start := text.rfind("\\boxed", 0, end)) >= 0:
        opening = OPENING.match(text, start)
        if opening is not None:
            return opening
        end = start
    return None
