from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from megatron_sppo.rewards.boxed import BoxedExact, BoxedNumeric, last_boxed, parse_number
from megatron_sppo.rewards.protocol import Sample


def sample(response: str, gold: str) -> Sample:
    return Sample(prompt="?", response=response, gold=gold, source="test", truncated=False)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so \boxed{46}.", "46"),
        (r"\boxed{1} then \boxed{ 2 }", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed {5}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"<think>\boxed{1}</think> it is \boxed{2}", "2"),
        (r"\boxed{1}</think> no box here", None),
        (r"still thinking, \boxed{3}", "3"),
        (r"\boxed{1} and \boxed{2", None),
        (r"\boxed{}", None),
        (r"\boxed 5", None),
        ("no box", None),
        ("", None),
    ],
)
def test_last_boxed(response: str, answer: str | None) -> None:
    assert last_boxed(response) == answer


@pytest.mark.parametrize(
    "hostile",
    [
        r"\boxed{" * 15_000,
        r"\boxed" + "{" * 100_000,
        r"\boxed{" + "\\" * 100_000,
        r"\boxed{" + "{}" * 50_000,
        r"\boxed" + " " * 100_000,
    ],
)
def test_hostile_boxes_take_linear_time(hostile: str) -> None:
    start = time.perf_counter()
    assert last_boxed(hostile) is None
    assert time.perf_counter() - start < 1.0


@given(st.text(alphabet=st.sampled_from(list("\\boxed{} </think>12,./-frac")), max_size=200))
@example("\\boxed{" * 3 + "}" * 3)
def test_boxed_never_crashes(response: str) -> None:
    answer = last_boxed(response)
    assert answer is None or (answer and answer in response)
    assert BoxedExact()([sample(response, "1")]) in ([0.0], [1.0])
    assert BoxedNumeric()([sample(response, "1")]) in ([0.0], [1.0])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("25", 25),
        ("025", 25),
        ("27.0", 27),
        ("-3", -3),
        ("+3", 3),
        ("\u22123", -3),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("1,234", 1234),
        ("1{,}234", 1234),
        ("1,234,567.5", Fraction("1234567.5")),
        ("1/2", Fraction(1, 2)),
        ("-1 / 2", Fraction(-1, 2)),
        (r"\frac{1}{2}", Fraction(1, 2)),
        (r"-\dfrac{10}{4}", Fraction(-5, 2)),
        (r"\tfrac{-1}{2}", Fraction(-1, 2)),
        ("4.5e33", 45 * 10**32),
        ("1e-3", Fraction(1, 1000)),
        ("9007199254740993", 2**53 + 1),
    ],
)
def test_numbers_are_read_exactly(text: str, value: int | Fraction) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "-", ".", "e5",
     "12,34", "1,2,3", "1/0", r"\frac{1}{0}", "1/2/3", "x", "1 2", "0x10", "1_000", "nan", "inf", "٣", "336^\\circ",
     "1e401", "1e99999999", "9" * 301, "2^{10}", "__import__('os')"],
)  # fmt: skip
def test_what_is_no_number(text: str) -> None:
    assert parse_number(text) is None


@given(st.fractions())
def test_a_written_fraction_reads_as_itself(value: Fraction) -> None:
    sign = "-" if value < 0 else ""
    assert parse_number(str(value)) == value
    assert parse_number(rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}") == value


@given(st.text(max_size=50))
def test_parsing_never_crashes(text: str) -> None:
    assert parse_number(text) is None or isinstance(parse_number(text), Fraction)


def test_exact_and_numeric_grades() -> None:
    samples = [sample(r"\boxed{27}", "27.0"), sample(r"\boxed{25}", " 25 "), sample(r"\boxed{0.333}", "1/3"), sample("27", "27")]
    assert BoxedExact()(samples) == [0.0, 1.0, 0.0, 0.0]
    assert BoxedNumeric()(samples) == [1.0, 1.0, 0.0, 0.0]


def test_a_gold_that_is_no_number_is_compared_as_text() -> None:
    golds = [r"336^\circ", r"\frac{\pi}{2}"]
    assert BoxedNumeric()([sample(rf"\boxed{{{gold}}}", gold) for gold in golds]) == [1.0, 1.0]
    assert BoxedNumeric()([sample(r"\boxed{336}", golds[0])]) == [0.0]
