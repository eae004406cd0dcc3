"""Shapes of published models, from the config.json of their HF folders: to plan for one that is not on this machine."""

from __future__ import annotations

from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.reshard.catalogue import MoEModelConfig


def _qwen25(num_layers: int, hidden_size: int, num_heads: int, num_kv_heads: int, ffn_size: int) -> HFModelConfig:
    return HFModelConfig(
        family="qwen2",
        num_layers=num_layers,
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=128,
        ffn_size=ffn_size,
        vocab_size=152064,
        tied_embeddings=False,
        rope_theta=1e6,
        norm_eps=1e-6,
        max_positions=32768,
        eos_token_ids=(151645,),
    )


def _qwen3_moe(num_layers: int, hidden_size: int, num_heads: int, ffn_size: int, expert_ffn_size: int) -> MoEModelConfig:
    return MoEModelConfig(
        family="qwen3",
        num_layers=num_layers,
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=4,
        head_dim=128,
        ffn_size=ffn_size,
        vocab_size=151936,
        tied_embeddings=False,
        rope_theta=1e6,
        norm_eps=1e-6,
        max_positions=40960,
        eos_token_ids=(151645,),
        num_experts=128,
        expert_ffn_size=expert_ffn_size,
    )


PUBLISHED: dict[str, HFModelConfig] = {
    "Qwen2.5-7B": _qwen25(28, 3584, 28, 4, 18944),
    "Qwen2.5-32B": _qwen25(64, 5120, 40, 8, 27648),
    "Qwen2.5-72B": _qwen25(80, 8192, 64, 8, 29568),
    "Qwen3-30B-A3B": _qwen3_moe(48, 2048, 32, 6144, 768),
    "Qwen3-235B-A22B": _qwen3_moe(94, 4096, 64, 12288, 1536),
}
