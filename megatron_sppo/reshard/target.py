"""vLLM's side of a reshard: boxes from what its loaders were seen to do (:mod:`megatron_sppo.rollout.vllm_trace`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from megatron_sppo.reshard.boxes import Boxes, RankLayout, Shapes, matrix_shape
from megatron_sppo.reshard.planner import UnplannableLayout

if TYPE_CHECKING:
    from megatron_sppo.rollout.vllm_trace import LoadedRegion  # imports vLLM


def _box(region: LoadedRegion, shape: Sequence[int]) -> tuple[int, int, int, int, int]:
    """(row, rows, column, columns, row_stride in the parameter) of a strided region of an HF tensor.

    Example: HF [4, 8], offset 18, shape (2, 3), strides (8, 1) is rows 2..4, columns 2..5. What is left of ``shape`` when its
    dimensions of size 1 are dropped may be rows, columns, both or nothing.
    """
    width = matrix_shape(shape)[1]
    row, column = divmod(region.tensor_offset, width)
    rows = columns = 1
    row_stride = 0
    for size, stride, param_stride in zip(region.shape, region.tensor_strides, region.param_strides, strict=True):
        if stride == 1 and param_stride == 1 and columns == 1 and column + size <= width:
            columns = size
        elif stride == width and rows == 1:
            rows, row_stride = size, param_stride
        else:
            raise UnplannableLayout(f"vLLM loads {region.param} from {region.tensor} in a form that is no rectangle: {region}")
    return row, rows, column, columns, row_stride or columns


def target_layout(names: Sequence[str], regions: Sequence[LoadedRegion], shapes: Shapes) -> RankLayout:
    """The boxes of a rank of an engine, in the order in which vLLM loads them; parameters are numbered as in ``names``."""
    numbers = {name: number for number, name in enumerate(shapes)}
    params = {name: number for number, name in enumerate(names)}
    found = []
    for region in regions:
        row, rows, column, columns, stride = _box(region, shapes[region.tensor])
        found.append((numbers[region.tensor], row, column, rows, columns, params[region.param], region.param_offset, stride))
    return RankLayout(tuple(names), Boxes.of(found))
