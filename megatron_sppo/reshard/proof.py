"""Proof that what was pushed is what the trainer holds: one checksum at each end of each copy, compared by one sum over all
ranks.

A checksum is a 64-bit sum over the bits of a rectangle, weighted by place (:mod:`megatron_sppo.rollout.checksum`). The
sending end adds it, the receiving end subtracts it; what is not zero after the all-reduce names tensor, ranks and slice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_sppo.errors import WeightMismatch
from megatron_sppo.parallel import platform
from megatron_sppo.reshard.copies import Copies
from megatron_sppo.reshard.messages import Copy, copy_table
from megatron_sppo.rollout.checksum import rectangle_checksum

_SHOWN = 5


class Proof:
    """Of one plan; collects this rank's checksums while a push goes on, then compares."""

    def __init__(self, copies: Copies, names: Sequence[str], rank: int, wire: torch.dtype) -> None:
        """``names`` are those of the HF tensors, in the plan's order."""
        self._copies, self._names, self._wire = copies, names, wire
        leaving, arriving = (copies.source == rank).nonzero()[0], (copies.target == rank).nonzero()[0]
        self._leaving = list(zip(leaving.tolist(), copy_table(copies.take(leaving)), strict=True))
        self._arriving: dict[int, list[tuple[int, Copy]]] = {}
        for index, copy in zip(arriving.tolist(), copy_table(copies.take(arriving)), strict=True):
            self._arriving.setdefault(copy.target_param, []).append((index, copy))
        self.begin()

    def begin(self) -> None:
        """Forget what was added and subtracted."""
        self._sums_N = torch.zeros(len(self._copies), dtype=torch.int64, device=platform.device())

    def add_source(self, source: Sequence[Tensor]) -> None:
        """The trainer's end, as it is on the wire."""
        for index, copy in self._leaving:
            self._sums_N[index] += rectangle_checksum(copy.source_of(source[copy.source_param]).to(self._wire))

    def subtract_target(self, param: int, flat: Tensor) -> None:
        """The engine's end of one parameter."""
        for index, copy in self._arriving.get(param, ()):
            self._sums_N[index] -= rectangle_checksum(copy.target_of(flat).to(self._wire))

    def conclude(self, group: dist.ProcessGroup | None) -> None:
        """Raise :class:`WeightMismatch` on every rank of ``group`` (host memory) if the ends of any copy differ. Collective."""
        sums_N = self._sums_N.cpu()
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
