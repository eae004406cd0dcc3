"""Rotary position embedding of a packed row, by each token's position in its sequence.

Megatron applies it before the core attention and cuts a packed row into its sequences to do so: a loop over all of them, twice
in each layer, after asking the device for their lengths, which stops the host there each time. A row's positions are known when
it is packed, so that here the angles are looked up once for a micro-batch and every layer multiplies whole tensors with them. The
numbers are Megatron's and HF's to the last bit: fp32 angles, cosines in the model's dtype, the same products (``rope_utils.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor


@dataclass(frozen=True)
class Rotation:
    """Of each token's channels: pair (i, i + d/2) by position x theta^(-2i/d)."""

    cos_T1d: Tensor
    sin_T1d: Tensor

    @classmethod
    def at(cls, positions_T: Tensor, theta: float, channels: int, dtype: torch.dtype) -> Rotation:
        """``channels`` is d, of one head; ``dtype`` that of the tensors to rotate."""
        frequencies = 1.0 / theta ** (torch.arange(0, channels, 2, dtype=torch.float32, device=positions_T.device) / channels)
        half = torch.outer(positions_T.float(), frequencies)
        angles_T1d = torch.cat([half, half], dim=-1)[:, None]
        return cls(angles_T1d.cos().to(dtype), angles_T1d.sin().to(dtype))

    def __call__(self, x_Thd: Tensor) -> Tensor:
        first, second = x_Thd.chunk(2, dim=-1)
        return x_Thd * self.cos_T1d + torch.cat([-second, first], dim=-1) * self.sin_T1d


@dataclass
class RotatedRow(PackedSeqParams):
    """Megatron's description of a packed row and how its tokens are rotated, which the engine fills in."""

    rotation: Rotation | None = None


class _RotatesFirst:
    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *rest: Any, packed_seq_params: RotatedRow | None = None, **options: Any
    ) -> Tensor:
        assert isinstance(packed_seq_params, RotatedRow) and packed_seq_params.rotation is not None
        rotate = packed_seq_params.rotation
        plain: Callable[..., Tensor] = super().forward  # type: ignore[misc]
        return plain(rotate(query), rotate(key), value, *rest, packed_seq_params=packed_seq_params, **options)


@cache
def with_rotation(core_attention: type) -> type:
    """``core_attention`` on queries and keys that it rotates first. The model around it is built without position embedding."""
    return type(f"Rotated{core_attention.__name__}", (_RotatesFirst, core_attention), {})
