"""Releases of a third party that this package is known to work with."""

from __future__ import annotations

import re
from dataclasses import dataclass

from megatron_sppo.errors import UserError


@dataclass(frozen=True)
class Releases:
    package: str  # as pip calls it
    oldest: tuple[int, int]
    newest: tuple[int, int]

    def check(self, version: str) -> str:
        """A warning about ``version`` in one sentence, empty within the range; UserError for one that is too old to work."""
        number = release(version)
        if number < self.oldest:
            raise UserError(
                f"{self.package} {version} is older than {_dotted(self.oldest)}, the oldest that works: "
                f"pip install '{self.requirement}'"
            )
        if number > self.newest:
            return (
                f"{self.package} {version} is newer than {_dotted(self.newest)}, the newest that is supported: "
                f"if something fails, pip install '{self.requirement}'"
            )
        return ""

    @property
    def requirement(self) -> str:
        """For pip: ``megatron-core>=0.16,<0.20``."""
        major, minor = self.newest
        return f"{self.package}>={_dotted(self.oldest)},<{major}.{minor + 1}"


def release(version: str) -> tuple[int, int]:
    """``0.19.0rc1+cpu`` -> (0, 19)."""
    major, minor = re.findall(r"\d+", version)[:2]
    return int(major), int(minor)


def _dotted(number: tuple[int, int]) -> str:
    return ".".join(map(str, number))
