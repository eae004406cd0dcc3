"""HF folder -> Megatron on 2 ranks -> HF folder, bit for bit, in TP2, PP2 and DP2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PretrainedConfig, Qwen2Config, Qwen3Config

PROGRAM = Path(__file__).parent / "programs" / "weights_roundtrip.py"
SMALL = {"num_hidden_layers": 4, "hidden_size": 32, "intermediate_size": 48, "vocab_size": 101, "max_position_embeddings": 64}
MODELS: dict[str, PretrainedConfig] = {
    "qwen2": Qwen2Config(**SMALL, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False),
    "qwen2-tied": Qwen2Config(**SMALL, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen2-one-kv-head": Qwen2Config(**SMALL, num_attention_heads=4, num_key_value_heads=1, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SMALL, num_attention_heads=4, num_key_value_heads=2, head_dim=16, tie_word_embeddings=False),
}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def folders(scratch: Path) -> list[Path]:
    """HF folders of random models; every tensor, biases and norms too, differs from its default and within itself."""
    torch.manual_seed(0)
    for name, config in MODELS.items():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        model.save_pretrained(scratch / name, max_shard_size="1GB" if name == "qwen2" else "20KB")
    return [scratch / name for name in MODELS]


@pytest.fixture(scope="module")
def program_output(scratch: Path, folders: list[Path]) -> str:
    """One launch of 2 ranks checks all models in all layouts."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(PROGRAM)]
    done = subprocess.run(
        [*launch, str(scratch / "saved"), *map(str, folders)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("layout", ["tp2 pp1 dp1", "tp1 pp2 dp1", "tp1 pp1 dp2"])
@pytest.mark.parametrize("model", MODELS)
def test_round_trip_is_bit_equal(program_output: str, model: str, layout: str) -> None:
    assert f"PASS {model} {layout}" in program_output


def test_a_refused_output_folder_is_an_error_on_every_rank(program_output: str) -> None:
    assert "PASS refused output" in program_output


@pytest.mark.parametrize("model", MODELS)
def test_transformers_loads_what_was_saved(program_output: str, scratch: Path, model: str) -> None:
    tokens = torch.arange(20)[None]
    original = AutoModelForCausalLM.from_pretrained(scratch / model)
    for layout in ("tp2-pp1", "tp1-pp2", "tp1-pp1"):
        saved = AutoModelForCausalLM.from_pretrained(scratch / "saved" / f"{model}-{layout}")
        assert torch.equal(saved(tokens).logits, original(tokens).logits)


def test_a_tied_model_is_saved_without_lm_head(program_output: str, scratch: Path) -> None:
    names: set[str] = set()
    for file in (scratch / "saved" / "qwen2-tied-tp1-pp2").glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            names |= set(opened.keys())
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names
