"""Boxes: which rectangle of which HF tensor lies where in a rank's own parameters.

Every layout of a dense or mixture-of-experts Qwen, in Megatron and in vLLM, is a set of *translated* rectangles of HF tensors:
no transpose, no arithmetic. The bytes two ranks have in common are then intersections of rectangles, and exact.

A table of N boxes is one array per column, so that a hundred thousand of them are intersected in a blink. A vector of n elements
is a matrix of one row: [1, n].

Example: HF tensor ``up`` [8, 3]; a rank that keeps rows 4..8 below 4 rows of ``gate`` in a parameter [8, 3] has the box
``row=4 column=0 rows=4 columns=3 offset=12 row_stride=3``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Shapes = Mapping[str, tuple[int, ...]]  # HF name -> shape; its order numbers the tensors


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """(rows, columns) of a vector or a matrix."""
    assert len(shape) in (1, 2), f"HF tensors are vectors or matrices, not {tuple(shape)}"
    return (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])


@dataclass(frozen=True)
class Boxes:
    """N rectangles; all columns are int64 [N] and count elements."""

    tensor: Ints  # index of the HF tensor in the model's Shapes
    row: Ints  # of the rectangle's first element in the HF tensor
    column: Ints
    rows: Ints
    columns: Ints
    param: Ints  # index of the rank's own parameter
    offset: Ints  # of the rectangle's first element in that parameter
    row_stride: Ints  # from one row to the next in that parameter; neighbouring columns are neighbours in memory

    def __len__(self) -> int:
        return len(self.tensor)

    @property
    def size(self) -> Ints:
        """Elements of each box."""
        return self.rows * self.columns

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Boxes:
        return Boxes(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @classmethod
    def of(cls, rows: Iterable[tuple[int, ...]]) -> Boxes:
        """From one tuple per box, in the order of the fields."""
        table = np.array(list(rows), dtype=np.int64).reshape(-1, len(fields(cls)))
        return cls(*np.ascontiguousarray(table.T))

    @classmethod
    def concatenate(cls, tables: Sequence[Boxes]) -> Boxes:
        return cls(**{f.name: np.concatenate([getattr(table, f.name) for table in tables]) for f in fields(cls)})


@dataclass(frozen=True)
class RankLayout:
    """What one rank holds: its parameters' names, and where the HF tensors' elements lie in them."""

    params: tuple[str, ...]
    boxes: Boxes

    @classmethod
    def empty(cls) -> RankLayout:
        """Of a rank that takes no part on this side."""
        return cls((), Boxes.of([]))

    @property
    def num_elements(self) -> int:
        """Elements of HF tensors held, those held twice counted twice."""
        return int(self.boxes.size.sum())


def num_elements(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())
