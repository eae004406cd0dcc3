"""What vLLM's loaders were seen to copy, as boxes: rows, columns, vectors; and what is no rectangle is refused."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import pytest

from megatron_sppo.reshard.planner import UnplannableLayout
from megatron_sppo.reshard.target import target_layout

SHAPES = {"matrix": (4, 8), "vector": (8,)}


@dataclass(frozen=True)
class Region:
    """As `megatron_sppo.rollout.vllm_trace.LoadedRegion`, which imports vLLM."""

    tensor: str
    tensor_offset: int
    tensor_strides: tuple[int, ...]
    shape: tuple[int, ...]
    param: str
    param_offset: int
    param_strides: tuple[int, ...]


# region -> (tensor, row, column, rows, columns, param, offset, row_stride)
BOXES = {
    "rows": (Region("matrix", 16, (8, 1), (2, 8), "p", 0, (8, 1)), (0, 2, 0, 2, 8, 0, 0, 8)),
    "columns": (Region("matrix", 4, (8, 1), (4, 4), "p", 0, (4, 1)), (0, 0, 4, 4, 4, 0, 0, 4)),
    "a part of rows and columns": (Region("matrix", 18, (8, 1), (2, 3), "p", 7, (5, 1)), (0, 2, 2, 2, 3, 0, 7, 5)),
    "one row": (Region("matrix", 8, (1,), (8,), "p", 8, (1,)), (0, 1, 0, 1, 8, 0, 8, 8)),
    "one column": (Region("matrix", 3, (8,), (4,), "p", 1, (2,)), (0, 0, 3, 4, 1, 0, 1, 2)),
    "a vector's end": (Region("vector", 4, (1,), (4,), "p", 12, (1,)), (1, 0, 4, 1, 4, 0, 12, 4)),
    "one element": (Region("vector", 5, (), (), "p", 2, ()), (1, 0, 5, 1, 1, 0, 2, 1)),
}


@pytest.mark.parametrize("kind", BOXES)
def test_a_region_is_a_box(kind: str) -> None:
    region, expected = BOXES[kind]
    layout = target_layout(["p"], [region], SHAPES)
    assert tuple(int(column[0]) for column in astuple(layout.boxes)) == expected


@pytest.mark.parametrize(
    "region",
    [
        Region("matrix", 0, (1, 8), (8, 4), "p", 0, (4, 1)),  # transposed
        Region("matrix", 0, (2,), (4,), "p", 0, (1,)),  # every second column
        Region("matrix", 0, (16, 1), (2, 8), "p", 0, (8, 1)),  # every second row
    ],
)
def test_what_is_no_rectangle_is_refused(region: Region) -> None:
    with pytest.raises(UnplannableLayout, match="vLLM loads p from matrix in a form that is no rectangle"):
        target_layout(["p"], [region], SHAPES)
