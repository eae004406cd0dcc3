"""A table of copies: rectangles with a place in a source rank's parameter and one in a destination rank's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from megatron_sppo.reshard.boxes import Ints


@dataclass(frozen=True)
class Copies:
    """N copies; all columns are int64 [N] and count elements."""

    tensor: Ints  # index of the HF tensor
    row: Ints  # of the first element in the HF tensor
    column: Ints
    rows: Ints
    columns: Ints
    source: Ints  # rank
    source_param: Ints
    source_offset: Ints
    source_stride: Ints  # from row to row
    target: Ints  # rank
    target_param: Ints
    target_offset: Ints
    target_stride: Ints
    order: Ints  # position of the destination's box on its rank; neighbours in a module are neighbours here

    def __len__(self) -> int:
        return len(self.tensor)

    @property
    def size(self) -> Ints:
        """Elements of each copy."""
        return self.rows * self.columns

    @property
    def is_local(self) -> NDArray[np.bool_]:
        return self.source == self.target

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Copies:
        return Copies(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @classmethod
    def concatenate(cls, first: Copies, second: Copies) -> Copies:
        return cls(**{f.name: np.concatenate([getattr(first, f.name), getattr(second, f.name)]) for f in fields(cls)})

    def add_to(self, digest: hashlib._Hash) -> None:
        for f in fields(self):
            digest.update(np.ascontiguousarray(getattr(self, f.name)).tobytes())


def chop(copies: Copies, limit: Ints) -> Copies:
    """The same copies in pieces of at most ``limit`` elements [N] each: whole rows where a row fits, parts of one row elsewhere.

    Example: 10 rows of 4 under a limit of 12 become 3 + 3 + 3 + 1 rows; under a limit of 3, 10 x (3 + 1) columns.
    """
    assert (limit >= 1).all(), "a piece has at least one element"
    column_step = np.minimum(copies.columns, limit)
    row_step = np.where(copies.columns <= limit, np.minimum(copies.rows, limit // column_step), 1)
    across = -(-copies.columns // column_step)
    num_pieces = -(-copies.rows // row_step) * across
    parent = np.repeat(np.arange(len(copies)), num_pieces)
    if len(parent) == len(copies):
        return copies
    piece = np.arange(len(parent)) - np.repeat(np.cumsum(num_pieces) - num_pieces, num_pieces)
    down, right = np.divmod(piece, across[parent])
    whole = copies.take(parent)
    first_row, first_column = down * row_step[parent], right * column_step[parent]
    return replace(
        whole,
        row=whole.row + first_row,
        column=whole.column + first_column,
        rows=np.minimum(row_step[parent], whole.rows - first_row),
        columns=np.minimum(column_step[parent], whole.columns - first_column),
        source_offset=whole.source_offset + first_row * whole.source_stride + first_column,
        target_offset=whole.target_offset + first_row * whole.target_stride + first_column,
    )
