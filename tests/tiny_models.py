"""Small random HF folders (fp32 safetensors, generation config, tokenizer) of the shapes that matter for sharding.

Heads have 32 channels, the smallest size that vLLM's CPU attention takes. Norm weights and biases are perturbed: left at their
initial 1 and 0, a loader that forgets them would go unnoticed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

HEAD_DIM = 32
PAD_TOKEN, END_TOKEN = "<|pad|>", "<|end|>"

VOCABULARY = 270  # 263 tokens and, as in the published Qwen models, some rows that no token uses

# kind -> (family, overrides)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("qwen2", {"tie_word_embeddings": False}),
    "qwen2_tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2_28h4kv": ("qwen2", {"num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 256}),
    "qwen2_12h2kv": ("qwen2", {"num_attention_heads": 12, "num_key_value_heads": 2, "intermediate_size": 192}),
    "qwen2_1kv": ("qwen2", {"num_key_value_heads": 1}),
    "qwen2_odd_vocab": ("qwen2", {"vocab_size": VOCABULARY + 1}),
    "qwen2_tied_odd_vocab": ("qwen2", {"vocab_size": VOCABULARY + 1, "tie_word_embeddings": True}),
    "qwen2_deep": ("qwen2", {"num_hidden_layers": 4}),
    "qwen2_critic": ("qwen2", {"num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 96}),
    "qwen3": ("qwen3", {"tie_word_embeddings": False}),
    "qwen3_tied": ("qwen3", {"tie_word_embeddings": True}),
    "qwen3_wide_heads": ("qwen3", {"hidden_size": 96}),  # heads x channels != hidden size, as in Qwen3-0.6B
}


def save_tiny_model(kind: str, folder: Path) -> Path:
    """Write the model of ``kind`` (a key of `KINDS`) and its tokenizer to ``folder``; the same bits every time."""
    family, overrides = KINDS[kind]
    heads = overrides.get("num_attention_heads", 4)
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": heads * HEAD_DIM,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "intermediate_size": 160,
        "max_position_embeddings": 2048,
        "initializer_range": 0.1,  # logits that differ enough for a wrong weight to show
        "dtype": "float32",
        **overrides,
    }
    torch_state = torch.get_rng_state()
    torch.manual_seed(7)
    if family == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(head_dim=HEAD_DIM, **shape))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**shape))
    _perturb(model)
    torch.set_rng_state(torch_state)
    tokenizer = tiny_tokenizer()
    model.config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _perturb(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))


def tiny_tokenizer() -> Qwen2Tokenizer:
    """Bytes, and nothing merged but ``\\boxed``: any text survives, and each id lies below the smallest vocabulary of `KINDS`.

    The class matters: for a model folder of type qwen2, transformers 5 reads any ``tokenizer.json`` as its own `Qwen2Tokenizer`
    and puts that class's pre-tokenizer in place of the file's.
    """
    vocabulary = {
        token: index for index, token in enumerate([PAD_TOKEN, END_TOKEN, *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    merges = []
    for length in range(1, len("\\boxed")):
        merged = "\\boxed"[: length + 1]
        merges.append((merged[:-1], merged[-1]))
        vocabulary[merged] = len(vocabulary)
    return Qwen2Tokenizer(vocab=vocabulary, merges=merges, unk_token=None, eos_token=END_TOKEN, pad_token=PAD_TOKEN)
