r"""LaTeX with several spellings of one thing to one of them, before the scanner. Every pattern is linear in the text."""

from __future__ import annotations

import re
from collections.abc import Callable

from megatron_sppo.rewards.math.characters import to_latex

TEXT = r"\\(?:text|mathrm|mbox)\s*"
Replacement = str | Callable[[re.Match[str]], str]

RESPELLINGS: tuple[tuple[re.Pattern[str], Replacement], ...] = (
    # `1{,}234`, `1,\!234`, `1\,234` and, in groups of three from the front, `1 234`
    (re.compile(r"(?<=[0-9])(?:\{,\}\s*|,\s*\\!\s*|\\!\s*,\s*(?:\\!\s*)?|\\,\s*)(?=[0-9]{3}(?![0-9]))"), ""),
    (
        re.compile(r"(?<![0-9a-zA-Z.,}])(?<![0-9] )[0-9]{1,3}(?:[ ~][0-9]{3})+(?![0-9]|\s*/|[ ~][0-9])"),
        lambda match: re.sub("[ ~]", "", match.group()),
    ),
    (re.compile(r"(?<=[0-9])\s*[xX]\s*(?=10\s*(?:\^|\*\*))"), r" \\times "),
    # km over h, each in text
    (
        re.compile(r"\\[dt]?frac\s*\{\s*" + TEXT + r"\{([^{}]*)\}\s*\}\s*\{\s*" + TEXT + r"\{([^{}]*)\}\s*(\^\{?[2-9]\}?)?\s*\}"),
        r"\\text{\1/\2\3}",
    ),
    (re.compile(r"\\mu\s*(?:" + TEXT + r"\{\s*)?([mgsCFAJL])(?![a-zA-Z])(?:\s*\})?"), r"\\text{ u\1}"),
    (re.compile(r"(?<=[0-9])((?:\s|~|\\[,;: ])*)\\Omega(?![a-zA-Z])"), r"\1\\text{ ohm}"),
    (re.compile(r"\^\s*\{?\s*" + TEXT + r"\{(?:st|nd|rd|th)\}\s*\}?"), ""),
    (re.compile(r"\\(?:text)?color\s*\{[a-zA-Z]{1,20}\}"), ""),
    (re.compile(r"\\[hv]?phantom\s*\{[^{}]*\}"), " "),
    (re.compile(r"\\\\\s*\[[0-9. ]{1,8}(?:pt|em|ex|mm|cm|in)\]"), r"\\\\"),  # extra space between rows
    (re.compile(r"(\\mathbb\s*\{R\}|\\mathbb R)\s*[-/]\s*(?=\\\{|\\left\s*\\\{)"), r"\1 \\setminus "),
    (re.compile(r"\\mathbb\s*\{?R\}?\s*(?:\^\s*\{?\s*\+\s*\}?|_\s*\{\s*>\s*0\s*\}|_\s*\{?\s*\+\s*\}?)"), r"(0,\\infty)"),
    (re.compile(r"\{:\}"), ":"),
    # ]a,b[ for (a,b), where an interval may begin
    (
        re.compile(
            r"(?P<before>^\s*|\\cup\s*|\\in\s*)(?P<left>\\left\s*)?(?P<open>[\[\]])(?P<inside>[^\[\]()]*)(?P<close>[\[\]])"
        ),
        lambda match: match.group() if "," not in match["inside"] else _interval(match),
    ),
    (re.compile(r"\b(?:np|math)\."), ""),
)


def _interval(match: re.Match[str]) -> str:
    opening, closing = "(" if match["open"] == "]" else "[", ")" if match["close"] == "[" else "]"
    return f"{match['before']}{match['left'] or ''}{opening}{match['inside']}{closing}"


def respelled(text: str) -> str:
    text = to_latex(text).strip()
    for pattern, replacement in RESPELLINGS:
        text = pattern.sub(replacement, text)
    return text
