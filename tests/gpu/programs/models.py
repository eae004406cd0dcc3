"""Under torchrun on one GPU: `models.py FOLDER` prints ``RESULT {"subject": ...}`` per subject of tests/gpu/test_models.py."""

from __future__ import annotations

import importlib.util
import json
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from megatron_sppo.actor import Actor
from megatron_sppo.algorithms.sppo import SPPO
from megatron_sppo.batch import ActorBatch
from megatron_sppo.config.fp8 import row_multiple
from megatron_sppo.config.load import load_config
from megatron_sppo.config.offload import LEAVING, PARTS
from megatron_sppo.config.schema import AlgorithmConfig, Config, RolloutConfig
from megatron_sppo.models.engine import MegatronEngine
from megatron_sppo.models.hf_config import read_hf_config
from megatron_sppo.models.packing import pack
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.groups import Layout, build_groups
from megatron_sppo.ragged import Ragged
from megatron_sppo.weights.load_hf import load_hf_weights
from tests.distributed.programs.plain_sppo import TEMPERATURE, token_scores

CYCLES = 50
FP8 = ("delayed", "tensorwise", "blockwise", "tensorwise parameters", "blockwise parameters")


def say(subject: str, **found: Any) -> None:
    print("RESULT " + json.dumps({"subject": subject, **found}), flush=True)


def save_model(folder: Path) -> Path:
    """R1-Distill-Qwen's head geometry, small enough for seconds, wide enough for every FP8 recipe."""
    torch.manual_seed(1)
    shape = {"hidden_size": 1536, "num_attention_heads": 12, "num_key_value_heads": 2, "intermediate_size": 4480}
    config = Qwen2Config(vocab_size=32000, num_hidden_layers=4, tie_word_embeddings=False, dtype="bfloat16", **shape)
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def problem() -> tuple[Ragged, Ragged]:
    generator = torch.Generator().manual_seed(2)
    prompts, responses = (
        Ragged.from_rows([torch.randint(0, 32000, (n,), generator=generator) for n in lengths], torch.int64)
        for lengths in ([17, 64, 5, 130], [301, 40, 777, 129])
    )
    return prompts, responses


def build(model: Path, *overrides: str) -> Actor:
    words = [f"actor.path={model}", "data.train=[none]", "actor.dtype=bf16", "actor.optimizer.lr=1e-4", *overrides]
    words.append("actor.optimizer.clip_grad=0")  # a norm is a sum over shards: its last bits would be in every gradient
    config = load_config(Config, [], words).actor
    hf = read_hf_config(model)
    (groups,) = build_groups([Layout.of(config)], seed=1)
    engine = MegatronEngine(hf, config, groups, "lm", total_steps=1000)
    load_hf_weights(engine.model, hf, model, groups)
    engine.start_optimizer()
    return Actor(engine, config, TEMPERATURE)


def hf_logprobs(model: Path, prompts: Ragged, responses: Ragged) -> Tensor:
    """In fp32, on the CPU."""
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        return torch.cat([token_scores(policy, *pair)[0] for pair in zip(prompts.rows(), responses.rows(), strict=True)])


def update(actor: Actor, prompts: Ragged, responses: Ragged, old: Ragged) -> dict[str, float]:
    advantages = old.with_values(torch.linspace(-1, 1, len(old.values)))
    algorithm = SPPO(AlgorithmConfig(), RolloutConfig(temperature=TEMPERATURE), seed=1)
    found = actor.update(ActorBatch(prompts, responses, advantages, old, old, old), algorithm.actor_loss, seed=0)
    return {name: metric.value() for name, metric in found.items()}


def compare(model: Path) -> None:
    prompts, responses = problem()
    want, bf16_norm, bf16 = hf_logprobs(model, prompts, responses), 0.0, torch.empty(0)
    has_fp8 = importlib.util.find_spec("transformer_engine") is not None
    of_copies: dict[str, Tensor] = {}  # log-probs by recipe, of bf16 parameters with FP8 copies
    for name in ("none", *(FP8 if has_fp8 else ())):
        recipe, *parameters = name.split()
        actor = build(model, f"actor.fp8.recipe={recipe}", *(f"actor.fp8.{word}=true" for word in parameters))
        found = actor.logprobs(prompts, responses)
        alone = Actor(actor.engine, replace(actor.config, micro_batch_tokens=1), TEMPERATURE).logprobs(prompts, responses)
        norm = update(actor, prompts, responses, found)["actor/grad_norm"]
        if recipe == "none":
            bf16, bf16_norm = found.values, norm
        after = actor.logprobs(prompts, responses).values  # an update's casts of parameters are other kernels than a pass's
        both = torch.stack([found.values, after])
        row = pack(responses, range(len(responses)), actor.engine.row_layout, platform.device())
        say(
            "bf16" if recipe == "none" else name,
            mean_difference=float((found.values - (want if recipe == "none" else bf16)).abs().mean()),
            packed_against_single=float((found.values - alone.values).abs().mean()),
            grad_norm_ratio=norm / bf16_norm,
            padded_to=row.tokens_T.numel() % row_multiple(actor.config),
            against_copies=float((both - of_copies.setdefault(recipe, both)).abs().max()),
        )
        del actor
        torch.cuda.empty_cache()


def offload(model: Path) -> None:
    prompts, responses = problem()
    stays, leaves = build(model), build(model)
    old = stays.logprobs(prompts, responses)
    for actor in (stays, leaves):
        update(actor, prompts, responses, old)  # the moments exist from here on
    leaving = LEAVING["all"]["actor"]
    expected = sum(storage.nbytes() for part in leaving for storage in leaves.engine.storages(part).values())
    before = torch.cuda.memory_allocated()
    leaves.engine.residency.begin(leaving)
    freed = before - torch.cuda.memory_allocated()
    update(stays, prompts, responses, old)
    update(leaves, prompts, responses, old)
    device, host = torch.cuda.memory_allocated(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(CYCLES):
        with leaves.engine.residency.using(*PARTS):
            pass
    pairs = zip(stays.engine.model.parameters(), leaves.engine.model.parameters(), strict=True)
    say(
        "offload",
        freed_bytes=freed,
        expected_bytes=expected,
        same_weights=all(torch.equal(*pair) for pair in pairs),
        device_growth_bytes=torch.cuda.memory_allocated() - device,
        host_growth_bytes=(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - host) * 1024,
    )


def main() -> None:
    platform.start_distributed()
    platform.quiet_upstream()
    model = save_model(Path(sys.argv[1]) / "hf")
    compare(model)
    offload(model)


if __name__ == "__main__":
    main()
