"""Proof that what was pushed is what the trainer holds: copy by copy, and one sum over all ranks.

A copy that travels has a checksum at each end, a 64-bit sum over the bits of a rectangle, weighted by place
(:mod:`megatron_sppo.rollout.checksum`): the sending end adds it, the receiving end subtracts it. A copy within a rank has both
ends at hand; in host memory they are compared bit by bit. What is not zero after the all-reduce names tensor, ranks and slice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from megatron_sppo.errors import WeightMismatch
from megatron_sppo.parallel import platform
from megatron_sppo.reshard.copies import Copies
from megatron_sppo.reshard.messages import Copy, copy_table
from megatron_sppo.reshard.source import FlatParameters
from megatron_sppo.rollout.checksum import rectangle_checksum, same_bits

_SHOWN = 5


class Proof:
    """Of one plan; collects this rank's checksums while a push goes on, then compares."""

    def __init__(self, copies: Copies, names: Sequence[str], rank: int, source: FlatParameters, wire: torch.dtype) -> None:
        """``names`` are those of the HF tensors, in the plan's order; ``source`` this rank's parameters of the trainer."""
        self._copies, self._names, self._source, self._wire = copies, names, source, wire
        is_compared = copies.is_local if not platform.is_gpu() else np.zeros(len(copies), dtype=np.bool_)
        leaving = ((copies.source == rank) & ~is_compared).nonzero()[0]
        arriving = (copies.target == rank).nonzero()[0]
        self._leaving = list(zip(leaving.tolist(), copy_table(copies.take(leaving)), strict=True))
        self._arriving: dict[int, list[tuple[int, bool, Copy]]] = {}
        table = zip(arriving.tolist(), is_compared[arriving].tolist(), copy_table(copies.take(arriving)), strict=True)
        for index, compared, copy in table:
            self._arriving.setdefault(copy.target_param, []).append((index, compared, copy))
        self._sums: list[tuple[int, Tensor]] = []  # by copy
        self._wrong: list[int] = []  # copies found to differ

    def begin(self) -> None:
        """Forget what was found, and what was made of the source to find it."""
        self._sums, self._wrong = [], []
        self._source.release()

    def add_source(self) -> None:
        """The trainer's end of what travels, as it is on the wire."""
        self._sums += [(index, rectangle_checksum(self._of_source(copy))) for index, copy in self._leaving]

    def subtract_target(self, param: int, flat: Tensor) -> None:
        """The engine's end of one parameter."""
        for index, compared, copy in self._arriving.get(param, ()):
            arrived = copy.target_of(flat).to(self._wire)
            if not compared:
                self._sums.append((index, -rectangle_checksum(arrived)))
            elif not same_bits(arrived, self._of_source(copy)):
                self._wrong.append(index)

    def _of_source(self, copy: Copy) -> Tensor:
        return copy.source_of(self._source[copy.source_param]).to(self._wire)

    def conclude(self, group: dist.ProcessGroup | None) -> None:
        """Raise :class:`WeightMismatch` on every rank of ``group`` (host memory) if the ends of any copy differ. Collective."""
        sums_N = torch.zeros(len(self._copies), dtype=torch.int64)
        if self._sums:
            indices, sums = zip(*self._sums, strict=True)
            sums_N.index_add_(0, torch.tensor(indices), torch.stack(sums).cpu())
        sums_N[self._wrong] = 1
        self.begin()
        dist.all_reduce(sums_N, group=group)
        wrong = sums_N.nonzero()[:, 0].tolist()
        if wrong:
            more = f" (and {len(wrong) - _SHOWN} more)" if len(wrong) > _SHOWN else ""
            raise WeightMismatch(
                f"vLLM does not hold the trainer's weights: {'; '.join(map(self._describe, wrong[:_SHOWN]))}{more}"
            )

    def _describe(self, index: int) -> str:
        copies = self._copies.take(torch.tensor([index]).numpy())
        name, row, rows = self._names[int(copies.tensor[0])], int(copies.row[0]), int(copies.rows[0])
        column, columns = int(copies.column[0]), int(copies.columns[0])
        where = f"[{row}:{row + rows}, {column}:{column + columns}]"
        return f"{name}{where} from rank {int(copies.source[0])} differs on rank {int(copies.target[0])}"
