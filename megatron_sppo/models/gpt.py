"""Qwen2, Qwen2.5 and Qwen3 (dense) as Megatron-core GPTModels, with a language-model or a value head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec, get_gpt_layer_with_transformer_engine_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding, layers
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_sppo.config.schema import FP8Config, ModelConfig
from megatron_sppo.errors import UserError
from megatron_sppo.models.attention import LocalRMSNorm, PackedAttention
from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.models.logprobs import install_lm_head
from megatron_sppo.models.rotary import with_rotation
from megatron_sppo.models.value_head import ValueHead
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.groups import ModelGroups

Head = Literal["lm", "value"]


def padded_vocab_size(vocab_size: int, tp: int) -> int:
    """Vocabulary rounded up so that TP divides it; the rows added are zero and never get probability."""
    return -(-vocab_size // tp) * tp


def transformer_config(hf: HFModelConfig, config: ModelConfig) -> TransformerConfig:
    """Megatron's config of this model.

    Fusions that have broken log-prob parity on R1-Distill-Qwen: that of the rotary embedding never runs, for the embedding is
    ours (:mod:`megatron_sppo.models.rotary`); that of the activation is off unless asked for. Summing a weight's gradient in the
    product that makes it changes no log-prob, and Transformer Engine can.
    """
    dtype = platform.resolve_dtype(config.dtype)
    recompute: dict[str, object] = {
        "none": {},
        "selective": {"recompute_granularity": "selective"},
        "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
    }[config.recompute]
    return TransformerConfig(
        num_layers=hf.num_layers,
        hidden_size=hf.hidden_size,
        num_attention_heads=hf.num_heads,
        num_query_groups=hf.num_kv_heads,
        kv_channels=hf.head_dim,
        ffn_hidden_size=hf.ffn_size,
        layernorm_epsilon=hf.norm_eps,
        normalization="RMSNorm",
        add_bias_linear=False,
        add_qkv_bias=hf.qkv_bias,
        qk_layernorm=hf.qk_norm,
        gated_linear_unit=True,
        activation_func=F.silu,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        tensor_model_parallel_size=config.tp,
        pipeline_model_parallel_size=config.pp,
        context_parallel_size=config.cp,
        sequence_parallel=config.sequence_parallel,
        pipeline_dtype=dtype,
        params_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        use_cpu_initialization=not platform.is_gpu(),
        perform_initialization=False,  # every parameter is read from a checkpoint or set by the value head
        calculate_per_token_loss=True,  # losses are a sum and a weight
        variable_seq_lengths=True,  # packed rows differ in length; pipeline stages exchange shapes
        moe_token_dispatcher_type="alltoall",  # noqa: S106 - asked for by variable_seq_lengths, unused here
        apply_rope_fusion=False,
        bias_activation_fusion=config.fuse_swiglu,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=platform.has_transformer_engine(),
        **recompute,  # type: ignore[arg-type]
        **_fp8_options(config.fp8),
    )


@contextmanager
def without_recomputation(config: TransformerConfig) -> Iterator[None]:
    """For passes without gradients, which keep nothing to recompute from: Megatron checkpoints its layers in these too, and
    Transformer Engine then queues delayed FP8 scales for a backward pass that never comes.
    """
    kept, config.recompute_granularity = config.recompute_granularity, None
    try:
        yield
    finally:
        config.recompute_granularity = kept


def _fp8_options(fp8: FP8Config) -> dict[str, Any]:
    """E4M3 forward and E5M2 for gradients ("hybrid"), as Transformer Engine advises for per-tensor scales."""
    if fp8.recipe == "none":
        return {}
    return {
        "fp8": "hybrid",
        "fp8_recipe": fp8.recipe,
        # Delayed scaling looks back on so many steps; with Megatron's default of one a single small step would clip the next.
        "fp8_amax_history_len": 1024,
        "fp8_amax_compute_algo": "max",
        # Each data-parallel replica has as many micro-batches as its sequences fill: maxima shared with them would wait forever.
        "tp_only_amax_red": True,
        "first_last_layers_bf16": fp8.bf16_first_layers + fp8.bf16_last_layers > 0,
        "num_layers_at_start_in_bf16": fp8.bf16_first_layers,
        "num_layers_at_end_in_bf16": fp8.bf16_last_layers,
        "fp8_param": fp8.parameters,
    }


def check_layers(name: str, config: ModelConfig) -> None:
    """UserError where the layers that ``name``'s config asks for are not to be had here."""
    if config.fp8.recipe != "none" and not platform.has_transformer_engine():
        raise UserError(
            f"{name}.fp8.recipe={config.fp8.recipe} needs Transformer Engine, which is not installed: "
            f"install it, or set {name}.fp8.recipe=none"
        )


def layer_spec(config: TransformerConfig, pp_rank: int) -> ModuleSpec | TransformerBlockSubmodules:
    """Transformer Engine's layers where it and a GPU exist, Megatron's local layers with our packed attention elsewhere."""
    if platform.has_transformer_engine():
        spec = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=config.qk_layernorm)
        attention = spec.submodules.self_attention.submodules
        attention.core_attention = with_rotation(attention.core_attention)
        return spec
    spec = get_gpt_layer_local_spec(normalization="RMSNorm", qk_layernorm=config.qk_layernorm)
    layer, attention = spec.submodules, spec.submodules.self_attention.submodules
    attention.core_attention = with_rotation(PackedAttention)
    layer.input_layernorm = layer.pre_mlp_layernorm = LocalRMSNorm
    if config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = LocalRMSNorm
    num_layers = get_num_layers_to_build(config, pp_rank=pp_rank)
    return TransformerBlockSubmodules(layer_specs=[spec] * num_layers, layer_norm=LocalRMSNorm)


def _mark_tensor_parallel(model: GPTModel) -> None:
    """Without initialisation Megatron leaves some shards unmarked, and gradient norms would count one shard for all."""
    dims = {VocabParallelEmbedding: 0, ColumnParallelLinear: 0, RowParallelLinear: 1}
    for module in model.modules():
        dim = next((dim for kind, dim in dims.items() if isinstance(module, kind)), None)
        weight = getattr(module, "weight", None)
        if dim is not None and weight is not None and not hasattr(weight, "tensor_model_parallel"):
            set_tensor_model_parallel_attributes(weight, True, dim, 1)


@contextmanager
def _without_apex() -> Iterator[None]:
    """Megatron asks for apex's kernel for its output layer, whose place is taken by ours, which needs none."""
    kept, layers._grad_accum_fusion_available = layers._grad_accum_fusion_available, True  # noqa: SLF001
    try:
        yield
    finally:
        layers._grad_accum_fusion_available = kept  # noqa: SLF001


def build_gpt(hf: HFModelConfig, config: ModelConfig, groups: ModelGroups, head: Head, initial_logit: float = 0.0) -> GPTModel:
    """This rank's part of the model, on its device, with parameters not yet filled (the value head excepted).

    Collective over the model's ranks. ``head="lm"`` ends in an :class:`LMHead` (hidden states out),
    ``"value"`` in a :class:`ValueHead`.
    """
    # Without gradients, Transformer Engine takes no memory yet for the transposes of FP8 parameters, and keeps no copy on the
    # host of values that they do not have yet.
    with groups.active(), _without_apex(), torch.no_grad():
        mcore = transformer_config(hf, config)
        model = GPTModel(
            config=mcore,
            transformer_layer_spec=layer_spec(mcore, groups.pp_rank),
            vocab_size=padded_vocab_size(hf.vocab_size, config.tp),
            max_sequence_length=hf.max_positions,
            pre_process=groups.is_first_stage,
            post_process=groups.is_last_stage,
            parallel_output=True,
            share_embeddings_and_output_weights=hf.tied_embeddings and head == "lm",
            position_embedding_type="none",  # the core attention rotates
            pg_collection=groups.pg,
        )
        if model.post_process and head == "lm":
            install_lm_head(model, hf.vocab_size)
        elif model.post_process:
            model.output_layer = ValueHead(mcore, groups.pg.tp, initial_logit)
        _mark_tensor_parallel(model)
        return model.to(platform.device())
