"""Unicode as LaTeX: one table for signs, one pass over the text."""

# ruff: noqa: RUF001  (signs that look alike are what this table is about)

from __future__ import annotations

import re
import unicodedata

GREEK = dict(
    zip(
        "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi omega "
        "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega".split(),
        strict=True,
    )
)
SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ", "0123456789+-ni", strict=True))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₙ", "0123456789+-n", strict=True))
SIGNS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-", "－": "-", "＋": "+",
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "∗": "*", "÷": r"\div ", "⁄": "/", "∕": "/",
    "√": r"\sqrt ", "∛": r"\cbrt ", "∜": r"\fourthroot ", "∞": r"\infty ", "±": r"\pm ", "∓": r"\mp ",
    "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∈": r"\in ",
    "∪": r"\cup ", "∩": r"\cap ", "∖": r"\setminus ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}",
    "°": r"^\circ ", "º": r"^\circ ", "˚": r"^\circ ", "′": "'", "’": "'", "‘": "'", "∨": r"\lor ", "∧": r"\land ",
    "⟨": r"\langle ", "⟩": r"\rangle ", "∣": "|", "¢": r"\text{cents}", "€": r"\EUR ", "£": r"\GBP ", "¥": r"\JPY ",
    "。": ".", "，": ",", "、": ",", "；": ";", "％": r"\%", "＄": r"\$", "∂": r"\partial ", "ℏ": r"\hbar ", "∆": r"\Delta ",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u3000": " ", "µ": r"\mu ",
}  # fmt: skip
INVISIBLE = re.compile("[\u200b-\u200f\u2060-\u2064\ufeff\u00ad\ufe00-\ufe0f]")
RUN = re.compile("(?P<super>[" + "".join(SUPERSCRIPTS) + "]+)|(?P<sub>[" + "".join(SUBSCRIPTS) + "]+)|(?P<other>[^\x00-\x7f])")


def to_latex(text: str) -> str:
    """ASCII text is returned as it is."""
    if text.isascii():
        return text
    return RUN.sub(_replace, INVISIBLE.sub("", text))


def _replace(match: re.Match[str]) -> str:
    if match["super"]:
        return "^{" + "".join(SUPERSCRIPTS[character] for character in match["super"]) + "}"
    if match["sub"]:
        return "_{" + "".join(SUBSCRIPTS[character] for character in match["sub"]) + "}"
    character = match["other"]
    if character in SIGNS:
        return SIGNS[character]
    if character in GREEK:
        return f"\\{GREEK[character]} "
    decomposed = unicodedata.normalize("NFKC", character)
    over, slash, under = decomposed.partition("\u2044")
    if slash:  # a vulgar fraction such as one half
        return f"\\frac{{{over}}}{{{under}}}"
    return decomposed if decomposed.isascii() else character
