"""Parameters that Megatron and vLLM lay out alike on a rank: vLLM's may *be* Megatron's storage, and nothing is copied.

With equal TP and one stage these are all but the QKV of ranks with more than one KV group, which Megatron interleaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from megatron_sppo.reshard.boxes import Boxes, RankLayout
from megatron_sppo.reshard.copies import Copies
from megatron_sppo.reshard.source import FlatParameters

if TYPE_CHECKING:
    from megatron_sppo.rollout.live_weights import LiveWeights  # imports vLLM


def _forms(layout: RankLayout) -> dict[bytes, int]:
    """Parameter by what it holds and where: its rectangles and their places in its memory."""
    boxes: Boxes = layout.boxes
    stride = np.where(boxes.rows > 1, boxes.row_stride, 0)  # of one row it says nothing
    places = (boxes.offset, boxes.tensor, boxes.row, boxes.column, boxes.rows, boxes.columns, stride)
    table = np.stack(places, axis=1)
    by_param = np.lexsort((boxes.offset, boxes.param))
    params, starts = np.unique(boxes.param[by_param], return_index=True)
    rows = np.split(table[by_param], starts[1:]) if len(params) else []
    return {form.tobytes(): int(param) for param, form in zip(params, rows, strict=True)}


def identical_params(source: RankLayout, target: RankLayout) -> dict[int, int]:
    """Target parameter -> source parameter with the same elements in the same places. Their padding may differ.

    Example: vLLM's gate_up_proj -> Megatron's linear_fc1, both gate rows above up rows of the same shard.
    """
    held = _forms(source)
    return {param: held[form] for form, param in _forms(target).items() if form in held}


def aliasable_share(source: RankLayout, target: RankLayout) -> float:
    """Of the elements that a rank's engine needs."""
    identical = np.fromiter(identical_params(source, target), dtype=np.int64)
    size = target.boxes.size
    return float(size[np.isin(target.boxes.param, identical)].sum() / max(1, size.sum()))


class Aliases:
    """The parameters of this rank's engine that are the trainer's own memory."""

    def __init__(self, source: RankLayout, target: RankLayout, memory: FlatParameters, weights: LiveWeights) -> None:
        """Alias all that can be; ``memory`` are the trainer's parameters as in ``source``, ``weights`` the engine's."""
        self._memory, self._weights = memory, weights
        same = identical_params(source, target).items()
        self._held = {param: held for param, held in same if weights.alias(param, memory[held])}

    @property
    def num_bytes(self) -> int:
        return sum(self._memory[held].nbytes for held in self._held.values())

    def without(self, local: Copies, rank: int) -> Copies:
        """The copies within a rank that still have to be made. What travels is untouched: an alias has all on its own rank."""
        return local.take(~((local.target == rank) & np.isin(local.target_param, list(self._held))))

    def check(self) -> None:
        """RuntimeError where either side has moved its memory: vLLM would go on with old weights."""
        apart = [param for param, held in self._held.items() if not self._weights.is_aliased(param, self._memory[held])]
        if apart:
            names = ", ".join(self._weights.names[param] for param in apart[:3])
            raise RuntimeError(f"vLLM's {names} are no longer the trainer's memory; set rollout.alias_weights=false.")
