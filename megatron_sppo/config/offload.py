"""Which parts of a model leave the device while nothing uses them, by ``offload``: the table that training and `plan` read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Part = Literal["weights", "gradients", "optimizer"]
PARTS: tuple[Part, ...] = ("weights", "gradients", "optimizer")
Level = Literal["none", "optimizer", "all"]
LEVELS: tuple[Level, ...] = ("none", "optimizer", "all")  # what costs least transfer first

# The actor's weights never leave: a reshard reads them just before vLLM takes its memory, and just after an update.
LEAVING: Mapping[Level, Mapping[str, frozenset[Part]]] = {
    "none": {"actor": frozenset(), "critic": frozenset()},
    "optimizer": {"actor": frozenset({"optimizer"}), "critic": frozenset({"optimizer"})},
    "all": {"actor": frozenset({"optimizer", "gradients"}), "critic": frozenset({"optimizer", "gradients", "weights"})},
}
# Every update begins by zeroing the gradients: their memory is given back and taken again, their content is not kept.
COPIED: frozenset[Part] = frozenset({"weights", "optimizer"})
