"""Memory of one rank of a vLLM engine, in bytes, and how many sequences its KV cache holds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from megatron_sppo.config.schema import RolloutConfig
from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.parallel.gpus import GPU
from megatron_sppo.reshard.catalogue import hf_shapes
from megatron_sppo.reshard.declared import Cluster, vllm_layout

DEFAULT_BATCHED_TOKENS = 16384  # vLLM's for the LLM class on GPUs of 70 GiB and more (vllm/engine/arg_utils.py)
BLOCK_TOKENS = 16  # of vLLM's KV cache on a GPU


@cache
def engine_parameters(hf: HFModelConfig, tp: int) -> int:
    """Parameters of rank 0 of an engine, which holds most where they cannot be cut evenly."""
    return vllm_layout(hf, Cluster(rollout_tp=tp, dp=tp), 0, hf_shapes(hf)).num_elements


def kv_bytes_per_token(hf: HFModelConfig, tp: int, itemsize: int = 2) -> int:
    """Keys and values of every layer; with fewer KV heads than TP ranks each rank keeps a whole head.

    Example: Qwen2.5-7B, TP1: 2 x 28 layers x 4 heads x 128 x 2 bytes = 57,344.
    """
    return 2 * hf.num_layers * max(1, hf.num_kv_heads // tp) * hf.head_dim * itemsize


@dataclass(frozen=True)
class EngineMemory:
    """vLLM takes ``gpu_memory_utilization`` of the whole GPU for itself (vllm/v1/worker/gpu_worker.py): weights and the peak of a
    profiling run first; what is left becomes KV cache.
    """

    hf: HFModelConfig
    config: RolloutConfig
    gpu: GPU
    itemsize: int

    @property
    def share(self) -> float:
        return self.config.gpu_memory_utilization * self.gpu.memory

    @property
    def weights(self) -> float:
        """With ``quantization=fp8`` the layers' matrices take a byte an element; the vocabulary's stay as they are."""
        count = engine_parameters(self.hf, self.config.tp)
        if self.config.quantization == "none":
            return count * self.itemsize
        vocabulary = (1 if self.hf.tied_embeddings else 2) * self.hf.vocab_size * self.hf.hidden_size / self.config.tp
        return vocabulary * self.itemsize + count - vocabulary

    @property
    def activations(self) -> float:
        """Peak of the profiling run on a full batch of tokens: hidden state and residual, gate and up, their product; beside it
        the sampler's logits of every sequence in fp32, three times (logits, log-probs, and what sampling makes of them).
        """
        tokens = self.config.max_num_batched_tokens or DEFAULT_BATCHED_TOKENS
        per_token = (2 * self.hf.hidden_size + 3 * self.hf.ffn_size / self.config.tp) * self.itemsize
        return tokens * per_token + 3 * self.config.max_num_seqs * self.hf.vocab_size * 4

    @property
    def kv_cache(self) -> float:
        """Negative where the share is too small for what comes first."""
        return self.share - self.weights - self.activations

    def sequences(self, tokens: int) -> int:
        """How many sequences of ``tokens`` tokens the KV cache holds at once."""
        blocks = -(-tokens // BLOCK_TOKENS)
        per_sequence = blocks * BLOCK_TOKENS * kv_bytes_per_token(self.hf, self.config.tp, self.itemsize)
        return max(0, int(self.kv_cache // per_sequence))
