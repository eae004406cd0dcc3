"""Shapes of published models, from the config.json of their HF folders: to plan for one that is not on this machine.

Mixtures of experts can be planned for but not trained.
"""

from __future__ import annotations

from dataclasses import replace

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


_7B, _32B = _qwen25(28, 3584, 28, 4, 18944), _qwen25(64, 5120, 40, 8, 27648)


def _small_qwen25(num_layers: int, hidden_size: int, num_heads: int, head_dim: int, ffn_size: int) -> HFModelConfig:
    """Those with two KV heads and a tied embedding."""
    return replace(
        _7B,
        num_layers=num_layers,
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=2,
        head_dim=head_dim,
        ffn_size=ffn_size,
        vocab_size=151936,
        tied_embeddings=True,
    )


def _qwen3(num_layers: int, hidden_size: int, num_heads: int, ffn_size: int, *, tied: bool) -> HFModelConfig:
    return replace(
        _7B,
        family="qwen3",
        num_layers=num_layers,
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=8,
        ffn_size=ffn_size,
        vocab_size=151936,
        tied_embeddings=tied,
        max_positions=40960,
    )


_1_5B = _small_qwen25(28, 1536, 12, 128, 8960)

# In order of size.
PUBLISHED: dict[str, HFModelConfig] = {
    "Qwen2.5-0.5B": _small_qwen25(24, 896, 14, 64, 4864),
    "Qwen3-0.6B": _qwen3(28, 1024, 16, 3072, tied=True),
    "Qwen2.5-1.5B": _1_5B,
    "Qwen3-1.7B": _qwen3(28, 2048, 16, 6144, tied=True),
    "DeepSeek-R1-Distill-Qwen-1.5B": replace(_1_5B, tied_embeddings=False, rope_theta=1e4, max_positions=131072),
    "Qwen2.5-3B": _small_qwen25(36, 2048, 16, 128, 11008),
    "Qwen3-4B": _qwen3(36, 2560, 32, 9728, tied=True),
    "Qwen2.5-7B": _7B,
    "DeepSeek-R1-Distill-Qwen-7B": replace(_7B, rope_theta=1e4, max_positions=131072),
    "Qwen3-8B": _qwen3(36, 4096, 32, 12288, tied=False),
    "Qwen2.5-14B": replace(_32B, num_layers=48, ffn_size=13824),
    "DeepSeek-R1-Distill-Qwen-14B": replace(_32B, num_layers=48, ffn_size=13824, max_positions=131072),
    "Qwen3-14B": _qwen3(40, 5120, 40, 17408, tied=False),
    "Qwen3-30B-A3B": _qwen3_moe(48, 2048, 32, 6144, 768),
    "Qwen2.5-32B": _32B,
    "DeepSeek-R1-Distill-Qwen-32B": replace(_32B, max_positions=131072),
    "Qwen3-32B": _qwen3(64, 5120, 64, 25600, tied=False),
    "Qwen2.5-72B": _qwen25(80, 8192, 64, 8, 29568),
    "Qwen3-235B-A22B": _qwen3_moe(94, 4096, 64, 12288, 1536),
}
