"""The paper's grader, step by step, quirks included: (gold, response, right, stage and why)."""

from __future__ import annotations

import pytest

from megatron_sppo.rewards.math import grade, grade_detailed

ROWS = [
    # extraction
    ("5", r"\boxed{5}", 1, "A: box"),
    ("5", "5", 1, "A: no box, the whole text is the answer"),
    ("5", "It is 5", 0, "the whole text is more than the answer"),
    ("5", r"\boxed{4}</think>5", 1, "A: only what follows </think>"),
    ("5", r"\boxed{4} \boxed{5}", 1, "A: last box"),
    ("5", r"\fbox{5}", 1, "A: fbox where there is no box"),
    ("5", r"\boxed{4} \fbox{5}", 0, "a box beats an fbox"),
    ("5", r"\boxed{5", 0, "unterminated: the whole text"),
    (r"\frac{1}{2}", r"\boxed{\frac{1}{2}}", 1, "A: braces are counted"),
    # stage A
    (r"\frac{1}{2}", r"\boxed{0.5}", 1, "A: 0.5 is a half"),
    (r"\frac{1}{2}", r"\boxed{\dfrac12}", 1, "A: dfrac, braces"),
    (r"\frac{1}{2}", r"\boxed{1/2}", 1, "A: integer a/b"),
    (r"\sqrt{3}", r"\boxed{\sqrt3}", 1, "A: root braced"),
    ("5", r"\boxed{x=5}", 1, "A: short left side"),
    ("5", r"\boxed{x = 5}", 1, "A: the left side is short with its space"),
    ("5", r"\boxed{abc=5}", 0, "the left side is too long"),
    (r"36^\circ", r"\boxed{36}", 1, "A: degrees dropped"),
    ("even", r"\boxed{\text{even}}", 1, "A: whole text unwrapped"),
    ("0.25", r"\boxed{.25}", 1, "A: leading zero"),
    (r"(1,2)", r"\boxed{\left(1, 2\right)}", 1, "A: sized brackets, spaces"),
    ("10080", r"\boxed{10,\!080}", 1, "B: thousands"),
    # stage B
    ("27.0", r"\boxed{27}", 1, "B: whole float"),
    ("025", r"\boxed{25}", 1, "B: zero-padded gold"),
    ("50", r"\boxed{50\%}", 1, "A: percent dropped"),
    ("5000000", r"\boxed{5 million}", 0, "5*10^6 is not written as an integer"),
    ("5 million", r"\boxed{5*10^6}", 1, "B: million"),
    ("12", r"\boxed{12 cm}", 1, "B: unit word"),
    ("12", r"\boxed{12 apples}", 0, "no unit of the list"),
    ("1234", r"\boxed{1,234}", 1, "B: thousands comma"),
    ("Yes", r"\boxed{yes}", 1, "B: lower case"),
    # stage C
    ("(1,2)", r"\boxed{(2,1)}", 0, "ordered"),
    ("[1,2]", r"\boxed{(1,2)}", 0, "brackets must match"),
    ("(x+1,2)", r"\boxed{(1+x,2)}", 1, "C: element by element"),
    ("2x+2", r"\boxed{2(x+1)}", 1, "C: symbolic"),
    (r"\sqrt{8}", r"\boxed{2\sqrt{2}}", 1, "C: symbolic"),
    (r"\frac{1}{2}", r"\boxed{\frac{2}{4}}", 0, "both a/b compare as strings, and no stage after that knows LaTeX"),
    ("1024", r"\boxed{2^{10}}", 0, "powers of numbers are not evaluated"),
    ("a+b+c", r"\boxed{c+b+a}", 0, "three letters are not evaluated"),
    ("2", r"\boxed{1+1}", 0, "one integer alone is wrong"),
    # stage D
    ("12", r"\boxed{1200}", 1, "D: gold x 100"),
    ("12", r"\boxed{0.12}", 1, "D: gold / 100"),
    ("12", r"\boxed{13}", 0, "not close"),
    ("20000", r"\boxed{20001}", 1, "D: close"),
    ("2000", r"\boxed{2001}", 0, "not close enough"),
    ("0.3333", r"\boxed{0.33333}", 1, "D: close"),
    ("(3,4]", r"\boxed{(3,4)}", 1, "D: bracket leniency"),
    (r"2\pi", r"\boxed{\pi \cdot 2}", 1, "C: pi in the normal form"),
    (r"(\pi,4]", r"\boxed{(\pi,4)}", 0, "D never passes with pi"),
    ("12", r"\boxed{-12}", 0, "sign"),
]


@pytest.mark.parametrize(("gold", "response", "right", "why"), ROWS)
def test_row(gold: str, response: str, right: int, why: str) -> None:
    verdict = grade_detailed(gold, response, "reasoning360")
    assert verdict.reward == right, (verdict, why)
    assert verdict.reason == (f"stage {why[0]}" if right else "different"), (verdict, why)


def test_strict_and_compatible_differ_where_the_notes_say_so() -> None:
    for gold, response in (("12", r"\boxed{1200}"), ("20000", r"\boxed{20001}"), ("(3,4]", r"\boxed{(3,4)}"), ("5", "5")):
        assert grade(gold, response, "reasoning360") == 1.0 and grade(gold, response) == 0.0
