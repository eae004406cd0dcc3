"""Names, colours and line styles of methods, the same in every figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megatron_sppo.analysis.drawing import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RED, SKY

LINES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Look:
    color: str
    line: str = "-"


NAMES: Mapping[str, str] = {
    "sppo": "SPPO",
    "grpo": "GRPO",
    "rloo": "RLOO",
    "remax": "ReMax",
    "ppo": "PPO",
    "ppo_bce": "PPO + BCE",
}
COLORS: Mapping[str, str] = {"sppo": RED, "grpo": BLUE, "rloo": GREEN, "remax": PURPLE, "ppo": INK, "ppo_bce": SKY}
OTHERS = (ORANGE, GREY)


def looks(methods: Sequence[tuple[str, str]]) -> dict[str, Look]:
    """Label -> look, of (label, algorithm), in the figures' order; variants of an algorithm share its colour, not its line."""
    found: dict[str, Look] = {}
    variants: dict[str, int] = {}
    for label, algorithm in sorted(dict.fromkeys(methods), key=_place):
        strangers = [name for name in variants if name not in COLORS]
        color = COLORS.get(algorithm) or OTHERS[(strangers.index(algorithm) if algorithm in strangers else len(strangers)) % 2]
        found[label] = Look(color, LINES[variants.get(algorithm, 0) % len(LINES)])
        variants[algorithm] = variants.get(algorithm, 0) + 1
    return found


def _place(method: tuple[str, str]) -> tuple[int, bool]:
    """By algorithm, the one that bears its plain name first."""
    label, algorithm = method
    order = list(NAMES)
    return (order.index(algorithm) if algorithm in order else len(order)), label != NAMES.get(algorithm, algorithm)
