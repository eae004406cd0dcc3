"""Why tests cannot be used."""

from __future__ import annotations


class BadTests(ValueError):
    """The gold holds no tests that we can run: the data's fault, not the program's."""


class Inseparable(ValueError):
    """A test whose expected values cannot be kept away from the program."""
