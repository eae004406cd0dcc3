"""Under torchrun: what a model of 100 M parameters really allocates against what `megatron-sppo plan` says it does.

    torchrun --nproc-per-node 2 plan_memory.py

Prints a line ``RESULT {"case": ..., "rank": ..., "weights": [bytes allocated, bytes planned], ...}`` per case and rank.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_sppo.config.schema import ModelConfig, OptimizerConfig
from megatron_sppo.losses import LossSum
from megatron_sppo.models.engine import MegatronEngine
from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.models.packing import PackedSequences, pack
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.groups import Layout, build_groups
from megatron_sppo.plan.trainer_memory import Head, Shard
from megatron_sppo.ragged import Ragged

MODEL = HFModelConfig(
    family="qwen2",
    num_layers=6,
    hidden_size=768,
    num_heads=12,
    num_kv_heads=4,
    head_dim=64,
    ffn_size=3072,
    vocab_size=32000,
    tied_embeddings=False,
    rope_theta=1e6,
    norm_eps=1e-6,
    max_positions=4096,
    eos_token_ids=(1,),
)
WHOLE = OptimizerConfig(distributed=False)
CASES: dict[str, tuple[Head, dict[str, Any]]] = {
    "bf16, distributed optimizer over 2": ("lm", {"dtype": "bf16"}),
    "bf16, TP2": ("lm", {"dtype": "bf16", "tp": 2}),
    "bf16, PP2, critic": ("value", {"dtype": "bf16", "pp": 2}),
    "fp32, whole optimizer": ("value", {"dtype": "fp32", "tp": 2, "optimizer": WHOLE}),
}
ROW = 256  # tokens


def storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """address -> bytes of the memory behind tensors, views counted once."""
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


def optimizer_tensors(optimizer: Any) -> Iterable[Tensor]:
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        for group in part.optimizer.param_groups:
            for param in group["params"]:
                yield param
                yield from (value for value in part.optimizer.state[param].values() if isinstance(value, Tensor))


class Kept:
    """Bytes that autograd keeps for the backward pass, parameters left out."""

    def __init__(self, engine: MegatronEngine) -> None:
        self._own = storages(engine.model.parameters())
        self._seen: dict[int, tuple[Tensor, int]] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._own:
            self._seen[storage.data_ptr()] = (tensor, storage.nbytes())  # the tensor is held, or its address would be used again
        return tensor

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self._seen.values())


def measure(name: str, head: Head, knobs: dict[str, Any]) -> dict[str, Any]:
    config = ModelConfig(**knobs)
    (groups,) = build_groups([Layout.of(config)], seed=1)
    engine = MegatronEngine(MODEL, config, groups, head, total_steps=10)
    for param in engine.model.parameters():
        param.detach().normal_(std=0.02)
    engine.start_optimizer()
    sequence = Ragged.from_rows([torch.arange(ROW) % MODEL.vocab_size], torch.int64)
    batch = _Row(pack(sequence, [0], engine.row_layout, platform.device()))
    kept = Kept(engine)
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        engine.update([batch], lambda output, _: LossSum(output.float().square().sum(), 1, {}))
    weights = storages(engine.model.parameters())
    gradients = storages(buffer.grad_data for buffer in engine.ddp.buffers)
    states = {at: size for at, size in storages(optimizer_tensors(engine.optimizer)).items() if at not in weights}
    shard = Shard(MODEL, config, head, groups.pp_rank, dist.get_world_size())
    return {
        "case": name,
        "rank": dist.get_rank(),
        "weights": [sum(weights.values()), shard.state.weights],
        "gradients": [sum(gradients.values()), shard.state.gradients],
        "optimizer": [sum(states.values()), shard.state.optimizer],
        "activations": [kept.bytes, ROW * shard.num_layers * shard.layer_bytes],
    }


@dataclass(frozen=True)
class _Row:
    packed: PackedSequences


def main() -> None:
    platform.start_distributed()
    platform.quiet_upstream()
    for name, (head, knobs) in CASES.items():
        print("RESULT " + json.dumps(measure(name, head, knobs)), flush=True)
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
