from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen2Config, Qwen3Config

from megatron_sppo.errors import UserError
from megatron_sppo.models.hf_config import read_hf_config


def write(folder: Path, config: dict[str, Any], generation: dict[str, Any] | None = None) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


# As published with DeepSeek-R1-Distill-Qwen-1.5B: transformers 4 form, no rope_parameters, no head_dim.
R1_DISTILL = {
    "model_type": "qwen2",
    "eos_token_id": 151643,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "max_position_embeddings": 131072,
    "num_attention_heads": 12,
    "num_hidden_layers": 28,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


def test_a_published_qwen2_config(tmp_path: Path) -> None:
    hf = read_hf_config(write(tmp_path, R1_DISTILL, {"eos_token_id": [151645, 151643]}))
    assert (hf.num_heads, hf.num_kv_heads, hf.head_dim, hf.num_layers) == (12, 2, 128, 28)
    assert (hf.hidden_size, hf.ffn_size, hf.vocab_size, hf.max_positions) == (1536, 8960, 151936, 131072)
    assert (hf.rope_theta, hf.norm_eps, hf.tied_embeddings) == (10000.0, 1e-6, False)
    assert hf.qkv_bias and not hf.qk_norm
    assert hf.eos_token_ids == (151643, 151645)


@pytest.mark.parametrize("kind", [Qwen2Config, Qwen3Config])
def test_what_transformers_writes_is_read_back(tmp_path: Path, kind: type) -> None:
    config = kind(rope_theta=1e6, num_key_value_heads=2, num_attention_heads=8, hidden_size=256, tie_word_embeddings=True)
    config.save_pretrained(tmp_path)
    hf = read_hf_config(tmp_path)
    assert hf.rope_theta == config.rope_parameters["rope_theta"]
    assert hf.head_dim == getattr(config, "head_dim", None) or hf.head_dim == 256 // 8
    assert hf.tied_embeddings and hf.num_kv_heads == 2
    assert (hf.qkv_bias, hf.qk_norm) == ((True, False) if kind is Qwen2Config else (False, True))


def test_qwen3_without_head_dim_has_transformers_default(tmp_path: Path) -> None:
    config = {**R1_DISTILL, "model_type": "qwen3", "hidden_size": 1024, "num_attention_heads": 16}
    assert read_hf_config(write(tmp_path, config)).head_dim == Qwen3Config().head_dim == 128


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "llama"}, "family 'llama'"),
        ({"use_sliding_window": True}, "sliding-window"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "RoPE scaling"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "RoPE scaling"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "RoPE scaling"),
        ({"model_type": "qwen3", "attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    folder = write(tmp_path, {**R1_DISTILL, **change})
    with pytest.raises(UserError) as caught:
        read_hf_config(folder, knob="critic.path")
    assert words in str(caught.value) and f"critic.path={folder}" in str(caught.value)


def test_a_missing_folder_names_the_knob(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="actor.path=.*has no config.json"):
        read_hf_config(tmp_path / "nowhere")
