"""Each weight rule on its own: TP ranks are simulated in one process."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from megatron_sppo.weights.rules import QKV, ColumnShards, GatedMLP, Read, Replicated, Rule, VocabShards

OTHER_DIM = 5


class CountingReader:
    """HF tensors with distinct entries, and how many entries were read of them."""

    def __init__(self, rule: Rule, bias: bool = False) -> None:
        self.read_elements = 0
        self.tensors: dict[str, Tensor] = {}
        for number, (name, size) in enumerate(rule.sizes.items()):
            shape = [size] if bias else [size, OTHER_DIM] if rule.dim == 0 else [OTHER_DIM, size]
            count = torch.Size(shape).numel()
            self.tensors[name] = (torch.arange(count, dtype=torch.float32) + 10_000 * number).reshape(shape)

    def __call__(self, name: str, dim: int, start: int, stop: int) -> Tensor:
        tensor = self.tensors[name].narrow(dim, start, stop - start)
        self.read_elements += tensor.numel()
        return tensor


def qkv(heads: int, kv_heads: int, head_dim: int = 4) -> QKV:
    return QKV("q", "k", "v", heads, kv_heads, head_dim)


# With 6 heads, 1 KV head and TP 8 a rank holds one head: the last ones hold k or v alone.
HEADS_KV_TP = [(28, 4, 1), (28, 4, 2), (28, 4, 4), (12, 2, 2), (4, 1, 2), (8, 2, 4), (12, 2, 4), (4, 4, 2), (6, 1, 8)]
CASES = [
    pytest.param(Replicated("norm", 7), 4, False, id="replicated"),
    pytest.param(Replicated("norm", 7), 4, True, id="replicated-1d"),
    pytest.param(ColumnShards("o", 24), 4, False, id="columns"),
    pytest.param(GatedMLP("gate", "up", 12), 4, False, id="gated-mlp"),
    pytest.param(VocabShards("embed", 16), 4, False, id="vocab-even"),
    pytest.param(VocabShards("embed", 17), 4, False, id="vocab-odd"),
    pytest.param(VocabShards("embed", 151), 2, False, id="vocab-odd-2"),
    pytest.param(VocabShards("embed", 5), 4, False, id="vocab-last-rank-all-padding"),
    *(
        pytest.param(qkv(heads, kv), tp, bias, id=f"qkv-{heads}-{kv}-tp{tp}-{'bias' if bias else 'weight'}")
        for heads, kv, tp in HEADS_KV_TP
        for bias in (False, True)
    ),
]


@pytest.mark.parametrize(("rule", "tp", "bias"), CASES)
def test_load_then_export_is_the_identity(rule: Rule, tp: int, bias: bool) -> None:
    reader = CountingReader(rule, bias)
    parts = [rule.load(reader, rank, tp) for rank in range(tp)]
    assert len({part.shape for part in parts}) == 1, "every TP rank holds a part of the same shape"
    exported = rule.export(parts if rule.sharded else parts[:1])
    assert [name for name, _ in exported] == list(rule.sizes)
    for name, tensor in exported:
        assert torch.equal(tensor, reader.tensors[name])


@pytest.mark.parametrize(("rule", "tp", "bias"), CASES)
def test_each_entry_is_read_once_over_all_ranks(rule: Rule, tp: int, bias: bool) -> None:
    reader = CountingReader(rule, bias)
    total = sum(tensor.numel() for tensor in reader.tensors.values())
    for rank in range(tp):
        before = reader.read_elements
        part = rule.load(reader, rank, tp)
        assert reader.read_elements - before <= part.numel(), "a rank reads no more than it holds"
    assert reader.read_elements == total * (1 if rule.sharded else tp)


def megatron_qkv(read: CountingReader, rule: QKV) -> Tensor:
    """Megatron's full qkv tensor as its attention splits it: view(groups, q heads per group + 2, head_dim)."""
    q, k, v = (read.tensors[name] for name in ("q", "k", "v"))
    groups, hd, tail = rule.num_kv_heads, rule.head_dim, q.shape[1:]
    heads_per_group = rule.num_heads // groups
    by_group = [q.view(groups, heads_per_group, hd, *tail), k.view(groups, 1, hd, *tail), v.view(groups, 1, hd, *tail)]
    return torch.cat(by_group, dim=1).reshape(-1, *tail)


@pytest.mark.parametrize(("heads", "kv_heads", "tp"), [(28, 4, 4), (12, 2, 2), (4, 1, 2), (8, 2, 4)])
def test_qkv_rows_are_even_cuts_of_megatrons_interleaved_tensor(heads: int, kv_heads: int, tp: int) -> None:
    rule = qkv(heads, kv_heads)
    reader = CountingReader(rule)
    expected = megatron_qkv(reader, rule).chunk(tp)
    for rank in range(tp):
        assert torch.equal(rule.load(reader, rank, tp), expected[rank])


def test_gated_mlp_stacks_the_ranks_gate_on_its_up() -> None:
    rule = GatedMLP("gate", "up", 12)
    reader = CountingReader(rule)
    gate, up = reader.tensors["gate"].chunk(3)[1], reader.tensors["up"].chunk(3)[1]
    assert torch.equal(rule.load(reader, 1, 3), torch.cat([gate, up]))


def test_vocab_padding_is_zero_rows_at_the_end() -> None:
    rule = VocabShards("embed", 5)
    reader = CountingReader(rule)
    full = torch.cat([rule.load(reader, rank, 4) for rank in range(4)])
    assert full.shape == (8, OTHER_DIM)
    assert torch.equal(full[:5], reader.tensors["embed"]) and full[5:].eq(0).all()


def test_load_keeps_the_dtype_of_the_file() -> None:
    read: Read = lambda name, dim, start, stop: torch.ones(stop - start, 2, dtype=torch.bfloat16)  # noqa: E731
    assert VocabShards("embed", 5).load(read, 1, 2).dtype == torch.bfloat16


def test_an_uneven_cut_is_refused() -> None:
    rule = ColumnShards("o", 10)
    with pytest.raises(AssertionError, match="10 entries do not divide over TP 4"):
        rule.load(CountingReader(rule), 0, 4)
