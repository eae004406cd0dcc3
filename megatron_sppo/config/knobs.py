"""How a knob is declared."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def knob(default: Any, meaning: str) -> Any:
    """A dataclass field with its default and a one-line meaning."""
    return field(default=default, metadata={"meaning": meaning})


def section(kind: type, meaning: str) -> Any:
    """A nested config section built from its own defaults."""
    return field(default_factory=kind, metadata={"meaning": meaning})


REQUIRED = ""  # a knob without a sensible default; `arithmetic.check` names it when it is still empty
