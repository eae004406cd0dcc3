"""The shapes of a run's models: from the folder's config.json, or by name for published models that are not on this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from megatron_sppo.errors import UserError
from megatron_sppo.models.hf_config import HFModelConfig, read_hf_config
from megatron_sppo.reshard.catalogue import MoEModelConfig
from megatron_sppo.reshard.published import PUBLISHED

_7B, _32B = PUBLISHED["Qwen2.5-7B"], PUBLISHED["Qwen2.5-32B"]


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

# From the config.json of their HF folders, in order of size; the mixtures of experts can be planned for but not trained.
KNOWN: dict[str, HFModelConfig] = {
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
    "Qwen2.5-32B": _32B,
    "DeepSeek-R1-Distill-Qwen-32B": replace(_32B, max_positions=131072),
    "Qwen3-32B": _qwen3(64, 5120, 64, 25600, tied=False),
    "Qwen2.5-72B": PUBLISHED["Qwen2.5-72B"],
}


def model_shape(path: str, knob: str) -> tuple[HFModelConfig, str]:
    """The model's shape and where it was found; UserError where neither a folder nor a known name."""
    folder = Path(path)
    if (folder / "config.json").is_file():
        return read_hf_config(folder, knob), f"{path}/config.json"
    name = folder.name
    for known in (name, name.removesuffix("-Instruct"), name.removesuffix("-Base")):
        if known in KNOWN:
            return KNOWN[known], f"the published {known}"
    if isinstance(PUBLISHED.get(name), MoEModelConfig):
        raise UserError(
            f"{knob}={path} is a mixture of experts, which cannot be trained yet: choose a dense Qwen2, Qwen2.5 or Qwen3"
        )
    raise UserError(
        f"{knob}={path} has no config.json here and its name is none that `plan` knows: "
        f"point it at an HF model folder, or end it in one of {', '.join(KNOWN)}"
    )
