"""Memory of one Megatron model on one rank, in bytes: what it keeps, and what an update needs on top.

Weights, gradients and optimizer follow from how the model is wrapped (:mod:`megatron_sppo.models.optimizer`); activations follow
Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models" (arXiv 2205.05198, sec. 4), counted anew for
gated MLPs, grouped queries and flash attention, which keeps no score matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np

from megatron_sppo.config.schema import ModelConfig
from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.reshard.boxes import RankLayout
from megatron_sppo.reshard.catalogue import hf_shapes
from megatron_sppo.reshard.declared import Cluster, megatron_layout
from megatron_sppo.weights.mapping import OUTPUT_LAYER

Head = Literal["lm", "value"]


def itemsize(dtype: str) -> int:
    """Bytes of a parameter on a GPU, where ``auto`` means bf16."""
    return 4 if dtype == "fp32" else 2


@cache
def parameters(hf: HFModelConfig, tp: int, pp: int, head: Head) -> tuple[int, ...]:
    """Parameters of a rank in each pipeline stage, as :func:`megatron_layout` lays them out; vocabulary padding left out."""
    cluster, shapes = Cluster(tp=tp, pp=pp), hf_shapes(hf)
    return tuple(_parameters_of_stage(hf, megatron_layout(hf, cluster, stage * tp, shapes), head) for stage in range(pp))


def _parameters_of_stage(hf: HFModelConfig, held: RankLayout, head: Head) -> int:
    params, boxes = held.params, held.boxes
    size = dict(zip(params, np.bincount(boxes.param, weights=boxes.size, minlength=len(params)).tolist(), strict=True))
    is_last = "decoder.final_layernorm.weight" in size
    if head == "value":
        size.pop(OUTPUT_LAYER, None)  # a row of the hidden size and a bias take its place
        return int(sum(size.values())) + (hf.hidden_size + 1 if is_last else 0)
    return int(sum(size.values()))


@dataclass(frozen=True)
class ModelState:
    """What a rank keeps of a model from its first step to its last."""

    weights: float
    gradients: float
    optimizer: float

    @classmethod
    def of(cls, num_parameters: int, config: ModelConfig, world_size: int) -> ModelState:
        """Megatron-core's mixed precision: weights of 2 bytes (bf16), gradients accumulated in 4 (``grad_reduce_in_fp32``), an
        fp32 copy of the weights and two fp32 moments = 12, these shared by the world / (TP x PP) ranks with the same weights
        (context-parallel ones count too) under the distributed optimizer. In fp32: 4, 4 and 8, for no copy is needed.
        """
        size = itemsize(config.dtype)
        states = 12 if size == 2 else 8
        sharers = world_size // (config.tp * config.pp) if config.optimizer.distributed else 1
        return cls(num_parameters * size, num_parameters * 4, num_parameters * states / sharers)

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True)
class Shard:
    """One model as a rank of one pipeline stage has it."""

    hf: HFModelConfig
    config: ModelConfig
    head: Head
    stage: int
    world_size: int

    @property
    def state(self) -> ModelState:
        count = parameters(self.hf, self.config.tp, self.config.pp, self.head)[self.stage]
        state = ModelState.of(count, self.config, self.world_size)
        saved = self._fp8_elements if self.config.fp8.parameters else 0.0  # a byte an element instead of two
        return replace(state, weights=state.weights - saved)

    @property
    def written_weights(self) -> float:
        """Bytes of the weights in a checkpoint, which knows no FP8."""
        return self.state.weights + (self._fp8_elements if self.config.fp8.parameters else 0.0)

    @property
    def fp8_copies(self) -> float:
        """Of bf16 matrices, kept by Transformer Engine while the model computes: a byte an element, as it is and transposed."""
        return 0.0 if self.config.fp8.parameters else 2 * self._fp8_elements

    @property
    def fp8_transposes(self) -> float:
        """Of FP8 parameters, which a backward pass needs: a byte an element."""
        return self._fp8_elements if self.config.fp8.parameters else 0.0

    @property
    def _fp8_elements(self) -> float:
        """Of this rank's matrices that are multiplied in FP8: those of the layers but the first and last that stay in bf16."""
        fp8, hf = self.config.fp8, self.hf
        if fp8.recipe == "none":
            return 0.0
        in_bf16 = fp8.bf16_first_layers * (self.stage == 0) + fp8.bf16_last_layers * self.is_last
        attention = 2 * (hf.num_heads + hf.num_kv_heads) * hf.head_dim * hf.hidden_size
        num_layers = max(0, self.num_layers - in_bf16)
        return num_layers * (attention + 3 * hf.hidden_size * hf.ffn_size) / self.config.tp

    @property
    def num_layers(self) -> int:
        return self.hf.num_layers // self.config.pp

    @property
    def is_last(self) -> bool:
        return self.stage == self.config.pp - 1

    @property
    def _hidden_bytes(self) -> float:
        """One hidden state of a token on this rank: cut by TP under sequence parallelism, whole otherwise."""
        cut = self.config.tp if self.config.sequence_parallel else 1
        return self.hf.hidden_size * itemsize(self.config.dtype) / cut

    @property
    def layer_bytes(self) -> float:
        """Kept per token of a layer for its backward, without recomputation, b bytes an element, h hidden, f of the MLP:
        4 h (inputs of two norms and what they hand on), q + 2 kv and the attention's output q, 4 f (gate, up, silu(gate) and
        their product; ``fuse_swiglu`` does without silu(gate)), and 4 bytes per head (the softmax's normaliser). So Transformer
        Engine's layers; Megatron's local ones, with norms in fp32, keep up to 1.8 times as much
        (tests/distributed/test_plan_memory.py).
        """
        hf, size, tp = self.hf, itemsize(self.config.dtype), self.config.tp
        query, key = hf.num_heads * hf.head_dim, hf.num_kv_heads * hf.head_dim
        gated = 3 if self.config.fuse_swiglu else 4
        split = (2 * query + 2 * key + gated * hf.ffn_size) * size / tp + 4 * hf.num_heads / tp
        return 4 * self._hidden_bytes + split

    def activations(self, row_tokens: int, num_micro_batches: int) -> float:
        """During an update on packed rows of ``row_tokens`` tokens of this rank.

        1F1B keeps the activations of pp - stage micro-batches at once. With ``recompute=full`` each keeps the input of every
        layer alone, and one layer is rebuilt at a time; ``selective`` recomputes the attention's scores, which flash attention
        does not keep anyway. On top: the gradients of the layer in the backward pass, as large as its widest tensors.
        """
        in_flight = min(self.config.pp - self.stage, num_micro_batches)
        if self.config.recompute == "full":
            kept = self.num_layers * self._hidden_bytes * in_flight + self.layer_bytes
        else:
            kept = self.num_layers * self.layer_bytes * in_flight
        return row_tokens * (kept + self._working_bytes)

    def forward_activations(self, row_tokens: int) -> float:
        """During a forward pass without gradients: one layer at a time."""
        return row_tokens * self._working_bytes

    @property
    def _working_bytes(self) -> float:
        """Per token: two hidden states, and gate, up and their product."""
        return 2 * self._hidden_bytes + 3 * self.hf.ffn_size * itemsize(self.config.dtype) / self.config.tp

    @property
    def head_bytes(self) -> float:
        """Log-probs by :mod:`megatron_sppo.models.logprobs` on a GPU: a chunk's logits in the model's dtype, where their gradient
        takes their place; the output layer's gradient is added where it is kept.
        """
        if self.head == "value" or not self.is_last:
            return 0.0
        rows = math.ceil(self.hf.vocab_size / self.config.tp)
        return self.config.logprob_chunk_tokens * rows * itemsize(self.config.dtype)


def row_tokens(config: ModelConfig, longest: int, sequences: int) -> int:
    """Tokens on one rank of the largest packed row: the budget, or a single longer sequence; ``sequences`` are all there are."""
    return math.ceil(min(max(config.micro_batch_tokens, longest), sequences * longest) / config.cp)


def micro_batches(config: ModelConfig, sequences: int, mean_tokens: float) -> int:
    """Packed rows of ``sequences`` of one replica."""
    return max(1, math.ceil(sequences * mean_tokens / config.micro_batch_tokens))
