"""The rotation of packed rows against Megatron's own, which cuts the row into its sequences, and HF's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from megatron.core.models.common.embeddings.rope_utils import _apply_rotary_pos_emb_thd
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding, apply_rotary_pos_emb

from megatron_sppo.models.attention import PackedAttention
from megatron_sppo.models.packing import PackedSequences, RowLayout, pack
from megatron_sppo.models.rotary import Rotation, with_rotation
from megatron_sppo.ragged import Ragged

THETA, CHANNELS, HEADS = 1e6, 16, 3
LENGTHS = [7, 1, 300, 64]


def row_of(cp: int = 1, rank: int = 0, multiple: int = 8) -> PackedSequences:
    return pack(
        Ragged.from_rows([[0] * n for n in LENGTHS], torch.int64), range(4), RowLayout(multiple, cp, rank), torch.device("cpu")
    )


def heads(tokens: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(tokens, HEADS, CHANNELS, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("cp", "rank"), [(1, 0), (2, 0), (2, 1), (3, 2)])
def test_it_is_megatrons_to_the_last_bit(cp: int, rank: int, dtype: torch.dtype) -> None:
    packed = row_of(cp, rank)
    x, same = (heads(packed.tokens_T.numel(), dtype) for _ in range(2))
    half = torch.outer(torch.arange(400.0), 1.0 / THETA ** (torch.arange(0, CHANNELS, 2).float() / CHANNELS))
    angles = torch.cat([half, half], -1)[:, None, None]
    group = SimpleNamespace(size=lambda: cp, rank=lambda: rank)
    want = _apply_rotary_pos_emb_thd(same, packed.row.cu_seqlens_q, angles, cp_group=group)
    found = Rotation.at(packed.positions_T, THETA, CHANNELS, dtype)(x)
    assert found.dtype == dtype and torch.equal(found, want)
    found.square().sum().backward()
    want.square().sum().backward()
    assert x.grad is not None and torch.equal(x.grad, same.grad)


def test_it_is_transformers() -> None:
    config = Qwen2Config(
        hidden_size=HEADS * CHANNELS, num_attention_heads=HEADS, rope_parameters={"rope_type": "default", "rope_theta": THETA}
    )
    positions = torch.arange(40)
    x = heads(40, torch.float32)
    cos, sin = Qwen2RotaryEmbedding(config)(x, positions[None])
    want, _ = apply_rotary_pos_emb(x.transpose(0, 1)[None], x.transpose(0, 1)[None], cos, sin)
    torch.testing.assert_close(Rotation.at(positions, THETA, CHANNELS, torch.float32)(x), want[0].transpose(0, 1))


def test_a_row_whose_rotation_was_forgotten_is_not_attended_to() -> None:
    attention = with_rotation(PackedAttention)
    assert issubclass(attention, PackedAttention) and attention is with_rotation(PackedAttention)
    with pytest.raises(AssertionError):
        attention.forward(object(), None, None, None, None, packed_seq_params=row_of().row)
