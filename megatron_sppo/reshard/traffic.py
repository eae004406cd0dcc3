"""What a plan moves, per rank, against the least that the layouts allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megatron_sppo.reshard.boxes import Boxes, Ints, RankLayout, num_elements
from megatron_sppo.reshard.copies import Copies


def format_bytes(count: float) -> str:
    """Decimal units. Example: 1904000000 -> "1.90 GB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} B"


@dataclass(frozen=True)
class Traffic:
    """Bytes of one reshard, per rank [world]."""

    needed: Ints  # vLLM's weights on this rank, padding left out
    held: Ints  # of those, what the trainer has on the same rank
    received: Ints
    sent: Ints
    received_across: Ints  # of the bytes received, those from another node
    num_copies: int

    @property
    def minimum(self) -> Ints:
        return self.needed - self.held

    @property
    def ratio_to_minimum(self) -> float:
        """Bytes received over the least possible, all ranks together; 1 where nothing has to move and nothing does."""
        received, least = int(self.received.sum()), int(self.minimum.sum())
        return received / least if least else (1.0 if received == 0 else float("inf"))

    def summary(self) -> str:
        engine = self.needed > 0
        received = self.received[engine] if engine.any() else self.received
        return (
            f"a rank needs {format_bytes(self.needed.max())} and receives {format_bytes(received.max())} at most, "
            f"{format_bytes(received.mean())} on average ({format_bytes(self.received_across.sum())} in all from other nodes), "
            f"sends {format_bytes(self.sent.max())} at most; {self.ratio_to_minimum:.3f} x the minimum; {self.num_copies} copies"
        )


def held_elements(source: Boxes, target: Boxes) -> int:
    """Elements of ``target``'s boxes that ``source`` has too, on one rank. Counted without the planner: box by box of a tensor.

    ``source`` may have a rectangle twice (a tied embedding); it counts once.
    """
    rectangles = np.stack([source.tensor, source.row, source.column, source.rows, source.columns], axis=1)
    own = source.take(np.unique(rectangles, axis=0, return_index=True)[1])  # sorted by tensor
    first = np.searchsorted(own.tensor, target.tensor, side="left")
    count = np.searchsorted(own.tensor, target.tensor, side="right") - first
    want = np.repeat(np.arange(len(target)), count)
    have = first[want] + np.arange(len(want)) - np.repeat(np.cumsum(count) - count, count)
    a, b = target.take(want), own.take(have)
    rows = np.minimum(a.row + a.rows, b.row + b.rows) - np.maximum(a.row, b.row)
    columns = np.minimum(a.column + a.columns, b.column + b.columns) - np.maximum(a.column, b.column)
    return int((np.maximum(rows, 0) * np.maximum(columns, 0)).sum())


def measure_traffic(
    copies: Copies, sources: Sequence[RankLayout], targets: Sequence[RankLayout], nodes: Sequence[int], itemsize: int
) -> Traffic:
    """``itemsize``: bytes of an element on the wire."""
    world_size, node = len(nodes), np.asarray(nodes)
    moving = copies.take(~copies.is_local)
    across = moving.take(node[moving.source] != node[moving.target])
    held = [held_elements(source.boxes, target.boxes) for source, target in zip(sources, targets, strict=True)]

    def per_rank(rank: Ints, size: Ints) -> Ints:
        return np.bincount(rank, weights=size, minlength=world_size).astype(np.int64) * itemsize

    return Traffic(
        needed=np.array([target.num_elements for target in targets]) * itemsize,
        held=np.array(held) * itemsize,
        received=per_rank(moving.target, moving.size),
        sent=per_rank(moving.source, moving.size),
        received_across=per_rank(across.target, across.size),
        num_copies=len(copies),
    )


def gather_bytes(shapes: dict[str, tuple[int, ...]], tp: int, pp: int, itemsize: int) -> int:
    """Received per rank where each gathers the whole model: a broadcast over the stages, then an all-gather over TP."""
    whole = num_elements(shapes) * itemsize
    return round(whole / tp * (pp - 1) / pp + whole * (tp - 1) / tp)
