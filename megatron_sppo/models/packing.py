"""Packed micro-batches: which sequences go together, and the row of tokens that they make.

Example: sequences of 5, 3 and 4 tokens under a budget of 8 give the bins [[0, 1], [2]]. The row of bin [0, 1] with a length
multiple of 4 has T = 8 tokens, ``cu_seqlens`` (0, 5, 8), positions 0..4 0..2; of 6 and 3 tokens T = 12, ``cu_seqlens``
(0, 6, 9, 12): the padding is a sequence of its own, attends only to itself and is never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_sppo.models.attention import PackedRow, attention_groups
from megatron_sppo.ragged import Ragged


def split_over_ranks(lengths: Sequence[int], num_ranks: int) -> list[list[int]]:
    """Indices for each data-parallel rank, balanced by tokens: longest first to the least loaded rank. Deterministic.

    Each rank gets at least one sequence where there are enough.
    """
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    load = [0] * num_ranks
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        rank = min(range(num_ranks), key=lambda r: (load[r], len(shares[r]), r))
        shares[rank].append(index)
        load[rank] += lengths[index]
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
class PackedSequences:
    """One micro-batch as one row. S sequences, T tokens with padding."""

    indices: tuple[int, ...]  # [S] which rows of the source these are
    tokens_T: Tensor  # int64
    positions_T: Tensor  # int64
    lengths_S: Tensor  # int64, on the host
    row: PackedRow

    @property
    def starts_S(self) -> Tensor:  # noqa: N802
        """[S] first position of each sequence, on the host."""
        return torch.cumsum(self.lengths_S, 0) - self.lengths_S


def pack(sequences: Ragged, indices: Sequence[int], multiple: int, device: torch.device) -> PackedSequences:
    """Lay the rows at ``indices`` end to end, padded to a ``multiple`` of tokens by one trailing sequence of zeros."""
    picked = sequences.select(indices)
    lengths = picked.lengths.tolist()
    padding = -sum(lengths) % multiple
    all_lengths = [*lengths, padding] if padding else lengths
    tokens = torch.cat([picked.values, picked.values.new_zeros(padding)])
    positions = torch.cat([torch.arange(n) for n in all_lengths])
    cu_seqlens = torch.tensor([0, *all_lengths]).cumsum(0).to(torch.int32).to(device)
    row = PackedRow(
        qkv_format="thd",
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_kv=cu_seqlens,
        # The longest sequence, not the row: rotary embeddings are built for this many positions.
        max_seqlen_q=max(all_lengths),
        max_seqlen_kv=max(all_lengths),
        groups=tuple(tuple(t.to(device) for t in group) for group in attention_groups(all_lengths)),  # type: ignore[misc]
    )
    return PackedSequences(tuple(indices), tokens.to(device), positions.to(device), picked.lengths, row)


def concatenate(first: Ragged, second: Ragged) -> Ragged:
    """Row-wise concatenation: prompt + response."""
    rows = [torch.cat(pair) for pair in zip(first.rows(), second.rows(), strict=True)]
    return Ragged(torch.cat(rows) if rows else first.values, first.lengths + second.lengths)


def positions_before(packed: PackedSequences, tail_lengths_S: Tensor) -> Tensor:
    """[R] positions in the row whose hidden state predicts each token of the sequences' tails (their responses).

    Example: a sequence at 0 of 5 tokens with a tail of 2: positions 2 and 3 predict tokens 3 and 4.
    """
    ends = packed.starts_S + packed.lengths_S
    spans = [torch.arange(int(end - tail) - 1, int(end) - 1) for end, tail in zip(ends, tail_lengths_S, strict=True)]
    return torch.cat(spans)
