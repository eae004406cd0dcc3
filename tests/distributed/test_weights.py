"""HF folder -> Megatron -> HF folder, bit for bit, in TP2, PP2 and DP2, and in TP and PP at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

PROGRAM = Path(__file__).parent / "programs" / "weights_roundtrip.py"
TINY_KINDS = ["qwen2", "qwen2_tied_odd_vocab", "qwen2_deep", "qwen2_12h2kv", "qwen3_wide_heads", "qwen3_tied"]
# Fewer KV heads than TP: the TP cut lands inside a KV group. Its folder is sharded, the others are single files.
ONE_KV_HEAD = "qwen2_one_kv_head"
MODELS = [*TINY_KINDS, ONE_KV_HEAD]


def save_one_kv_head(folder: Path) -> Path:
    config = Qwen2Config(
        num_hidden_layers=2,
        hidden_size=32,
        intermediate_size=48,
        vocab_size=101,
        num_attention_heads=4,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(folder, max_shard_size="20KB")
    return folder


@pytest.fixture(scope="module")
def folders(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    one_kv_head = save_one_kv_head(tmp_path_factory.mktemp("weights") / ONE_KV_HEAD)
    return {kind: tiny_model(kind) for kind in TINY_KINDS} | {ONE_KV_HEAD: one_kv_head}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saved")


@pytest.fixture(scope="module")
def program_output(torchrun: Callable[..., str], saved: Path, folders: dict[str, Path]) -> str:
    """One launch of 2 ranks checks all models in all layouts."""
    return torchrun(
        PROGRAM, 2, args=[saved, "2x1,1x2,1x1", *(f"{kind}={folder}" for kind, folder in folders.items())], timeout=240
    )


@pytest.mark.parametrize("layout", ["tp2 pp1 dp1", "tp1 pp2 dp1", "tp1 pp1 dp2"])
@pytest.mark.parametrize("kind", MODELS)
def test_round_trip_is_bit_equal(program_output: str, kind: str, layout: str) -> None:
    assert f"PASS {kind} {layout}" in program_output


def test_round_trip_in_tensor_and_pipeline_parallel(
    torchrun: Callable[..., str], tmp_path: Path, folders: dict[str, Path]
) -> None:
    """4 ranks; TP 4 puts the cuts of 2 KV heads inside the groups."""
    kind = "qwen2_tied_odd_vocab"
    output = torchrun(PROGRAM, 4, args=[tmp_path, "2x2,4x1", f"{kind}={folders[kind]}"], timeout=240)
    assert f"PASS {kind} tp2 pp2 dp1" in output
    assert f"PASS {kind} tp4 pp1 dp1" in output


def test_a_refused_output_folder_is_an_error_on_every_rank(program_output: str) -> None:
    assert "PASS refused output" in program_output


@pytest.mark.parametrize("kind", MODELS)
def test_transformers_loads_what_was_saved(program_output: str, saved: Path, folders: dict[str, Path], kind: str) -> None:
    tokens = torch.arange(20)[None]
    original = AutoModelForCausalLM.from_pretrained(folders[kind])
    for layout in ("tp2-pp1", "tp1-pp2", "tp1-pp1"):
        exported = AutoModelForCausalLM.from_pretrained(saved / f"{kind}-{layout}")
        assert torch.equal(exported(tokens).logits, original(tokens).logits)


def test_a_tied_model_is_saved_without_lm_head(program_output: str, saved: Path) -> None:
    names: set[str] = set()
    for file in (saved / "qwen2_tied_odd_vocab-tp1-pp2").glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            names |= set(opened.keys())
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names


def test_tokenizer_and_generation_config_come_along(program_output: str, saved: Path) -> None:
    copied = {file.name for file in (saved / "qwen2-tp2-pp1").iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"} <= copied
