"""An actor or a critic over Transformer Engine's or Megatron's local layers, and a step of either."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformer_engine.pytorch.quantization import FP8GlobalStateManager

from megatron_sppo.actor import Actor
from megatron_sppo.algorithms.base import PolicyInputs, ValueInputs
from megatron_sppo.algorithms.sppo import SPPO
from megatron_sppo.batch import ActorBatch, CriticBatch
from megatron_sppo.config.algorithms import CRITICS
from megatron_sppo.config.load import load_config
from megatron_sppo.config.schema import AlgorithmConfig, Config, ModelConfig, RolloutConfig
from megatron_sppo.critic import Critic
from megatron_sppo.losses import LossSum
from megatron_sppo.models import fp8
from megatron_sppo.models.engine import MegatronEngine
from megatron_sppo.models.hf_config import read_hf_config
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.groups import Layout, build_groups
from megatron_sppo.ragged import Ragged
from megatron_sppo.weights.export_hf import iter_hf_tensors
from megatron_sppo.weights.load_hf import load_hf_weights
from tests.transformer_engine import kernels

TEMPERATURE = 0.7
PROMPT_LENGTHS, RESPONSE_LENGTHS = [3, 9, 17, 5], [12, 30, 8, 21]
DEFAULTS = [
    "dtype=bf16",
    "mini_batch_size=4",  # all of them
    "micro_batch_tokens=64",  # two rows
    "optimizer.lr=2e-4",
    "fp8.bf16_first_layers=0",
    "fp8.bf16_last_layers=0",
]


@dataclass(frozen=True)
class Subject:
    """A model to build: its overrides are those of the role's section, without its name."""

    model: str  # HF folder
    role: Literal["actor", "critic"]
    layers: Literal["transformer_engine", "local"]
    overrides: tuple[str, ...] = ()

    @property
    def config(self) -> ModelConfig:
        words = [f"{self.role}.{word}" for word in (*DEFAULTS, *self.overrides)]
        config = load_config(Config, [], [f"actor.path={self.model}", f"critic.path={self.model}", *words])
        return config.actor if self.role == "actor" else config.critic


def start() -> int:
    """Join the job with the kernels' stand-ins in place; returns this process's rank."""
    rank, _ = platform.start_distributed()
    platform.quiet_upstream()
    kernels.install()
    return rank


def build(subject: Subject, fills: bool = True) -> Actor | Critic:
    """With the folder's weights, or zeros. Collective.

    Delayed scales are kept by process, of all models that it ever built: those of earlier ones go.
    """
    FP8GlobalStateManager.reset()
    platform.has_transformer_engine = lambda: subject.layers == "transformer_engine"
    hf, config = read_hf_config(subject.model), subject.config
    (groups,) = build_groups([Layout.of(config)], seed=1)
    engine = MegatronEngine(hf, config, groups, "lm" if subject.role == "actor" else "value", total_steps=10)
    if fills:
        load_hf_weights(engine.model, hf, subject.model, groups)
        if engine.head == "value":
            _open_value_head(engine)
    else:
        for parameter in engine.model.parameters():
            nn.init.zeros_(parameter)
    engine.start_optimizer()
    return Actor(engine, config, TEMPERATURE) if subject.role == "actor" else Critic(engine, config, CRITICS["sppo"])


def _open_value_head(engine: MegatronEngine) -> None:
    """It starts at zero: all values would be one number, and the layers would get no gradient."""
    weight = engine.model.output_layer.weight
    weight.data.copy_(0.03 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)))


def problem() -> tuple[Ragged, Ragged]:
    """Prompts and responses."""
    generator = torch.Generator().manual_seed(3)
    prompts, responses = (
        Ragged.from_rows([torch.randint(2, 250, (length,), generator=generator) for length in lengths], torch.int64)
        for lengths in (PROMPT_LENGTHS, RESPONSE_LENGTHS)
    )
    return prompts, responses


def outputs(model: Actor | Critic) -> Ragged:
    """Log-probs, or values. Collective."""
    return model.logprobs(*problem()) if isinstance(model, Actor) else model.values(*problem())


def num_fp8_copies(model: Actor | Critic) -> int:
    """Of weights, which Transformer Engine keeps from one micro-batch to the next; transposes of those in FP8 themselves."""
    copies = sum(len(getattr(module, "_fp8_workspaces", ())) for module in model.engine.model.modules())
    return copies + sum(parameter.get_usages()["columnwise"] for parameter in fp8_parameters(model))


def fp8_parameters(model: Actor | Critic) -> list[Any]:
    return [parameter for parameter in model.engine.model.parameters() if fp8.is_fp8(parameter)]


@dataclass(frozen=True)
class Step:
    outputs: Tensor  # before the update
    grad_norm: float
    log_ratios: list[float]  # the largest |log ratio| of each of this rank's micro-batches; none of a critic's
    num_fp8_copies: int  # at the last of them


def step(model: Actor | Critic) -> Step:
    """Outputs, then one update that starts from them. Collective."""
    prompts, responses = problem()
    algorithm = SPPO(AlgorithmConfig(), RolloutConfig(temperature=TEMPERATURE), seed=1)
    old = outputs(model)
    log_ratios: list[float] = []
    copies = [0]

    def actor_loss(inputs: PolicyInputs) -> LossSum:
        log_ratios.append(float((inputs.logprobs_N - inputs.old_logprobs_N).detach().abs().max()))
        copies.append(num_fp8_copies(model))
        return algorithm.actor_loss(inputs)

    def critic_loss(inputs: ValueInputs) -> LossSum:
        copies.append(num_fp8_copies(model))
        return algorithm.critic_loss(inputs)

    if isinstance(model, Actor):
        advantages = old.with_values(torch.linspace(-1, 1, len(old.values)))
        metrics = model.update(ActorBatch(prompts, responses, advantages, old, old, old), actor_loss, seed=0)
        grad_norm = metrics["actor/grad_norm"].value()
    else:
        batch = CriticBatch(prompts, responses, old.with_values(torch.tensor([0.0, 1.0, 1.0, 0.0])), old)
        metrics = model.update(batch, critic_loss, seed=0)
        grad_norm = metrics["critic/grad_norm"].value()
    return Step(old.values, grad_norm, log_ratios, copies[-1])


def weights(model: Actor | Critic) -> dict[str, Tensor]:
    """Those of the HF model by name, and the value head's, on every rank. Collective."""
    engine = model.engine
    with engine.residency.using("weights"):
        found = {name: tensor.clone() for name, tensor in iter_hf_tensors(engine.model, engine.hf, engine.groups)}
        if engine.head == "value":
            head = engine.model.output_layer.named_parameters()
            found |= {f"value head {name}": parameter.detach().clone() for name, parameter in head}
    return found


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """Equal where all bits are."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
