"""Which bytes go from which rank to which: computed once, by every rank for itself, from the layouts of all.

The least a rank can receive is what it needs less what it holds, and the plan receives exactly that:

* a destination's box is intersected with the *regions* of its tensor, i.e. with the rectangles into which the trainer cuts it;
* a region that the rank itself holds is copied on the rank and never travels;
* another is fetched from the ranks that hold it: those of the rank's own node if there are any, otherwise all of them; where
  several do (data-parallel replicas, tied embeddings, norms) they share the sending evenly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from megatron_sppo.reshard.boxes import Boxes, Ints, RankLayout, Shapes, matrix_shape
from megatron_sppo.reshard.copies import Copies, chop

_PIECES_PER_HOLDER = 16  # of a shared sending: holders' loads differ by at most one piece
_SMALLEST_PIECE = 1 << 15  # elements: below it, sharing costs more than it gives


class UnplannableLayout(RuntimeError):
    """The layouts do not describe copies of whole tensors; nothing may be moved."""


@dataclass(frozen=True)
class Regions:
    """The G rectangles into which the trainer's ranks cut the HF tensors, sorted by tensor, and who holds each."""

    boxes: Boxes  # params, offsets and strides are meaningless here
    held_as: NDArray[np.int64]  # [G, world]: index into ``held`` of the rank's box, -1 where it has none
    held: Boxes  # of all ranks

    @classmethod
    def of(cls, sources: Sequence[RankLayout], shapes: Shapes) -> Regions:
        held = Boxes.concatenate([layout.boxes for layout in sources])
        rank = np.repeat(np.arange(len(sources)), [len(layout.boxes) for layout in sources])
        rectangles = np.stack([held.tensor, held.row, held.column, held.rows, held.columns], axis=1)
        unique, first, region = np.unique(rectangles, axis=0, return_index=True, return_inverse=True)
        held_as = np.full((len(unique), len(sources)), -1, dtype=np.int64)
        # Backwards, so that of two copies on one rank (a tied embedding on a single stage) the first is kept.
        held_as[region.reshape(-1)[::-1], rank[::-1]] = np.arange(len(held))[::-1]
        regions = cls(held.take(first), held_as, held)
        regions.check_tiling(shapes)
        return regions

    def check_tiling(self, shapes: Shapes) -> None:
        """Each tensor is cut along one dimension, into pieces that follow each other from its start to its end."""
        sizes = np.array([matrix_shape(shape) for shape in shapes.values()], dtype=np.int64)
        boxes = self.boxes
        rows, columns = sizes[boxes.tensor].T
        by_rows = (boxes.column == 0) & (boxes.columns == columns)
        by_columns = (boxes.row == 0) & (boxes.rows == rows)
        start = np.where(by_rows, boxes.row, boxes.column)
        length = np.where(by_rows, boxes.rows, boxes.columns)
        starts_tensor = np.diff(boxes.tensor, prepend=-1) != 0
        expected = np.where(starts_tensor, 0, np.roll(start + length, 1))
        ends_tensor = np.roll(starts_tensor, -1)
        good = (by_rows | by_columns) & (start == expected)
        good &= ~ends_tensor | (start + length == np.where(by_rows, rows, columns))
        missing = set(range(len(shapes))) - set(boxes.tensor.tolist())
        bad = sorted(missing | set(boxes.tensor[~good].tolist()))
        if bad:
            names = list(shapes)
            raise UnplannableLayout(
                f"The trainer's ranks do not hold {names[bad[0]]} in pieces that tile it ({len(bad)} tensors)."
            )


def _intersect(regions: Regions, targets: Sequence[RankLayout], shapes: Shapes) -> tuple[Copies, Ints]:
    """Every overlap of a destination's box with a region, sources still open, and the overlap's region."""
    wanted = Boxes.concatenate([layout.boxes for layout in targets])
    counts = [len(layout.boxes) for layout in targets]
    target = np.repeat(np.arange(len(targets)), counts)
    order = np.concatenate([np.arange(count) for count in counts])
    first = np.searchsorted(regions.boxes.tensor, wanted.tensor, side="left")
    num_regions = np.searchsorted(regions.boxes.tensor, wanted.tensor, side="right") - first
    want = np.repeat(np.arange(len(wanted)), num_regions)
    within = np.arange(len(want)) - np.repeat(np.cumsum(num_regions) - num_regions, num_regions)
    region = first[want] + within
    box, cut = wanted.take(want), regions.boxes.take(region)
    row, column = np.maximum(box.row, cut.row), np.maximum(box.column, cut.column)
    rows = np.minimum(box.row + box.rows, cut.row + cut.rows) - row
    columns = np.minimum(box.column + box.columns, cut.column + cut.columns) - column
    open_source = np.full(len(want), -1, dtype=np.int64)
    overlaps = Copies(
        tensor=box.tensor,
        row=row,
        column=column,
        rows=rows,
        columns=columns,
        source=open_source,
        source_param=open_source,
        source_offset=open_source,
        source_stride=open_source,
        target=target[want],
        target_param=box.param,
        target_offset=box.offset + (row - box.row) * box.row_stride + column - box.column,
        target_stride=box.row_stride,
        order=order[want],
    )
    real = (rows > 0) & (columns > 0)
    covered = np.bincount(want[real], weights=overlaps.size[real], minlength=len(wanted))
    if not np.array_equal(covered.astype(np.int64), wanted.size):
        name = list(shapes)[int(wanted.tensor[covered != wanted.size][0])]
        raise UnplannableLayout(f"vLLM's ranks ask for parts of {name} that lie outside of it.")
    return overlaps.take(real), region[real]


def _bind(overlaps: Copies, region: Ints, source: Ints, regions: Regions) -> Copies:
    """The same copies with their source: the box by which rank ``source`` holds the region."""
    box = regions.held.take(regions.held_as[region, source])
    return replace(
        overlaps,
        source=source,
        source_param=box.param,
        source_offset=box.offset + (overlaps.row - box.row) * box.row_stride + overlaps.column - box.column,
        source_stride=box.row_stride,
    )


def _holders(regions: Regions, nodes: Sequence[int]) -> tuple[Ints, list[list[Ints]]]:
    """Each region's set of holders by number, and for each set and each rank whom the rank would fetch it from."""
    sets, set_of = np.unique(regions.held_as >= 0, axis=0, return_inverse=True)
    node = np.asarray(nodes)
    choices = []
    for holds in sets:
        everyone = np.flatnonzero(holds)
        near = [everyone[node[everyone] == node[rank]] for rank in range(len(node))]
        choices.append([local if len(local) else everyone for local in near])
    return set_of.reshape(-1), choices


def _share_sending(overlaps: Copies, region: Ints, regions: Regions, nodes: Sequence[int], max_piece: int) -> Copies:
    """Sources of what must travel. What a rank fetches from one set of k holders is laid end to end, in the order of its
    parameters, and cut into k equal parts, one for each; the first part falls to another holder on each rank.
    """
    set_of, choices = _holders(regions, nodes)
    group = set_of[region] * len(nodes) + overlaps.target
    sequence = np.lexsort((overlaps.order, group))
    overlaps, region, group = overlaps.take(sequence), region[sequence], group[sequence]
    keys, group = np.unique(group, return_inverse=True)
    holders = [choices[key // len(nodes)][key % len(nodes)] for key in keys]
    num_holders = np.array([len(ranks) for ranks in holders])
    total = np.bincount(group, weights=overlaps.size, minlength=len(keys)).astype(np.int64)
    piece = np.clip(total // (num_holders * _PIECES_PER_HOLDER), min(_SMALLEST_PIECE, max_piece), max_piece)
    piece = np.where(num_holders == 1, max_piece, piece)
    number = np.arange(len(overlaps))
    pieces = chop(replace(overlaps, order=number), piece[group])
    parent = pieces.order
    pieces, region, group = replace(pieces, order=overlaps.order[parent]), region[parent], group[parent]
    begin = np.cumsum(pieces.size) - pieces.size
    begin -= begin[np.searchsorted(group, np.arange(len(keys)))][group]  # of the piece in its group
    turn = begin * num_holders[group] // total[group] + pieces.target
    width = max(num_holders, default=1)
    table = np.array([np.resize(ranks, width) for ranks in holders], dtype=np.int64).reshape(-1, width)
    source = table[group, turn % num_holders[group]]
    return _bind(pieces, region, source, regions)


def plan_copies(
    sources: Sequence[RankLayout], targets: Sequence[RankLayout], shapes: Shapes, nodes: Sequence[int], max_piece: int = 1 << 22
) -> Copies:
    """All copies of one reshard, the same on every rank that calls it with the same layouts.

    Args:
        sources: what each rank of the world holds for the trainer; empty for ranks that do not train.
        targets: what each rank needs for vLLM; empty for ranks without an engine.
        shapes: the HF tensors that both sides' boxes count by.
        nodes: each rank's machine.
        max_piece: most elements of a copy that travels.

    Raises:
        UnplannableLayout: the trainer's pieces do not tile a tensor, or a destination asks for what is not in it.
    """
    assert len(sources) == len(targets) == len(nodes), "one layout of each side per rank"
    regions = Regions.of(sources, shapes)
    overlaps, region = _intersect(regions, targets, shapes)
    stays = regions.held_as[region, overlaps.target] >= 0
    local = _bind(overlaps.take(stays), region[stays], overlaps.target[stays], regions)
    if stays.all():
        return local
    return Copies.concatenate(local, _share_sending(overlaps.take(~stays), region[~stays], regions, nodes, max_piece))
