"""Which HF tensors each Megatron parameter is made of: one table per model family.

Names are those of Megatron-core's GPTModel. Where Transformer Engine fuses a norm into the linear layer after it, the norm's
weight has a second name, hence two rows for it in the table.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import nn

from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.weights.rules import QKV, ColumnShards, GatedMLP, Replicated, Rule, VocabShards

# (model, HF prefix of the layer or "") -> rule
MakeRule = Callable[[HFModelConfig, str], Rule]

EMBEDDING = "model.embed_tokens.weight"
OUTPUT_LAYER = "output_layer.weight"
_VALUE_HEAD = {"output_layer.weight", "output_layer.bias"}
_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")


def _norm(hf_name: str) -> MakeRule:
    return lambda hf, at: Replicated(f"{at}{hf_name}.weight", hf.hidden_size)


def _head_norm(hf_name: str) -> MakeRule:
    return lambda hf, at: Replicated(f"{at}{hf_name}.weight", hf.head_dim)


def _qkv(kind: str) -> MakeRule:
    def make(hf: HFModelConfig, at: str) -> Rule:
        q, k, v = (f"{at}self_attn.{x}_proj.{kind}" for x in "qkv")
        return QKV(q, k, v, hf.num_heads, hf.num_kv_heads, hf.head_dim)

    return make


def _gated_mlp(hf: HFModelConfig, at: str) -> Rule:
    return GatedMLP(f"{at}mlp.gate_proj.weight", f"{at}mlp.up_proj.weight", hf.ffn_size)


QWEN_DENSE: dict[str, MakeRule] = {
    "embedding.word_embeddings.weight": lambda hf, at: VocabShards(EMBEDDING, hf.vocab_size),
    "input_layernorm.weight": _norm("input_layernorm"),
    "self_attention.linear_qkv.layer_norm_weight": _norm("input_layernorm"),
    "self_attention.linear_qkv.weight": _qkv("weight"),
    "self_attention.linear_qkv.bias": _qkv("bias"),
    "self_attention.q_layernorm.weight": _head_norm("self_attn.q_norm"),
    "self_attention.k_layernorm.weight": _head_norm("self_attn.k_norm"),
    "self_attention.linear_proj.weight": lambda hf, at: ColumnShards(f"{at}self_attn.o_proj.weight", hf.num_heads * hf.head_dim),
    "pre_mlp_layernorm.weight": _norm("post_attention_layernorm"),
    "mlp.linear_fc1.layer_norm_weight": _norm("post_attention_layernorm"),
    "mlp.linear_fc1.weight": _gated_mlp,
    "mlp.linear_fc2.weight": lambda hf, at: ColumnShards(f"{at}mlp.down_proj.weight", hf.ffn_size),
    "decoder.final_layernorm.weight": _norm("model.norm"),
    OUTPUT_LAYER: lambda hf, at: VocabShards(EMBEDDING if hf.tied_embeddings else "lm_head.weight", hf.vocab_size),
}
FAMILY_TABLES: dict[str, dict[str, MakeRule]] = {"qwen2": QWEN_DENSE, "qwen3": QWEN_DENSE}


def rule_for(global_name: str, hf: HFModelConfig) -> Rule:
    """The rule of a parameter named with its global (0-based) layer index. KeyError if the family has no such parameter."""
    layer = _LAYER.fullmatch(global_name)
    prefix, name = (f"model.layers.{layer[1]}.", layer[2]) if layer else ("", global_name)
    return FAMILY_TABLES[hf.family][name](hf, prefix)


def mapped_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """This rank's parameters that HF has too, by global name, in module order. The scalar head of a value model is left out.

    ``model`` may be wrapped in Megatron's DistributedDataParallel and Float16Module.
    A pipeline stage numbers its layers from 0; ``layer_number`` of the module is global (and counts from 1).
    """
    from megatron.core.utils import unwrap_model  # here: `plan` reads the tables above, and importing Megatron takes seconds

    from megatron_sppo.models.value_head import ValueHead

    gpt = unwrap_model(model)
    skipped = _VALUE_HEAD if isinstance(getattr(gpt, "output_layer", None), ValueHead) else set()
    found: dict[str, nn.Parameter] = {}
    for name, parameter in gpt.named_parameters():
        layer = _LAYER.fullmatch(name)
        if layer:
            layer_number = gpt.decoder.layers[int(layer[1])].layer_number
            found[f"decoder.layers.{layer_number - 1}.{layer[2]}"] = parameter
        elif name not in skipped:
            found[name] = parameter
    return found
