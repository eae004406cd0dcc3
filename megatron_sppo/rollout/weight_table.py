"""Which region of which vLLM parameter holds which slice of which HF tensor, on one TP rank of a dense Qwen2 or Qwen3.

vLLM fuses and cuts: ``qkv_proj`` holds this rank's rows of q, then k, then v; ``gate_up_proj`` those of gate, then up;
``o_proj`` and ``down_proj`` hold columns; the vocabulary is cut into equal rows after padding. With more TP ranks than KV
heads each KV head lives on tp / kv_heads neighbouring ranks. All regions are boxes of rows and columns.

Example: 4 query heads and 1 KV head of 8 dimensions, TP2, rank 1: ``qkv_proj.weight`` has 32 rows = q rows 16..32, k rows 0..8,
v rows 0..8 of the HF tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_sppo.models.hf_config import HFModelConfig


@dataclass(frozen=True)
class Region:
    """``count`` rows (or columns, where ``dim`` is 1) of an HF tensor and where they lie in a vLLM parameter."""

    hf_name: str
    hf_start: int
    param: str
    param_start: int
    count: int
    dim: int = 0


@dataclass(frozen=True)
class _Shard:
    """What one TP rank holds."""

    model: HFModelConfig
    tp: int
    rank: int

    def rows(self, size: int) -> tuple[int, int]:
        """(start, count) of an even cut of ``size``."""
        count = size // self.tp
        return self.rank * count, count

    def kv_rows(self) -> tuple[int, int]:
        """(start, count) of this rank's K (or V) rows."""
        heads = max(1, self.model.num_kv_heads // self.tp)
        copies = max(1, self.tp // self.model.num_kv_heads)
        return self.rank // copies * heads * self.model.head_dim, heads * self.model.head_dim


def _stacked(prefix: str, param: str, parts: dict[str, tuple[int, int]], suffix: str) -> list[Region]:
    """Regions of a parameter that holds slices of several HF tensors one under the other."""
    regions, offset = [], 0
    for part, (start, count) in parts.items():
        regions.append(Region(f"{prefix}.{part}.{suffix}", start, f"{prefix}.{param}.{suffix}", offset, count))
        offset += count
    return regions


def _layer(shard: _Shard, layer: int) -> list[Region]:
    model, prefix = shard.model, f"model.layers.{layer}"
    attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
    heads = shard.rows(model.num_heads * model.head_dim)
    ffn = shard.rows(model.ffn_size)
    qkv = {"q_proj": heads, "k_proj": shard.kv_rows(), "v_proj": shard.kv_rows()}
    regions = _stacked(attention, "qkv_proj", qkv, "weight")
    if model.qkv_bias:
        regions += _stacked(attention, "qkv_proj", qkv, "bias")
    regions += _stacked(mlp, "gate_up_proj", {"gate_proj": ffn, "up_proj": ffn}, "weight")
    for name, (start, count) in ((f"{attention}.o_proj.weight", heads), (f"{mlp}.down_proj.weight", ffn)):
        regions.append(Region(name, start, name, 0, count, dim=1))
    norms = {f"{prefix}.{place}_layernorm.weight": model.hidden_size for place in ("input", "post_attention")}
    if model.qk_norm:
        norms |= {f"{attention}.q_norm.weight": model.head_dim, f"{attention}.k_norm.weight": model.head_dim}
    return regions + [Region(name, 0, name, 0, size) for name, size in norms.items()]


def weight_regions(model: HFModelConfig, tp: int, tp_rank: int, vocab_rows: int) -> list[Region]:
    """All regions of one TP rank. ``vocab_rows`` is the number of rows of its embedding parameter, padding included."""
    shard = _Shard(model, tp, tp_rank)
    start = min(tp_rank * vocab_rows, model.vocab_size)
    count = min((tp_rank + 1) * vocab_rows, model.vocab_size) - start
    vocabularies = ["model.embed_tokens.weight", *([] if model.tied_embeddings else ["lm_head.weight"])]
    regions = [Region(name, start, name, 0, count) for name in vocabularies]
    for layer in range(model.num_layers):
        regions += _layer(shard, layer)
    return [*regions, Region("model.norm.weight", 0, "model.norm.weight", 0, model.hidden_size)]
