r"""The two string normalisers of the paper's grader, with their quirks, in our own words.

A: the Hendrycks/PRM800K form (what remains is LaTeX). B: the PRM800K form that ends in plain lower-case text.
"""

from __future__ import annotations

import re

WHOLE_TEXT = re.compile(r"\\text\{(?P<text>.+?)\}", re.DOTALL)
UNIT_WORDS = "degree cm centimeter meter mile second minute hour day week month year foot feet inch yard liter".split()
UNIT_PATTERNS = [re.compile(rf"{unit}(?:es)?s? *(?:\^[0-9]+)?") for unit in UNIT_WORDS]
FRACTION = re.compile(r"\\frac\{([^{}]*)\}\{([^{}]*)\}")
ROOT = re.compile(r"\\sqrt\{([^{}]*)\}")
GROUP_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
LATEX_SIGNS = {
    r"\pi": "pi", r"\infty": "inf", r"\cup": "U", r"\cdot": "*", r"\times": "*", r"\left": "", r"\right": "",
    r"\le": "<=", r"\ge": ">=", r"\{": "{", r"\}": "}", r"\ ": " ", r"\,": " ", r"\;": " ", r"\!": "",
}  # fmt: skip
COMMAND = re.compile(r"\\([a-zA-Z]+|.)", re.DOTALL)
THOUSANDS = re.compile(r"(\d)(,)(\d{3})(?=$|\D)")
MIXED = re.compile(r"([0-9]) +([0-9])")
MAX_PASSES = 20  # of rewriting nested groups from the inside


def normal_a(text: str) -> str:
    text = text.strip()
    whole = WHOLE_TEXT.fullmatch(text)
    text = whole["text"].strip() if whole else text
    for old, new in (
        ("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), ("\\left", ""), ("\\right", ""),
        ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", ""),
    ):  # fmt: skip
        text = text.replace(old, new)
    before, unit, _ = text.partition("\\text{ ")
    text = before if unit and text.count("\\text{ ") == 1 else text
    for old, new in (("\\%", ""), (" .", " 0."), ("{.", "{0.")):
        text = text.replace(old, new)
    if not text:
        return text
    text = f"0{text}" if text.startswith(".") else text
    parts = text.split("=")
    text = parts[1] if len(parts) == 2 and len(parts[0]) <= 2 else text
    text = re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", text).replace(" ", "")
    text = _brace_fractions(text)
    if text == "0.5":
        return "\\frac{1}{2}"
    slash = re.fullmatch(r"(-?[0-9]+)/(-?[0-9]+)", text)
    return f"\\frac{{{slash[1]}}}{{{slash[2]}}}" if slash else text


def _brace_fractions(text: str) -> str:
    r"""``\frac12`` to ``\frac{1}{2}``; as it was where an argument is missing."""
    first, *rest = text.split("\\frac")
    braced = first
    for part in rest:
        braced += "\\frac"
        if part.startswith("{"):
            braced += part
            continue
        if len(part) < 2:
            return text
        over, under, tail = part[0], part[1], part[2:]
        braced += f"{{{over}}}{under}{tail}" if under == "{" else f"{{{over}}}{{{under}}}{tail}"
    return braced


def normal_b(text: str) -> str:
    whole = WHOLE_TEXT.fullmatch(text)
    text = whole["text"] if whole else text
    for old, new in (
        ("\\%", "%"), ("\\$", "$"), ("$", ""), ("%", ""), (" or ", " , "), (" and ", " , "),
        ("million", "*10^6"), ("billion", "*10^9"), ("trillion", "*10^12"),
    ):  # fmt: skip
        text = text.replace(old, new)
    for pattern in UNIT_PATTERNS:
        text = pattern.sub("", text)
    text = re.sub(r"\^ *\\circ", "", text)
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    text = re.sub(r",\\! *", "", text)
    text = whole_number(text)
    if "\\" in text:
        text = plain_text(text)
    text = re.sub("- *", "-", text)
    text = MIXED.sub(r"\1+\2", text)
    text = text.replace(" ", "").replace("{", "").replace("}", "").lower()
    stripped = strip_thousands(text)
    return stripped if re.fullmatch(r"-?[0-9]+", stripped) is None else str_integer(stripped)


def whole_number(text: str) -> str:
    """``27.0`` to ``27``."""
    match = re.fullmatch(r"\s*([+-]?[0-9]{1,300})\.0*\s*", text)
    return str_integer(match[1]) if match else text


def str_integer(text: str) -> str:
    sign = "-" if text.startswith("-") else ""
    digits = text.lstrip("+-").lstrip("0") or "0"
    return digits if digits == "0" else sign + digits


def strip_thousands(text: str) -> str:
    while (changed := THOUSANDS.sub(r"\1\3", text)) != text:
        text = changed
    return text


def plain_text(text: str) -> str:
    """What is left of LaTeX as one would type it: ``a/b``, ``sqrt(a)``, names without backslash."""
    text = text.replace("\\tfrac", "\\frac").replace("\\dfrac", "\\frac").replace("\\frac", " \\frac")
    for _ in range(MAX_PASSES):
        changed = GROUP_COMMAND.sub(r"\1", ROOT.sub(r"sqrt(\1)", FRACTION.sub(r"\1/\2", text)))
        if changed == text:
            break
        text = changed
    return COMMAND.sub(lambda match: LATEX_SIGNS.get(match.group(), match[1]), text).strip()
