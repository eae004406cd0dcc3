"""The HF tensors of a model, by name and shape, from its config alone."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.weights.mapping import EMBEDDING

LM_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class MoEModelConfig(HFModelConfig):
    """A Qwen3 whose every layer is a mixture of experts. Its layouts can be planned; it cannot be trained yet."""

    num_experts: int = 0
    expert_ffn_size: int = 0


def _mlp(hf: HFModelConfig, at: str) -> dict[str, tuple[int, ...]]:
    if not isinstance(hf, MoEModelConfig):
        prefixes, ffn_size, router = [f"{at}.mlp"], hf.ffn_size, {}
    else:
        prefixes = [f"{at}.mlp.experts.{expert}" for expert in range(hf.num_experts)]
        ffn_size, router = hf.expert_ffn_size, {f"{at}.mlp.gate.weight": (hf.num_experts, hf.hidden_size)}
    shapes: dict[str, tuple[int, ...]] = dict(router)
    for prefix in prefixes:
        shapes[f"{prefix}.gate_proj.weight"] = (ffn_size, hf.hidden_size)
        shapes[f"{prefix}.up_proj.weight"] = (ffn_size, hf.hidden_size)
        shapes[f"{prefix}.down_proj.weight"] = (hf.hidden_size, ffn_size)
    return shapes


def _attention(hf: HFModelConfig, at: str) -> dict[str, tuple[int, ...]]:
    heads, kv_heads = hf.num_heads * hf.head_dim, hf.num_kv_heads * hf.head_dim
    shapes: dict[str, tuple[int, ...]] = {}
    for name, rows in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        shapes[f"{at}.self_attn.{name}_proj.weight"] = (rows, hf.hidden_size)
        if hf.qkv_bias:
            shapes[f"{at}.self_attn.{name}_proj.bias"] = (rows,)
    shapes[f"{at}.self_attn.o_proj.weight"] = (hf.hidden_size, heads)
    if hf.qk_norm:
        shapes |= {f"{at}.self_attn.{name}_norm.weight": (hf.head_dim,) for name in "qk"}
    return shapes


def hf_shapes(hf: HFModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the checkpoint, in an order that is the same on all ranks. A tied model has no lm_head."""
    vocabulary = (hf.vocab_size, hf.hidden_size)
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: vocabulary}
    for layer in range(hf.num_layers):
        at = f"model.layers.{layer}"
        norms = {f"{at}.{place}_layernorm.weight": (hf.hidden_size,) for place in ("input", "post_attention")}
        shapes |= norms | _attention(hf, at) | _mlp(hf, at)
    shapes["model.norm.weight"] = (hf.hidden_size,)
    if not hf.tied_embeddings:
        shapes[LM_HEAD] = vocabulary
    return shapes
