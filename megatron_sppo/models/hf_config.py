"""What the code needs to know of an HF model folder, read from its config.json alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_sppo.errors import UserError

# family -> (bias on q, k, v; norm on q and k)
FAMILIES = {"qwen2": (True, False), "qwen3": (False, True)}
QWEN3_HEAD_DIM = 128  # what transformers takes where a Qwen3 config.json has no head_dim


@dataclass(frozen=True)
class HFModelConfig:
    family: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_size: int
    vocab_size: int
    tied_embeddings: bool
    rope_theta: float
    norm_eps: float
    max_positions: int
    eos_token_ids: tuple[int, ...]

    @property
    def qkv_bias(self) -> bool:
        return FAMILIES[self.family][0]

    @property
    def qk_norm(self) -> bool:
        return FAMILIES[self.family][1]


def _eos_token_ids(folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
    """Union of config.json's and generation_config.json's end tokens, as HF's generate uses them."""
    found: list[int] = []
    generation = folder / "generation_config.json"
    for source in (config, json.loads(generation.read_text()) if generation.is_file() else {}):
        eos = source.get("eos_token_id")
        found += eos if isinstance(eos, list) else [] if eos is None else [eos]
    return tuple(dict.fromkeys(int(token) for token in found))


def read_hf_config(path: str | Path, knob: str = "actor.path") -> HFModelConfig:
    """Read ``path``/config.json. ``knob`` is how the user named the folder, for the error message."""
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise UserError(f"{knob}={path!s} has no config.json; point it at an HF model folder on this machine.")
    config = json.loads((folder / "config.json").read_text())
    family = config.get("model_type")
    if family not in FAMILIES:
        raise UserError(f"{knob}={path!s} is of family {family!r}; supported are {', '.join(sorted(FAMILIES))}.")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise UserError(f"{knob}={path!s} uses RoPE scaling {rope}; only the default is supported, use a checkpoint with it.")
    if config.get("use_sliding_window"):
        raise UserError(f"{knob}={path!s} uses sliding-window attention; set use_sliding_window to false in its config.json.")
    if config.get("attention_bias") and family == "qwen3":
        raise UserError(f"{knob}={path!s} has attention_bias=true, which Qwen3 support lacks; use a checkpoint without it.")
    if config.get("hidden_act", "silu") != "silu":
        raise UserError(
            f"{knob}={path!s} has hidden_act={config['hidden_act']!r}; only silu is supported, use a checkpoint with it."
        )
    heads = int(config["num_attention_heads"])
    default_head_dim = QWEN3_HEAD_DIM if family == "qwen3" else int(config["hidden_size"]) // heads
    return HFModelConfig(
        family=family,
        num_layers=int(config["num_hidden_layers"]),
        hidden_size=int(config["hidden_size"]),
        num_heads=heads,
        num_kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or default_head_dim),
        ffn_size=int(config["intermediate_size"]),
        vocab_size=int(config["vocab_size"]),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10000.0))),
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        max_positions=int(config.get("max_position_embeddings", 32768)),
        eos_token_ids=_eos_token_ids(folder, config),
    )
