"""Log-probs and entropy straight from hidden states: vocab-parallel and chunked over tokens.

The logits of a micro-batch never exist: those of ``chunk`` tokens x vocab/TP columns do, in the forward and again (recomputed) in
the backward. Padding rows of the vocabulary are cut off, so probabilities are over the real vocabulary exactly.

With logits x = W h / temperature, log Z = logsumexp(x) and p = exp(x - log Z):
    logprob(y) = x_y - log Z                       d logprob / dx = onehot(y) - p
    H          = log Z - sum(p x)                  d H / dx       = -p (x - log Z + H)

What is asked of a chunk of logits is two functions: in plain PyTorch (:mod:`megatron_sppo.models.logit_math`), or on a GPU as
kernels that read each logit once (:mod:`megatron_sppo.models.logit_kernels`). The gradient of the output matrix is summed in
fp32, chunk by chunk, where Megatron sums it over micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import ColumnParallelLinear, gather_from_sequence_parallel_region
from torch import Tensor

from megatron_sppo.models import logit_math


def _passes(logits: Tensor) -> ModuleType:
    """Where :func:`logit_math.statistics` and :func:`logit_math.gradient` of these logits are."""
    if not logits.is_cuda:
        return logit_math
    from megatron_sppo.models import logit_kernels

    return logit_kernels


@dataclass(frozen=True)
class MainGrad:
    """Where Megatron sums a weight's gradient."""

    rows: Tensor  # fp32, of the weight's real rows
    is_shown: bool  # autograd is handed zeros in its place

    def shown(self, weight: Tensor) -> Tensor | None:
        return weight.new_zeros(()).expand_as(weight) if self.is_shown else None


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
        main_grad: MainGrad | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        log_z = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
        logprobs, entropy = torch.empty_like(log_z), torch.empty_like(log_z)
        labels = _local(labels, first, weight.shape[0])
        for begin in range(0, hidden.shape[0], chunk):
            part = slice(begin, begin + chunk)
            logits = hidden[part] @ weight.t()
            found = _passes(logits).statistics(logits, labels[part], temperature)
            del logits  # before the next chunk's
            top, total, weighted, picked = _over_ranks(found, labels[part], group)
            log_sum = total.log()
            log_z[part] = log_sum + top
            logprobs[part] = picked - log_sum
            entropy[part] = log_sum - weighted / total
        ctx.save_for_backward(hidden, weight, labels, log_z, entropy)
        ctx.call = (temperature, chunk, group, main_grad)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, labels, log_z, entropy = ctx.saved_tensors
        temperature, chunk, group, main_grad = ctx.call
        d_hidden = torch.zeros_like(hidden)
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if main_grad is None else main_grad.rows
        for begin in range(0, hidden.shape[0], chunk):
            part = slice(begin, begin + chunk)
            grads = (None if grad is None else grad[part] for grad in (grad_logprobs, grad_entropy))
            logits = hidden[part] @ weight.t()
            d_logits = _passes(logits).gradient(logits, labels[part], log_z[part], entropy[part], *grads, temperature)
            d_hidden[part] = d_logits @ weight
            _add_product(d_weight, d_logits.t(), hidden[part])
            del logits, d_logits  # before the next chunk's
        if group.size() > 1:
            dist.all_reduce(d_hidden, group=group)
        shown = d_weight.to(weight.dtype) if main_grad is None else main_grad.shown(weight)
        return d_hidden, shown, None, None, None, None, None, None


def _local(labels: Tensor, first: int, num_rows: int) -> Tensor:
    """Row of each label in this rank's shard, -1 where it is not there."""
    local = labels - first
    return torch.where((local >= 0) & (local < num_rows), local, -1)


def _over_ranks(statistics_4n: Tensor, labels_n: Tensor, group: dist.ProcessGroup) -> Tensor:
    """This rank's :func:`logit_math.statistics` -> those of all columns, with the label's x below the maximum."""
    top, total, weighted, picked = statistics_4n
    if group.size() == 1:
        return torch.stack([top, total, weighted, picked - top])
    highest = top.clone()
    dist.all_reduce(highest, op=dist.ReduceOp.MAX, group=group)
    step = top - highest
    scale = step.exp()
    sums = torch.stack([total * scale, (weighted + step * total) * scale, torch.where(labels_n >= 0, picked - highest, 0.0)])
    dist.all_reduce(sums, group=group)
    return torch.stack([highest, *sums])


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, without a product in memory where there is a kernel for it."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    elif total.is_cuda:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total.add_(a @ b)


class LMHead(ColumnParallelLinear):
    """Megatron's output layer with its parameters and sharded state, whose forward hands on the hidden states.

    GPTModel passes the tied embedding to ``forward``; it is kept until :meth:`logprobs` is called on the same micro-batch.
    """

    real_vocab_size: int
    shows_gradient = (
        False  # whether autograd sees one (of zeros), by which Megatron knows when the weight's can be summed over ranks
    )
    _tied_weight: tuple[Tensor | None] = (None,)  # in a tuple, or nn.Module would register it as a second parameter

    def forward(
        self, input_: Tensor, weight: Tensor | None = None, runtime_gather_output: bool | None = None
    ) -> tuple[Tensor, None]:
        self._tied_weight = (weight,)
        if self.sequence_parallel:
            input_ = gather_from_sequence_parallel_region(input_, tensor_parallel_output_grad=False, group=self.tp_group)
        return input_, None

    def logprobs(self, hidden_R: Tensor, labels_R: Tensor, temperature: float, chunk: int) -> tuple[Tensor, Tensor]:
        """Log-prob of each label and entropy of each distribution: hidden [R, h], labels [R] -> ([R], [R]), on every TP rank.

        The backward adds the weight's gradient to its ``main_grad``, where Megatron's wrapper has given it one, and autograd
        sees none or zeros: what autograd would hand over, rounded to the weight's dtype, Megatron would add there.
        """
        (tied,) = self._tied_weight
        weight = self.weight if tied is None else tied
        first = self.tp_group.rank() * weight.shape[0]
        rows = max(0, min(weight.shape[0], self.real_vocab_size - first))
        main_grad: Tensor | None = getattr(weight, "main_grad", None)
        is_summed = main_grad is not None and torch.is_grad_enabled()  # without gradients its memory may be away
        target = MainGrad(main_grad[:rows], self.shows_gradient) if is_summed else None
        return _ChunkedLogprobs.apply(hidden_R, weight[:rows], labels_R, temperature, chunk, first, self.tp_group, target)


def install_lm_head(model: Any, real_vocab_size: int) -> None:
    """Turn a GPTModel's output layer into an :class:`LMHead` in place: same parameters, other forward."""
    model.output_layer.__class__ = LMHead
    model.output_layer.real_vocab_size = real_vocab_size
