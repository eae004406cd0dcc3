r"""What may stand around an answer and says nothing about it: emphasis, quotes, "the answer is", the label of a choice."""

from __future__ import annotations

import re

WRAPPINGS = (("**", "**"), ("*", "*"), ("`", "`"), ('"', '"'), ("\u201c", "\u201d"), ("``", "''"))
LAYERS = 4  # of them around each other
ANNOUNCED = re.compile(
    r"(?P<text>\\text(?:bf|rm|it)?\s*\{\s*)?"
    r"(?:(?:the\s+)?(?:final\s+|correct\s+)?answer(?:\s+is\b|\s*[:=])\s*:?|(?:option|choice)(?=\s+\(?[A-J]\b))\s*(?P<end>\})?",
    re.IGNORECASE,
)
LAST_MARK = re.compile(r"(?:(?<!\\)[,;]|\\\.)\s*$")
TEXT = r"\\(?:text|textbf|textrm|mathrm|mathbf)\s*\{\s*"
CHOICE = re.compile(
    r"(?P<text>" + TEXT + r")?(?P<bracket>\(\s*)?(?P<letter>[A-J])(?:\s*(?P<close>\))|[.:])"
    r"(?P<end>\})?(?:\s|~|\\[,;: ]|\\q?quad\b)+(?P<end_after>\})?\s*"
    r"(?P<rest>(?:-?\.?[0-9]|-?\\[dt]?frac|-?\\sqrt|\\?\$|[^\W\d_]{3}).*)",
    re.DOTALL,
)
LETTER = re.compile(r"(?:" + TEXT + r")?\(?\s*([A-J])\s*\)?\s*\}?")


def bare(text: str) -> str:
    for _ in range(LAYERS):
        before = text
        text = LAST_MARK.sub("", ANNOUNCED.sub(_announced, text, count=1) if ANNOUNCED.match(text) else text).strip()
        text = text.removeprefix("=").lstrip()
        for opening, closing in WRAPPINGS:
            inside = text[len(opening) : -len(closing)]
            if inside and text.startswith(opening) and text.endswith(closing) and opening[0] not in inside:
                text = inside.strip()
        if text == before:
            break
    return text


def _announced(match: re.Match[str]) -> str:
    return match["text"] if match["text"] and not match["end"] else ""


def choice(text: str) -> tuple[str, str] | None:
    r"""(letter, what follows) of ``(B) 12``, ``\textbf{(B)}\ 12`` and ``B) 12``; None where nothing is labelled."""
    match = CHOICE.match(text)
    if match is None or bool(match["bracket"]) > bool(match["close"]):
        return None
    ends = bool(match["end"]) + bool(match["end_after"])
    if ends > bool(match["text"]):
        return None
    rest = match["rest"].strip()
    return match["letter"], f"\\text{{{rest}" if match["text"] and not ends else rest


def choice_letter(text: str) -> str | None:
    """Of a gold that is one."""
    match = LETTER.fullmatch(text.strip())
    return match[1] if match else None
