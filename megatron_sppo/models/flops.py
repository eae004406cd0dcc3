"""Model FLOPs of a dense transformer over packed sequences: what the arithmetic needs, not what recomputation or padding adds.

A forward pass takes 2 per weight and token, plus 4 x layers x query channels per pair of a token and a key that it attends to
(q k^T and its product with v, 2 each; Narayanan et al., arXiv 2104.04473, appendix). A causal sequence of n tokens has n^2 / 2
pairs. Grouped keys and values have fewer weights; the query heads decide the attention's FLOPs. Norms, biases, rotary embeddings
and softmax are left out. A backward pass takes twice a forward's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_sppo.models.hf_config import HFModelConfig

TRAINING_PASSES = 3  # forward and backward, in forwards


def layer_weights(hf: HFModelConfig) -> int:
    """Of the matrices that every token is multiplied by: all layers, without the vocabulary's."""
    queries, keys = hf.num_heads * hf.head_dim, hf.num_kv_heads * hf.head_dim
    attention = hf.hidden_size * (queries + 2 * keys) + queries * hf.hidden_size
    return hf.num_layers * (attention + 3 * hf.hidden_size * hf.ffn_size)


def forward_flops(hf: HFModelConfig, tokens: float, squares: float, scored_tokens: float = 0.0) -> float:
    """Of ``tokens`` tokens in sequences whose squared lengths add up to ``squares``; the output layer takes ``scored_tokens``."""
    attention = 4 * hf.num_layers * hf.num_heads * hf.head_dim * squares / 2
    return 2 * layer_weights(hf) * tokens + attention + 2 * hf.vocab_size * hf.hidden_size * scored_tokens


@dataclass(frozen=True)
class Work:
    """Of one phase over all ranks."""

    tokens: int
    flops: float

    @classmethod
    def forward(cls, hf: HFModelConfig, lengths: Sequence[int], scored_tokens: int = 0) -> Work:
        """One pass over sequences of ``lengths`` tokens."""
        tokens = sum(lengths)
        return cls(tokens, forward_flops(hf, tokens, sum(n * n for n in lengths), scored_tokens))

    def training(self, epochs: int) -> Work:
        return Work(self.tokens * epochs, self.flops * TRAINING_PASSES * epochs)


def rates(work: Work, seconds: float, num_ranks: int, peak_flops: float | None) -> dict[str, float]:
    """``tokens_per_second`` of all ranks, ``tflops`` of each; with a known peak ``mfu`` = FLOPs / (seconds x ranks x peak)."""
    per_rank = work.flops / seconds / num_ranks
    found = {"tokens_per_second": work.tokens / seconds, "tflops": per_rank / 1e12}
    return found if peak_flops is None else {**found, "mfu": per_rank / peak_flops}
