"""The names that docs/metrics.md explains."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from tests.launch import ROOT


@cache
def explained_names() -> tuple[str, ...]:
    """First columns of its tables: ``reward/mean``, ``validation/<benchmark>/avg@<k>``, ..."""
    lines = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8").splitlines()
    cells = [line.split("|")[1] for line in lines if line.startswith("| `")]
    return tuple(name for cell in cells for name in re.findall(r"`([^`]+)`", cell))


def unexplained(names: Iterable[str]) -> list[str]:
    """Those of ``names`` that no line of the glossary fits; a word in angle brackets stands for any."""
    patterns = [
        re.compile(re.sub(r"<\w+>", r"[^/]+", re.escape(name).replace(r"\<", "<").replace(r"\>", ">")))
        for name in explained_names()
    ]
    return [name for name in names if not any(pattern.fullmatch(name) for pattern in patterns)]
