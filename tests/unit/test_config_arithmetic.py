"""Arithmetic of a run: what is allowed, what is warned of, what is printed at start; what is refused: test_wrong_configs.py."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from megatron_sppo.config.arithmetic import Device, check, check_sft, explain, explain_sft
from megatron_sppo.config.bounds import SFT, TRAINING
from megatron_sppo.config.load import describe, load_config
from megatron_sppo.config.schema import Config, SFTConfig
from megatron_sppo.errors import UserError


@dataclass(frozen=True)
class Shape:
    num_layers: int = 28
    hidden_size: int = 3584
    ffn_size: int = 18944
    head_dim: int = 128
    num_heads: int = 28
    num_kv_heads: int = 4
    max_positions: int = 32768


GIVEN = ("actor.path=model", "data.train=a.jsonl", "data.validation=b.jsonl")


def config(*overrides: str) -> Config:
    return load_config(Config, [], [*GIVEN, *overrides])


def test_the_defaults_run_on_one_to_four_ranks() -> None:
    for world_size in (1, 2, 4):
        assert check(config(), world_size, "cpu", Shape(), Shape()) == []


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_context_parallel_is_allowed(device: Device) -> None:
    assert check(config("actor.cp=2", "critic.cp=2", "prompts_per_step=4"), 2, device) == []


def test_context_parallel_on_a_gpu_is_bf16_only() -> None:
    fp32 = config("actor.cp=2", "actor.dtype=fp32")
    with pytest.raises(UserError, match=r"actor.cp=2 with actor.dtype=fp32 does not run on a GPU.*: set actor.dtype=bf16"):
        check(fp32, 2, "gpu")
    assert check(fp32, 2, "cpu") == []


def test_more_tensor_parallel_ranks_than_kv_heads_where_they_divide() -> None:
    assert check(config("actor.tp=4", "rollout.tp=4"), 4, "gpu", Shape(num_heads=12, num_kv_heads=2)) == []


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("rollout.top_p=0.9", "rollout.top_p=0.9 cuts"),
        ("rollout.top_k=50", "rollout.top_k=50 cuts"),
        ("critic.warmup_steps=100", "the actor never learns"),
        ("data.validation=[]", "no held-out accuracy"),
        ("actor.optimizer.warmup_steps=100", "never reaches its peak"),
    ],
)
def test_warned(override: str, wanted: str) -> None:
    (warning,) = check(config(override), 1, "cpu")
    assert wanted in warning


def test_explain_counts_as_a_person_would() -> None:
    text = explain(config("actor.tp=2", "actor.mini_batch_size=128", "critic.epochs=2", "rollout.tp=2"), 2)
    assert "256 prompts x 1 sample = 256 responses per step, 100 steps" in text
    assert "256 / mini-batches of 128 = 2 optimizer steps per epoch; TP2 x PP1 x CP1 x DP1" in text
    assert "1 optimizer step per epoch x 2 epochs = 2; TP1 x PP1 x CP1 x DP2" in text
    assert "1 vLLM engine of TP2, 256 responses each" in text
    assert "prompt <= 1024 + response <= 8192 = 9216" in text


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (("model.path=",), "model.path is empty"),
        (("model.tp=3",), "model.tp=3"),
        (("batch_size=1",), "batch_size=1 leaves some of the 2"),
        (("model.mini_batch_size=4",), "model.mini_batch_size=4 has no meaning"),
        (("data.max_tokens=99999",), "exceeds the model's 32768 positions"),
        (("model.optimizer.beta1=1",), "model.optimizer.beta1=1.0"),
    ],
)
def test_sft_refused(overrides: tuple[str, ...], wanted: str) -> None:
    chosen = load_config(SFTConfig, [], ["model.path=m", "data.train=a.jsonl", *overrides])
    with pytest.raises(UserError, match=wanted.replace(".", r"\.")):
        check_sft(chosen, 2, "cpu", Shape())


def test_sft_accepted_and_explained() -> None:
    chosen = load_config(SFTConfig, [], ["model.path=m", "data.train=a.jsonl"])
    assert check_sft(chosen, 2, "cpu", Shape()) == []
    assert "64 examples per optimizer step, 1000 steps" in explain_sft(chosen, 2)


@pytest.mark.parametrize(("kind", "bounds"), [(Config, TRAINING), (SFTConfig, SFT)])
def test_every_numeric_knob_has_a_bound(kind: type, bounds: tuple) -> None:
    numeric = {knob.key for knob in describe(kind) if knob.type in (int, float)} - {"seed"}
    assert numeric == {bound.key for bound in bounds}
