"""Packed micro-batches: which sequences go together, and the row of tokens that they make.

Example: sequences of 5, 3 and 4 tokens under a budget of 8 give the bins [[0, 1], [2]]. The row of bin [0, 1] with a length
multiple of 4 has T = 8 tokens, ``cu_seqlens`` (0, 5, 8), positions 0..4 0..2; of 6 and 3 tokens T = 12, ``cu_seqlens``
(0, 6, 9, 12): the padding is a sequence of its own, attends only to itself and is never read. Under context parallelism each
sequence is padded as well and a rank holds some chunks of each: see :mod:`megatron_sppo.models.context_parallel`. The padding
comes after the sequence's tokens, so that causal attention keeps it from them; it is never read either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_sppo.models.attention import PackedRow, attention_groups
from megatron_sppo.models.context_parallel import assemble, held_offsets, sequence_multiple
from megatron_sppo.ragged import Ragged, expand


def split_over_ranks(costs: Sequence[float], num_ranks: int) -> list[list[int]]:
    """Indices for each data-parallel rank, balanced by what they cost: dearest first to the least loaded rank. Deterministic.

    Each rank gets at least one sequence where there are enough.
    """
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    load = [0.0] * num_ranks
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        rank = min(range(num_ranks), key=lambda r: (load[r], len(shares[r]), r))
        shares[rank].append(index)
        load[rank] += costs[index]
    return [sorted(share) for share in shares]


def fill_bins(lengths: Sequence[int], indices: Sequence[int], budget: int) -> list[list[int]]:
    """First-fit-decreasing bins of at most ``budget`` tokens; a sequence longer than the budget gets a bin of its own."""
    bins: list[list[int]] = []
    room: list[int] = []
    for index in sorted(indices, key=lambda i: (-lengths[i], i)):
        size = lengths[index]
        slot = next((b for b, free in enumerate(room) if free >= size), None)
        if slot is None:
            bins.append([index])
            room.append(budget - size)
        else:
            bins[slot].append(index)
            room[slot] -= size
    return bins


@dataclass(frozen=True)
class RowLayout:
    """How a packed row is laid out over ranks: ``cp`` of them hold a part each, of a ``multiple`` of tokens."""

    multiple: int = 1
    cp: int = 1
    cp_rank: int = 0


@dataclass(frozen=True)
class Reads:
    """The model's output is wanted at R positions of a row; this rank holds r of them (all, without context parallelism)."""

    num_wanted: int  # R
    slots_r: Tensor  # which of the R
    local_r: Tensor  # where in this rank's part of the row

    def assemble(self, values_r: tuple[Tensor, ...], cp_group: dist.ProcessGroup) -> tuple[Tensor, ...]:
        """What each rank read ([r] each) -> all of it ([R] each), on every context-parallel rank. Collective over them."""
        return assemble(values_r, self.slots_r, self.num_wanted, cp_group)


@dataclass(frozen=True)
class PackedSequences:
    """One micro-batch as one row, and this rank's part of it. S sequences, T tokens of this rank with padding."""

    indices: tuple[int, ...]  # [S] which rows of the source these are
    tokens_T: Tensor  # int64
    positions_T: Tensor  # int64
    lengths_S: Tensor  # int64, on the host, without padding
    starts_S: Tensor  # int64, on the host: first position of each sequence in the whole row
    local: Tensor  # int64, on the host: where this rank holds each position of the whole row, -1 where another rank does
    row: PackedRow

    def reads(self, positions_R: Tensor) -> Reads:
        """How to read the output at positions of the whole row (host)."""
        local_R = self.local[positions_R]
        slots_r = (local_R >= 0).nonzero()[:, 0]
        device = self.tokens_T.device
        return Reads(positions_R.numel(), slots_r.to(device), local_R[slots_r].to(device))


def pack(sequences: Ragged, indices: Sequence[int], layout: RowLayout, device: torch.device) -> PackedSequences:
    """Lay the rows at ``indices`` end to end, the row padded by one trailing sequence of zeros, and take this rank's part."""
    picked = sequences.select(indices)
    unit = sequence_multiple(layout.cp)
    lengths = [n + -n % unit for n in picked.lengths.tolist()]
    # Every padded length is a multiple of the unit, hence the trailing sequence is one too.
    trailing = -sum(lengths) % (unit * layout.multiple)
    all_lengths = [*lengths, trailing] if trailing else lengths
    bounds = torch.tensor([0, *all_lengths]).cumsum(0)
    starts_S = bounds[: len(lengths)]
    tokens = picked.values.new_zeros(int(bounds[-1]))
    tokens[expand(starts_S - picked.starts, picked.lengths) + torch.arange(len(picked.values))] = picked.values
    offsets = [held_offsets(n, layout.cp, layout.cp_rank) for n in all_lengths]
    held_T = torch.cat([offset + start for offset, start in zip(offsets, bounds.tolist(), strict=False)])
    local = torch.full_like(tokens, -1)
    local[held_T] = torch.arange(len(held_T))
    row = _packed_row(all_lengths, layout, device)
    return PackedSequences(
        tuple(indices), tokens[held_T].to(device), torch.cat(offsets).to(device), picked.lengths, starts_S, local, row
    )


def _packed_row(lengths: list[int], layout: RowLayout, device: torch.device) -> PackedRow:
    """The whole row's description, the same on all context-parallel ranks but for the attention groups."""
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32).to(device)
    # Transformer Engine cuts a row by its padded bounds. The bounds themselves are padded too: with the real lengths it would
    # round them down to what 2 x cp divides (TransformerEngine#1930).
    padded = cu_seqlens if layout.cp > 1 else None
    groups = attention_groups(lengths, layout.cp, layout.cp_rank)
    return PackedRow(
        qkv_format="thd",
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_kv=cu_seqlens,
        cu_seqlens_q_padded=padded,
        cu_seqlens_kv_padded=padded,
        # The longest sequence, not the row: rotary embeddings are built for this many positions.
        max_seqlen_q=max(lengths),
        max_seqlen_kv=max(lengths),
        groups=tuple(group.to(device) for group in groups),
    )


def concatenate(first: Ragged, second: Ragged) -> Ragged:
    """Row-wise concatenation: prompt + response."""
    rows = [torch.cat(pair) for pair in zip(first.rows(), second.rows(), strict=True)]
    return Ragged(torch.cat(rows) if rows else first.values, first.lengths + second.lengths)


def positions_before(packed: PackedSequences, tail_lengths_S: Tensor) -> Tensor:
    """[R] positions in the whole row whose hidden state predicts each token of the sequences' tails (their responses).

    Example: a sequence at 0 of 5 tokens with a tail of 2: positions 2 and 3 predict tokens 3 and 4.
    """
    ends = packed.starts_S + packed.lengths_S
    spans = [torch.arange(int(end - tail) - 1, int(end) - 1) for end, tail in zip(ends, tail_lengths_S, strict=True)]
    return torch.cat(spans)
