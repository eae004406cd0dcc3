"""Tiny HF models whose widths every FP8 recipe takes: all are multiples of 128, also of one rank of two."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tests.tiny_models import HEAD_DIM, VOCABULARY, _perturb

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 256,
    "initializer_range": 0.03,  # logits that differ enough for a wrong weight to show
}
MODELS = ("qwen2", "qwen3_tied")


def save_model(kind: str, folder: Path) -> Path:
    """Write the model of ``kind`` (of `MODELS`) to ``folder``; the same bits every time."""
    torch.manual_seed(7)
    if kind == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(tie_word_embeddings=False, **SHAPE))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(tie_word_embeddings=True, head_dim=HEAD_DIM, **SHAPE))
    _perturb(model)
    model.save_pretrained(folder)
    return folder
