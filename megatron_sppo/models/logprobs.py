"""Log-probs and entropy straight from hidden states: vocab-parallel and chunked over tokens.

The fp32 logits of a micro-batch never exist: at most two buffers of ``chunk`` tokens x vocab/TP columns (logits and
probabilities) are alive at once, in the forward and again (recomputed) in the backward. Padding rows of the vocabulary
are cut off, so probabilities are over the real vocabulary exactly.

With logits x = W h / temperature, log Z = logsumexp(x) and p = exp(x - log Z):
    logprob(y) = x_y - log Z                       d logprob / dx = onehot(y) - p
    H          = log Z - sum(p x)                  d H / dx       = -p (x - log Z + H)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import ColumnParallelLinear, gather_from_sequence_parallel_region
from torch import Tensor


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        temperature: float,
        chunk: int,
        first: int,
        group: dist.ProcessGroup,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        num_tokens, num_rows = hidden.shape[0], weight.shape[0]
        log_z = hidden.new_empty(num_tokens, dtype=torch.float32)
        logprobs, entropy = torch.empty_like(log_z), torch.empty_like(log_z)
        for begin in range(0, num_tokens, chunk):
            part = slice(begin, min(begin + chunk, num_tokens))
            logits = _logits(hidden[part], weight, temperature)
            top = logits.amax(-1) if num_rows else logits.new_full((logits.shape[0],), -torch.inf)
            if group.size() > 1:
                dist.all_reduce(top, op=dist.ReduceOp.MAX, group=group)
            logits.sub_(top[:, None])
            local, mine = _local_labels(labels[part], first, num_rows)
            picked = logits.gather(1, local[:, None])[:, 0] * mine if num_rows else torch.zeros_like(top)
            p = logits.exp()
            sums = torch.stack([p.sum(-1), picked, logits.mul_(p).sum(-1)])
            if group.size() > 1:
                dist.all_reduce(sums, group=group)
            log_sum = sums[0].log()
            log_z[part] = log_sum + top
            logprobs[part] = sums[1] - log_sum
            entropy[part] = log_sum - sums[2] / sums[0]
        ctx.save_for_backward(hidden, weight, labels, log_z, entropy)
        ctx.call = (temperature, chunk, first, group)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, labels, log_z, entropy = ctx.saved_tensors
        temperature, chunk, first, group = ctx.call
        d_hidden = torch.zeros_like(hidden)
        d_weight = torch.zeros_like(weight, dtype=torch.float32)
        for begin in range(0, hidden.shape[0], chunk):
            part = slice(begin, min(begin + chunk, hidden.shape[0]))
            d_logits = _logits(hidden[part], weight, temperature).sub_(log_z[part, None])
            p = d_logits.exp()
            if grad_entropy is None:
                d_logits.zero_()
            else:
                d_logits.add_(entropy[part, None]).mul_(p).mul_(-grad_entropy[part, None])
            if grad_logprobs is not None:
                d_logits.sub_(p.mul_(grad_logprobs[part, None]))
                local, mine = _local_labels(labels[part], first, weight.shape[0])
                if weight.shape[0]:
                    d_logits.scatter_add_(1, local[:, None], (grad_logprobs[part] * mine)[:, None])
            d_logits = d_logits.div_(temperature).to(hidden.dtype)
            d_hidden[part] = d_logits @ weight
            d_weight += (d_logits.t() @ hidden[part]).float()
        if group.size() > 1:
            dist.all_reduce(d_hidden, group=group)
        return d_hidden, d_weight.to(weight.dtype), None, None, None, None, None


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """[tokens, rows] fp32"""
    return (hidden @ weight.t()).float().div_(temperature)


def _local_labels(labels: Tensor, first: int, num_rows: int) -> tuple[Tensor, Tensor]:
    """Row of each label in this rank's shard (clamped) and whether it really is there."""
    local = labels - first
    return local.clamp(0, max(num_rows - 1, 0)), (local >= 0) & (local < num_rows)


class LMHead(ColumnParallelLinear):
    """Megatron's output layer with its parameters and sharded state, whose forward hands on the hidden states.

    GPTModel passes the tied embedding to ``forward``; it is kept until :meth:`logprobs` is called on the same micro-batch.
    """

    real_vocab_size: int
    _tied_weight: tuple[Tensor | None] = (None,)  # in a tuple, or nn.Module would register it as a second parameter

    def forward(
        self, input_: Tensor, weight: Tensor | None = None, runtime_gather_output: bool | None = None
    ) -> tuple[Tensor, None]:
        self._tied_weight = (weight,)
        if self.sequence_parallel:
            input_ = gather_from_sequence_parallel_region(input_, tensor_parallel_output_grad=False, group=self.tp_group)
        return input_, None

    def logprobs(self, hidden_R: Tensor, labels_R: Tensor, temperature: float, chunk: int) -> tuple[Tensor, Tensor]:
        """Log-prob of each label and entropy of each distribution: hidden [R, h], labels [R] -> ([R], [R]), on every TP rank."""
        (tied,) = self._tied_weight
        weight = self.weight if tied is None else tied
        first = self.tp_group.rank() * weight.shape[0]
        rows = max(0, min(weight.shape[0], self.real_vocab_size - first))
        return _ChunkedLogprobs.apply(hidden_R, weight[:rows], labels_R, temperature, chunk, first, self.tp_group)


def install_lm_head(model: Any, real_vocab_size: int) -> None:
    """Turn a GPTModel's output layer into an :class:`LMHead` in place: same parameters, other forward."""
    model.output_layer.__class__ = LMHead
    model.output_layer.real_vocab_size = real_vocab_size
