"""Model text is hostile: nothing is executed, nothing hangs, whatever is thrown at the grader."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_sppo.rewards.math import grade, grade_detailed

LIMIT_SECONDS = 2.0
CANARY = "math_grader_canary"

HOSTILE = {
    "tower": "9^{9^{9^{9^{9^{9}}}}}",
    "plain tower": "9**9**9**9**9",
    "long tower": "^".join(["9"] * 500),
    "tower of e": "e^{e^{e^{e^{e^{e^{10}}}}}}",
    "huge exponent": "2^{10^{18}}",
    "huge exponent of a symbol": "x^{10^{18}}",
    "huge negative exponent": "10^{-10^{12}}",
    "exponent in decimals": "1e999999999",
    "modest exponent, large power": "(10^{4000})^{4000}",
    "factorial": "(10^{9})!",
    "factorials": "9!!!!!!",
    "large factorial": "99999999!",
    "factorial of a factorial": "((20!)!)!",
    "binomial": r"\binom{10^9}{5 \cdot 10^8}",
    "huge power of a sum": "(a+b+c+d)^{300}",
    "product of sums": "(a+b)(c+d)(e+f)(g+h)(j+k)(l+m)(n+o)(p+q)(r+s)(t+u)(v+w)(x+y)",
    "powers of sums": "(x+y)^{100}(x-y)^{100}(x+2y)^{100}",
    "roots": r"\sqrt{" * 200 + "2" + "}" * 200,
    "root index": r"\sqrt[10^{9}]{2}",
    "nested fractions": r"\frac{1}{" * 300 + "2" + "}" * 300,
    "nested brackets": "(" * 900 + "1" + ")" * 900,
    "open brackets": "(" * 1900,
    "nested braces": "{" * 50_000 + "1" + "}" * 50_000,
    "nested text": r"\text{" * 300 + "1" + "}" * 300,
    "minus signs": "-" * 1900 + "1",
    "plus-minus signs": r"1 \pm 1" * 200,
    "bars": "|" * 1500,
    "100 kB of digits": "7" * 100_000,
    "2 kB of digits": "7" * 1990,
    "digits below a line": r"\frac{1}{" + "7" * 1900 + "}",
    "100 kB of letters": "a" * 100_000,
    "100 kB of spaces": "1" + " " * 100_000 + "1",
    "100 kB of backslashes": "\\\\" * 50_000,
    "2 kB of backslashes": "\\\\" * 900,
    "backslash letters": r"\a" * 900,
    "commas": "," * 1900,
    "numbers and commas": "1," * 900 + "1",
    "thousands": "1" + ",000" * 450,
    "units": r"5 \text{" + "m " * 800 + "}",
    "unit powers": "5 " + "m^2 " * 400,
    "spaces in text": r"\text{" + "a " * 900 + "!}",
    "words": "a-" * 900,
    "dollars": "$" * 1900,
    "primes": "x" + "'" * 1900,
    "matrix": r"\begin{pmatrix}" + r"1 & 2 \\ " * 200 + r"\end{pmatrix}",
    "many quotients": "/".join(["2"] * 450),
    "many quotients in brackets": "(" * 25 + ("1" + "/2" * 15 + ")") * 25,
    "many factorials": "1" + "!" * 1900,
    "many unions": r"\cup".join(["(1,2)"] * 150),
    "many degrees": "1" + "°" * 1900,
    "fractions without braces": r"\frac" * 900 + "12",
    "roots without braces": r"\sqrt" * 900 + "2",
    "functions without brackets": r"\sin" * 900 + "2",
    "arithmetic": "+".join(["1"] * 450),
    "different radicals": "+".join(rf"\sqrt{{{n}}}" for n in range(2, 150)),
    "different denominators": "+".join(rf"\frac{{1}}{{x+{n}}}" for n in range(1, 80)),
    "large prime": r"\sqrt{" + str((2**521 - 1) * (2**607 - 1)) + "}",
    "gcd": r"\gcd(" + "9" * 900 + "," + "7" * 900 + ")",
    "trigonometric tower": r"\sin(" * 30 + "10^{4000}" + ")" * 30,
    "gamma of a complex number": "(10^{6}i)!",
    "exp of exp": r"\exp(\exp(\exp(\exp(100))))",
    "python import": f"__import__('os').system('touch {CANARY}')",
    "python open": f"open('{CANARY}','w').write('x')",
    "sympy code": f"sympify(\"__import__('os').system('touch {CANARY}')\")",
    "lambda": f"(lambda: __import__('pathlib').Path('{CANARY}').touch())()",
    "format string": "{0.__class__.__mro__[1].__subclasses__()}",
    "dunder": "().__class__.__bases__[0].__subclasses__()",
    "shell": f"$(touch {CANARY})`touch {CANARY}`",
    "latex write": rf"\immediate\write18{{touch {CANARY}}}",
    "latex input": r"\input{/etc/passwd}",
    "latex macro": r"\def\x{\x\x}\x",
    "json": '["number", "1", []]',
    "null bytes": "1\x000",
    "newlines": "1\n" * 900,
    "surrogates": "\ud800" * 100,
    "right to left": "\u202e21",
    "combining": "1" + "\u0301" * 900,
    "digits of another script": "٤٢",
    "superscripts": "2" + "⁹" * 900,
    "empty group": "{}",
    "only commands": r"\frac",
    "an accent without its argument": r"1+\overline",
    "a subscript without its argument": "x_",
    "unfinished": r"\frac{1}{",
    "sums": r"\sum_{n=1}^{10^{12}} n",
    "integral": r"\int_0^\infty e^{-x^2} dx",
}  # fmt: skip


@pytest.mark.parametrize("gold", ["42", "x^2+1", r"\sqrt{2}+\sqrt{3}", r"\sin x", r"\{1,2\}"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_are_wrong_and_fast(name: str, gold: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    started = time.perf_counter()
    reward = grade(gold, f"\\boxed{{{HOSTILE[name]}}}")
    assert reward == 0.0 and time.perf_counter() - started < LIMIT_SECONDS
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_gold_is_no_worse(name: str) -> None:
    started = time.perf_counter()
    assert grade(HOSTILE[name], r"\boxed{41}") == 0.0
    grade(HOSTILE[name], f"\\boxed{{{HOSTILE[name]}+0}}")
    assert time.perf_counter() - started < 2 * LIMIT_SECONDS


@pytest.mark.parametrize("name", HOSTILE)
def test_the_compatible_grader_is_safe_too(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for response in (f"\\boxed{{{HOSTILE[name]}}}", HOSTILE[name]):
        started = time.perf_counter()
        assert grade(r"\sqrt{2}+1", response, "reasoning360") == 0.0
        assert time.perf_counter() - started < LIMIT_SECONDS
    assert not list(tmp_path.iterdir())


def test_a_response_of_many_boxes_is_read_in_linear_time() -> None:
    started = time.perf_counter()
    assert grade("1", "\\boxed" * 200_000) == 0.0
    assert grade("1", "\\boxed{" * 200_000) == 0.0
    assert grade("1", r"\boxed{1}" * 200_000) == 1.0
    assert time.perf_counter() - started < LIMIT_SECONDS


PIECES = st.sampled_from(
    r"\frac \sqrt { } ( ) [ ] , . ; | ! ^ _ + - * / = < > \pm \in \cup \text{cm} \text{or} \pi x y e i 0 1 12 3.5 1e5 % \% \$ $ "
    r"\begin{pmatrix} \end{pmatrix} \\ & \left \right \{ \} \infty \sin \ln \log_2 ^\circ ' \overline \binom \mathbb{R} : ~ \, "
    r"x^2 2^{10} ± √ ½ ² ∞ ≤ or and cm".split()
)


@given(st.lists(PIECES, max_size=25), st.lists(PIECES, max_size=12), st.sampled_from(["", " "]))
def test_fuzz_of_the_grammar(answer: list[str], gold: list[str], space: str) -> None:
    started = time.perf_counter()
    verdict = grade_detailed(space.join(gold), f"\\boxed{{{space.join(answer)}}}")
    assert verdict.reward in {0.0, 1.0} and time.perf_counter() - started < LIMIT_SECONDS
    assert grade(space.join(gold), f"\\boxed{{{space.join(answer)}}}", "reasoning360") in {0.0, 1.0}


@given(st.text(max_size=80), st.text(max_size=40))
def test_fuzz_of_any_text(answer: str, gold: str) -> None:
    assert grade(gold, f"\\boxed{{{answer}}}") in {0.0, 1.0}
    assert grade(gold, answer, "reasoning360") in {0.0, 1.0}


@given(st.lists(PIECES, min_size=1, max_size=15))
def test_whatever_is_right_for_itself_stays_right(pieces: list[str]) -> None:
    """A gold in a box is right, unless the box ends before the gold does."""
    gold = " ".join(pieces).strip()
    verdict = grade_detailed(gold, f"\\boxed{{{gold}}}")
    assert verdict.reward == float(verdict.answer == gold) or verdict.reason != "different"


def test_eight_callers_at_once() -> None:
    pairs = [
        ("42", "42", 1.0), ("42", "43", 0.0), (r"\sin 2x", r"2\sin x\cos x", 1.0), (r"\sin 2x", r"2\sin x", 0.0),
        (r"\sqrt{3+2\sqrt2}", r"1+\sqrt2", 1.0), (r"\sin x", HOSTILE["exp of exp"], 0.0), ("x^2-1", "(x-1)(x+1)", 1.0),
        (r"\cot x", r"\frac{\cos x}{\sin x}", 1.0),
    ]  # fmt: skip
    with ThreadPoolExecutor(8) as threads:
        rewards = list(threads.map(lambda pair: grade(pair[0], f"\\boxed{{{pair[1]}}}"), pairs * 25))
    assert rewards == [right for _, _, right in pairs] * 25
