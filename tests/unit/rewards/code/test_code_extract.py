"""Which program of a response is graded."""

from __future__ import annotations

import time

import pytest

from megatron_sppo.rewards.code.extract import last_program


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("```python\nprint(1)\n```", "print(1)\n"),
        ("```\nprint(1)\n```", "print(1)\n"),
        ("~~~py\nprint(1)\n~~~", "print(1)\n"),
        ("```Python3  \r\nprint(1)\r\n```", "print(1)\n"),
        ("```python\n1\n```\ntext\n```python\n2\n```", "2\n"),
        ("```python\n1\n```\nIt prints\n```text\n1\n```", "1\n"),
        ("```python\n1\n```</think> So ```\n2\n```", None),  # a fence begins a line
        ("```python\n1\n```</think>\n```\n2\n```", "2\n"),
        ("<think>```python\n1\n```</think> The answer is 5.", None),
        ("```python\nx = '''\n````\n'''\n```", None),  # a longer fence closes the block, and what follows is open
        ("````python\nx = '''\n```\n'''\n````", "x = '''\n```\n'''\n"),
        ("```python\nprint(1)", None),
        ("```python\n1\n```\n```python\nprint(", None),
        ("```python\n \n```", None),
        ("```cpp\nint main() {}\n```", None),
        ("print(1)", None),
        ("", None),
    ],
)
def test_the_last_closed_python_block_after_thinking(response: str, program: str | None) -> None:
    assert last_program(response) == program


@pytest.mark.parametrize(
    "text", ["```\n" * 200_000, "`" * 1_000_000, "``` `\n" * 200_000, " " * 1_000_000, "```" + "a" * 1_000_000]
)
def test_hostile_text_is_linear(text: str) -> None:
    started = time.perf_counter()
    last_program(text)
    assert time.perf_counter() - started < 2.0


def test_very_long_programs_are_none() -> None:
    assert last_program("```\n" + "x" * 1_000_000 + "\n```") is None
