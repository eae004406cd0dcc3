"""How one Megatron parameter of one tensor-parallel rank is made of slices of HF tensors, and back.

Every rule is a list of :class:`Piece`: slices of HF tensors that, concatenated along ``rule.dim`` and then padded with zeros, are
the rank's parameter. There is no arithmetic and no transpose, so load followed by export is the identity bit for bit.

Example: :class:`QKV` of 4 query heads, 2 KV heads and head_dim 1. Megatron's rows are ``q0 q1 k0 v0 | q2 q3 k1 v1``; with TP 2
a rank holds one KV group, with TP 4 the cut lands inside a group: rank 0 holds ``q0 q1``, rank 1 ``k0 v0``, and so on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

# (HF name, dim, start, stop) -> entries [start, stop) of that tensor along dim, whole along the other dims
Read = Callable[[str, int, int, int], Tensor]


@dataclass(frozen=True)
class Piece:
    """Entries [start, stop) of HF tensor ``hf`` along the rule's dim."""

    hf: str
    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


def _shard(size: int, tp_rank: int, tp: int) -> tuple[int, int]:
    """Bounds of one rank's even share; Megatron refuses an uneven one when it builds the model."""
    assert size % tp == 0, f"{size} entries do not divide over TP {tp}"
    return tp_rank * (size // tp), (tp_rank + 1) * (size // tp)


class Rule(ABC):
    dim: ClassVar[int] = 0
    sharded: ClassVar[bool] = True
    """Whether TP ranks hold different parts, i.e. whether :meth:`export` needs all of them."""

    @property
    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """HF names, each with its tensor's full size along ``dim``."""

    @abstractmethod
    def pieces(self, tp_rank: int, tp: int) -> list[Piece]:
        """What this rank holds, in the order of its rows (or columns)."""

    def padding(self, tp_rank: int, tp: int) -> int:
        """Rows of zeros after the pieces."""
        return 0

    def load(self, read: Read, tp_rank: int, tp: int) -> Tensor:
        """This rank's parameter; reads the slices it needs and no others."""
        slices = [read(piece.hf, self.dim, piece.start, piece.stop) for piece in self.pieces(tp_rank, tp)]
        padding = self.padding(tp_rank, tp)
        if padding:
            slices.append(slices[0].new_zeros(padding, *slices[0].shape[1:]))
        return slices[0] if len(slices) == 1 else torch.cat(slices, self.dim)

    def export(self, parts: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
        """The full HF tensors from all TP ranks' parameters (from any one rank's, if not ``sharded``), padding stripped.

        A tensor that lies whole in one part is returned as a view of it.
        """
        full: dict[str, Tensor] = {}
        for tp_rank, part in enumerate(parts):
            at = 0
            for piece in self.pieces(tp_rank, len(parts)):
                values = part.narrow(self.dim, at, piece.length)
                at += piece.length
                size = self.sizes[piece.hf]
                if piece.length == size:
                    full[piece.hf] = values
                    continue
                if piece.hf not in full:
                    full[piece.hf] = part.new_empty([size if d == self.dim else n for d, n in enumerate(part.shape)])
                full[piece.hf].narrow(self.dim, piece.start, piece.length).copy_(values)
        return [(name, full[name]) for name in self.sizes]


@dataclass(frozen=True)
class Replicated(Rule):
    """The same on every TP rank (norms)."""

    hf: str
    size: int
    sharded: ClassVar[bool] = False

    @property
    def sizes(self) -> dict[str, int]:
        return {self.hf: self.size}

    def pieces(self, tp_rank: int, tp: int) -> list[Piece]:
        return [Piece(self.hf, 0, self.size)]


@dataclass(frozen=True)
class ColumnShards(Rule):
    """A [out, in] weight cut along its input features (Megatron's RowParallelLinear)."""

    hf: str
    columns: int
    dim: ClassVar[int] = 1

    @property
    def sizes(self) -> dict[str, int]:
        return {self.hf: self.columns}

    def pieces(self, tp_rank: int, tp: int) -> list[Piece]:
        return [Piece(self.hf, *_shard(self.columns, tp_rank, tp))]


@dataclass(frozen=True)
class VocabShards(Rule):
    """A [vocab, hidden] table cut by rows, after zero rows are appended until TP divides it."""

    hf: str
    vocab: int

    @property
    def sizes(self) -> dict[str, int]:
        return {self.hf: self.vocab}

    def _bounds(self, tp_rank: int, tp: int) -> tuple[int, int]:
        rows = -(-self.vocab // tp)
        return tp_rank * rows, (tp_rank + 1) * rows

    def pieces(self, tp_rank: int, tp: int) -> list[Piece]:
        start, stop = self._bounds(tp_rank, tp)
        return [Piece(self.hf, min(start, self.vocab), min(stop, self.vocab))]

    def padding(self, tp_rank: int, tp: int) -> int:
        start, stop = self._bounds(tp_rank, tp)
        return stop - start - self.pieces(tp_rank, tp)[0].length


@dataclass(frozen=True)
class GatedMLP(Rule):
    """SwiGLU's first layer: each rank holds its rows of gate, then its rows of up."""

    gate: str
    up: str
    rows: int

    @property
    def sizes(self) -> dict[str, int]:
        return {self.gate: self.rows, self.up: self.rows}

    def pieces(self, tp_rank: int, tp: int) -> list[Piece]:
        bounds = _shard(self.rows, tp_rank, tp)
        return [Piece(self.gate, *bounds), Piece(self.up, *bounds)]


@dataclass(frozen=True)
class QKV(Rule):
    """Rows [q of group g, k_g, v_g] for each KV group g, cut evenly over TP wherever the cut lands. Weight and bias alike."""

    q: str
    k: str
    v: str
    num_heads: int
    num_kv_heads: int
    head_dim: int

    @property
    def sizes(self) -> dict[str, int]:
        kv_rows = self.num_kv_heads * self.head_dim
        return {self.q: self.num_heads * self.head_dim, self.k: kv_rows, self.v: kv_rows}

    def _interleaved(self) -> Iterator[Piece]:
        q_rows = self.num_heads // self.num_kv_heads * self.head_dim
        for group in range(self.num_kv_heads):
            for name, rows in ((self.q, q_rows), (self.k, self.head_dim), (self.v, self.head_dim)):
                yield Piece(name, group * rows, (group + 1) * rows)

    def pieces(self, tp_rank: int, tp: int) -> list[Piece]:
        start, stop = _shard(sum(self.sizes.values()), tp_rank, tp)
        held, at = [], 0  # ``at``: the piece's first row in Megatron's full tensor
        for piece in self._interleaved():
            first, last = max(start, at), min(stop, at + piece.length)
            if first < last:
                held.append(Piece(piece.hf, piece.start + first - at, piece.start + last - at))
            at += piece.length
        return held
