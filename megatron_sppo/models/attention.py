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
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

MAX_PADDING = 1.25  # longest / shortest sequence of one attention group


@dataclass
class PackedRow(PackedSeqParams):
    """Megatron's description of a packed row plus our attention groups.

    Example: lengths (3, 2, 3) give one group of positions ``[[0, 1, 2], [5, 6, 7]]`` and one of ``[[3, 4]]``; a sequence
    shorter than its group repeats its last position, and ``scatter`` tells which entries of the flattened group are real.
    """

    groups: tuple[tuple[Tensor, Tensor, Tensor], ...] = ()  # (gather [S, L] positions, real [n] flat entries, positions [n])


def attention_groups(lengths: list[int]) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
    """Group the sequences of a packed row by length. See :class:`PackedRow`."""
    starts = torch.tensor([0, *lengths]).cumsum(0)[:-1].tolist()
    groups: list[list[int]] = []
    for index in sorted((i for i, n in enumerate(lengths) if n), key=lambda i: -lengths[i]):
        if groups and lengths[groups[-1][0]] <= MAX_PADDING * lengths[index]:
            groups[-1].append(index)
        else:
            groups.append([index])
    return tuple(_group(sorted(group), starts, lengths) for group in groups)


def _group(members: list[int], starts: list[int], lengths: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    size = torch.tensor([lengths[i] for i in members])
    start = torch.tensor([starts[i] for i in members])
    offset = torch.arange(int(size.max()))
    gather = start[:, None] + torch.minimum(offset[None], size[:, None] - 1)
    real = (offset[None] < size[:, None]).flatten().nonzero()[:, 0]
    return gather, real, gather.flatten()[real]


class PackedAttention(MegatronModule):
    """Causal grouped-query attention over a packed row: q [T, heads, d], k and v [T, kv_heads, d] -> [T, heads * d]."""

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        **unused: Any,
    ) -> None:
        super().__init__(config=config)
        assert (config.attention_dropout if attention_dropout is None else attention_dropout) == 0.0
        self.scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)

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
        out = torch.zeros_like(query)
        for gather, real, positions in packed_seq_params.groups:
            q, k, v = (x[gather].transpose(1, 2) for x in (query, key, value))  # [S, heads, L, d]
            o = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale, enable_gqa=q.shape[1] != k.shape[1])
            flat = o.transpose(1, 2).reshape(-1, *query.shape[1:])
            out = out.index_copy(0, positions, flat[real])
        return out.reshape(query.shape[0], -1)


class LocalRMSNorm:
    """A torch RMSNorm whose weight says whether its gradient is partial (sequence parallelism), as Megatron expects."""

    def __new__(cls, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **unused: Any) -> torch.nn.RMSNorm:  # type: ignore[misc]  # noqa: ARG004
        norm = torch.nn.RMSNorm(hidden_size, eps=eps, dtype=config.params_dtype)
        if not config.use_cpu_initialization:
            norm = norm.cuda()
        norm.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        return norm
