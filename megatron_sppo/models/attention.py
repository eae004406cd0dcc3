"""Core attention and norm for Megatron-core's local layer spec: what Transformer Engine does on a GPU, in plain PyTorch.

Megatron's own local attention wants a dense mask over the whole row and does not know packed (thd) input. Here the
sequences of a packed row are cut into groups of similar length, each group is one padded ``scaled_dot_product_attention``
call, and padding never reaches a real token because it comes after it and the attention is causal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from megatron_sppo.models.context_parallel import gather_keys_and_values
from megatron_sppo.models.rotary import RotatedRow

MAX_PADDING = 1.25  # longest / shortest sequence of one attention group


@dataclass(frozen=True)
class AttentionGroup:
    """S sequences of similar length, or one chunk of each, that one attention call serves. L queries, n of them real, K keys.

    Example: lengths (3, 2, 3) give a group with queries ``[[0, 1, 2], [5, 6, 7]]`` and one with ``[[3, 4]]``. What is shorter
    than its group repeats its last position; ``real_n`` tells which entries of the flattened queries are real.
    """

    queries_SL: Tensor  # positions in this rank's row
    keys_SK: Tensor  # positions in the rows of all context-parallel ranks, laid end to end
    offsets_SL: Tensor | None  # of each query in its sequence; None: whole sequences, where plain causal attention does
    real_n: Tensor
    positions_n: Tensor  # in this rank's row

    def to(self, device: torch.device) -> AttentionGroup:
        offsets = None if self.offsets_SL is None else self.offsets_SL.to(device)
        queries, keys, real, positions = (t.to(device) for t in (self.queries_SL, self.keys_SK, self.real_n, self.positions_n))
        return AttentionGroup(queries, keys, offsets, real, positions)


@dataclass
class PackedRow(RotatedRow):
    """Megatron's description of a packed row, its rotation and our attention groups."""

    groups: tuple[AttentionGroup, ...] = ()


def attention_groups(lengths: list[int], cp: int = 1, cp_rank: int = 0) -> tuple[AttentionGroup, ...]:
    """Group the (padded) sequences of a packed row by length. See :class:`AttentionGroup`."""
    groups: list[list[int]] = []
    for index in sorted((i for i, n in enumerate(lengths) if n), key=lambda i: -lengths[i]):
        if groups and lengths[groups[-1][0]] <= MAX_PADDING * lengths[index]:
            groups[-1].append(index)
        else:
            groups.append([index])
    starts_B, lengths_B = torch.tensor([0, *lengths]).cumsum(0)[:-1], torch.tensor(lengths)
    picked = [(starts_B[sorted(group)], lengths_B[sorted(group)]) for group in groups]
    if cp == 1:
        return tuple(_whole_sequences(*group) for group in picked)
    row = sum(lengths) // cp
    return tuple(_one_chunk(*group, row, cp, chunk) for group in picked for chunk in (cp_rank, 2 * cp - 1 - cp_rank))


def _whole_sequences(starts_S: Tensor, lengths_S: Tensor) -> AttentionGroup:
    offsets, real = _padded_offsets(lengths_S)
    queries_SL = starts_S[:, None] + offsets
    return AttentionGroup(queries_SL, queries_SL, None, real, queries_SL.flatten()[real])


def _one_chunk(starts_S: Tensor, lengths_S: Tensor, row: int, cp: int, chunk: int) -> AttentionGroup:
    """Chunk number ``chunk`` of each sequence against all that comes before its end; ``row`` is the length of a rank's row."""
    size_S1, first_S1 = lengths_S[:, None] // (2 * cp), starts_S[:, None] // cp  # of a chunk; of the sequence in a rank's row
    offsets, real = _padded_offsets(size_S1[:, 0])
    queries_SL = first_S1 + (chunk >= cp) * size_S1 + offsets
    before_SK, _ = _padded_offsets(size_S1[:, 0] * (chunk + 1))
    chunk_SK = before_SK // size_S1
    late_SK = chunk_SK >= cp  # a rank's second chunk
    holder_SK = torch.where(late_SK, 2 * cp - 1 - chunk_SK, chunk_SK)
    keys_SK = holder_SK * row + first_S1 + late_SK * size_S1 + before_SK % size_S1
    return AttentionGroup(queries_SL, keys_SK, chunk * size_S1 + offsets, real, queries_SL.flatten()[real])


def _padded_offsets(sizes_S: Tensor) -> tuple[Tensor, Tensor]:
    """[S, max] offsets 0, 1, ... of each sequence, its last one repeated, and the flat entries that are no repetition."""
    offset = torch.arange(int(sizes_S.max()))
    real = (offset[None] < sizes_S[:, None]).flatten().nonzero()[:, 0]
    return torch.minimum(offset[None], sizes_S[:, None] - 1), real


class PackedAttention(MegatronModule):
    """Causal grouped-query attention over a packed row: q [T, heads, d], k and v [T, kv_heads, d] -> [T, heads * d].

    Under context parallelism T is this rank's part of the row, and keys and values of all ranks are gathered first.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        pg_collection: ProcessGroupCollection | None = None,
        **unused: Any,
    ) -> None:
        super().__init__(config=config)
        assert (config.attention_dropout if attention_dropout is None else attention_dropout) == 0.0
        self.scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)
        self.cp_group = pg_collection.cp if pg_collection is not None and config.context_parallel_size > 1 else None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: None,
        packed_seq_params: PackedRow | None = None,
        **unused: Any,
    ) -> Tensor:
        assert isinstance(packed_seq_params, PackedRow), "this package packs every batch"
        if self.cp_group is not None:
            key, value = gather_keys_and_values(key, value, self.cp_group)
        out = torch.zeros_like(query)
        for group in packed_seq_params.groups:
            q, k, v = query[group.queries_SL], key[group.keys_SK], value[group.keys_SK]  # [S, L or K, heads, d]
            flat = self._attend(q, k, v, group.offsets_SL).reshape(-1, *query.shape[1:])
            out = out.index_copy(0, group.positions_n, flat[group.real_n])
        return out.reshape(query.shape[0], -1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, offsets_SL: Tensor | None) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        mask = None if offsets_SL is None else _up_to(offsets_SL, k.shape[2])
        gqa = q.shape[1] != k.shape[1]
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=self.scale, enable_gqa=gqa)
        return o.transpose(1, 2)


def _up_to(offsets_SL: Tensor, num_keys: int) -> Tensor:
    """[S, 1, L, K] bool: a query sees the keys of its sequence up to its own offset."""
    return (torch.arange(num_keys, device=offsets_SL.device) <= offsets_SL[..., None])[:, None]


class LocalRMSNorm:
    """A torch RMSNorm whose weight says whether its gradient is partial (sequence parallelism), as Megatron expects."""

    def __new__(cls, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **unused: Any) -> torch.nn.RMSNorm:  # type: ignore[misc]  # noqa: ARG004
        norm = torch.nn.RMSNorm(hidden_size, eps=eps, dtype=config.params_dtype)
        if not config.use_cpu_initialization:
            norm = norm.cuda()
        norm.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        return norm
