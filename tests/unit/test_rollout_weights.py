from __future__ import annotations

import itertools

import pytest
import torch

from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.rollout.checksum import box_checksum, rectangle_checksum, same_bits
from megatron_sppo.rollout.weight_table import Region, weight_regions


def model(family: str = "qwen2", heads: int = 4, kv_heads: int = 2, tied: bool = False) -> HFModelConfig:
    return HFModelConfig(
        family=family,
        num_layers=2,
        hidden_size=32,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=8,
        ffn_size=48,
        vocab_size=101,
        tied_embeddings=tied,
        rope_theta=1e4,
        norm_eps=1e-6,
        max_positions=64,
        eos_token_ids=(0,),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(12, 10), (17,)])
def test_checksum_adds_over_a_partition(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    whole = box_checksum(tensor, [0] * len(shape), shape)
    parts = [box_checksum(tensor[:5], [0] * len(shape), shape)]
    if len(shape) == 2:
        parts += [box_checksum(tensor[5:, :3], [5, 0], shape), box_checksum(tensor[5:, 3:], [5, 3], shape)]
    else:
        parts += [box_checksum(tensor[5:], [5], shape)]
    assert (sum(parts) - whole) % 2**64 == 0


def test_checksum_sees_one_bit_a_swap_and_a_shift() -> None:
    tensor = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    reference = box_checksum(tensor, [0, 0], tensor.shape)
    for position in range(0, tensor.numel(), 37):
        flipped = tensor.clone()
        flipped.view(torch.int32).view(-1)[position] ^= 1
        assert box_checksum(flipped, [0, 0], tensor.shape) != reference
    for left, right in itertools.combinations(range(0, 40, 7), 2):
        swapped = tensor.clone()
        swapped[[left, right]] = tensor[[right, left]]
        assert box_checksum(swapped, [0, 0], tensor.shape) != reference
    assert box_checksum(tensor.roll(1, 0), [0, 0], tensor.shape) != reference


def test_checksum_does_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    reference = box_checksum(tensor, [3, 4], (50, 60))
    monkeypatch.setattr("megatron_sppo.rollout.checksum._CHUNK_ELEMENTS", 100)
    assert box_checksum(tensor, [3, 4], (50, 60)) == reference


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize(("tp", "kv_heads"), [(1, 2), (2, 2), (2, 1), (4, 2), (4, 4)])
def test_ranks_together_hold_every_hf_row_and_regions_do_not_overlap(family: str, tied: bool, tp: int, kv_heads: int) -> None:
    config = model(family, kv_heads=kv_heads, tied=tied)
    held: dict[str, set[int]] = {}
    for rank in range(tp):
        taken: set[tuple[str, int]] = set()
        for region in weight_regions(config, tp, rank, vocab_rows=128 // tp):
            held.setdefault(region.hf_name, set()).update(range(region.hf_start, region.hf_start + region.count))
            cells = {(region.param, region.param_start + row) for row in range(region.count)}
            assert not cells & taken
            taken |= cells
    sizes = {"q_proj": 32, "k_proj": kv_heads * 8, "v_proj": kv_heads * 8, "o_proj": 32, "gate_proj": 48, "up_proj": 48,
             "down_proj": 48, "embed_tokens": 101, "lm_head": 101, "q_norm": 8, "k_norm": 8}  # fmt: skip
    for name, rows in held.items():
        assert rows == set(range(sizes.get(name.split(".")[-2], 32))), name
    assert ("lm_head.weight" in held) is not tied
    assert any(name.endswith("q_proj.bias") for name in held) is (family == "qwen2")
    assert any(name.endswith("q_norm.weight") for name in held) is (family == "qwen3")


def test_docstring_example_of_the_weight_table() -> None:
    regions = {region.hf_name: region for region in weight_regions(model(kv_heads=1), 2, 1, vocab_rows=64)}
    attention = "model.layers.0.self_attn"
    q, v, qkv = (f"{attention}.{name}.weight" for name in ("q_proj", "v_proj", "qkv_proj"))
    assert regions[q] == Region(q, 16, qkv, 0, 16)
    assert regions[v] == Region(v, 0, qkv, 24, 8)
    assert regions["lm_head.weight"].hf_start == 64 and regions["lm_head.weight"].count == 101 - 64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("columns", [1, 127, 128, 160, 1024])
def test_a_rectangle_checksum_notices_any_flipped_bit_and_moved_rows(dtype: torch.dtype, columns: int) -> None:
    values = torch.randn(300, columns, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected, bits = rectangle_checksum(values), torch.int16 if dtype == torch.bfloat16 else torch.int32
    for row, column in ((0, 0), (7, columns - 1), (299, columns // 2)):
        changed = values.clone()
        changed.view(bits)[row, column] ^= 1
        assert rectangle_checksum(changed) != expected
    assert rectangle_checksum(values.roll(1, 0)) != expected
    if columns == 1024:  # a swap of neighbouring attention heads
        heads = values.unflatten(1, (-1, 128))
        assert rectangle_checksum(heads[:, [1, 0, *range(2, 8)]].flatten(1)) != expected


@pytest.mark.parametrize("width", [127, 128])
def test_a_rectangle_checksum_is_that_of_the_elements_wherever_they_lie(width: int) -> None:
    values = torch.randn(2000, 999, generator=torch.Generator().manual_seed(0)).bfloat16()
    for start in range(4):
        part = values[:, start : start + width]
        assert rectangle_checksum(part) == rectangle_checksum(part.contiguous())


def test_a_rectangle_checksum_of_many_megabytes_notices_its_last_row() -> None:
    values = torch.zeros(5000, 1024, dtype=torch.bfloat16)
    expected = rectangle_checksum(values)
    values[-1, -1] = 1
    assert rectangle_checksum(values) != expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_bits_are_compared_to_the_last_wherever_they_lie(dtype: torch.dtype) -> None:
    """NaN equals NaN of the same bits; 0 and -0 differ. A part of wider rows is compared in several steps."""
    values = torch.randn(3000, 131, generator=torch.Generator().manual_seed(0)).to(dtype)
    values[5, 5] = float("nan")
    for rows, columns in ((slice(None), slice(None)), (slice(None), slice(3, 130))):
        for row, column in ((0, 3), (1500, 60), (2999, 129)):
            other = values.clone()
            assert same_bits(values[rows, columns], other[rows, columns])
            assert same_bits(values[rows, columns], other[rows, columns].contiguous())
            other[row, column] = 0.0
            zero = other.clone()
            zero[row, column] = -0.0
            assert not same_bits(other[rows, columns], zero[rows, columns])
            assert not same_bits(other[rows, columns].contiguous(), zero[rows, columns])
