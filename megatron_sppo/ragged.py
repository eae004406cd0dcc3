"""Ragged rows in one flat tensor: B responses of different lengths without padding.

Shape legend used across the package: B responses, P prompts, S sequences of one micro-batch, T packed tokens of one
micro-batch (padding included), N flat elements of a ragged tensor (its lengths sum to N).

Example: ``Ragged(values=[5, 6, 7, 8], lengths=[1, 3])`` holds the rows ``[5]`` and ``[6, 7, 8]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    values: Tensor  # [N, ...]
    lengths: Tensor  # [B] int64, on the host

    def __post_init__(self) -> None:
        assert self.lengths.ndim == 1 and self.lengths.dtype == torch.int64
        assert int(self.lengths.sum()) == self.values.shape[0], (int(self.lengths.sum()), self.values.shape)

    @classmethod
    def from_rows(cls, rows: Sequence[Tensor | Sequence[int] | Sequence[float]], dtype: torch.dtype) -> Ragged:
        tensors = [torch.as_tensor(row, dtype=dtype) for row in rows]
        lengths = torch.tensor([len(row) for row in tensors], dtype=torch.int64)
        values = torch.cat(tensors) if tensors else torch.empty(0, dtype=dtype)
        return cls(values, lengths)

    @classmethod
    def empty_rows(cls, count: int) -> Ragged:
        """``count`` rows of no tokens."""
        return cls(torch.empty(0, dtype=torch.int64), torch.zeros(count, dtype=torch.int64))

    @classmethod
    def joined(cls, parts: Sequence[Ragged]) -> Ragged:
        """The rows of all parts, one after the other."""
        return cls(torch.cat([part.values for part in parts]), torch.cat([part.lengths for part in parts]))

    def __len__(self) -> int:
        return self.lengths.numel()

    @property
    def starts(self) -> Tensor:
        """[B] offset of each row in ``values``."""
        return torch.cumsum(self.lengths, 0) - self.lengths

    def rows(self) -> tuple[Tensor, ...]:
        """Views of the rows."""
        return self.values.split(self.lengths.tolist())

    def select(self, indices: Sequence[int]) -> Ragged:
        """The rows at ``indices``, in that order."""
        rows = self.rows()
        picked = [rows[i] for i in indices]
        values = torch.cat(picked) if picked else self.values[:0]
        return Ragged(values, self.lengths[torch.as_tensor(list(indices), dtype=torch.int64)])

    def with_values(self, values: Tensor) -> Ragged:
        """The same shape around other values."""
        return Ragged(values, self.lengths)

    def row_sums(self) -> Tensor:
        """[B] sum of each row; 0 for an empty row."""
        return segment_sum(self.values, self.lengths)

    def row_means(self) -> Tensor:
        """[B] mean of each row; NaN for an empty one."""
        return self.row_sums() / self.lengths


def segment_ids(lengths: Tensor) -> Tensor:
    """[N] which row each flat element belongs to."""
    return torch.repeat_interleave(torch.arange(lengths.numel(), device=lengths.device), lengths)


def segment_sum(values_N: Tensor, lengths_S: Tensor) -> Tensor:
    """[S] sums of consecutive segments; differentiable in ``values_N``."""
    lengths_S = lengths_S.to(values_N.device)
    zeros = values_N.new_zeros(lengths_S.numel())
    return zeros.index_add(0, segment_ids(lengths_S), values_N)


def expand(per_row_S: Tensor, lengths_S: Tensor) -> Tensor:
    """[N] each row's value repeated over its elements."""
    return torch.repeat_interleave(per_row_S, lengths_S.to(per_row_S.device))
