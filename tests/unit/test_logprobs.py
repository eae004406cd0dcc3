"""Chunked log-probs against log_softmax and autograd on the whole logits, in a world of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from megatron_sppo.models.logprobs import MainGrad, _ChunkedLogprobs

NUM_TOKENS, HIDDEN, VOCAB = 23, 16, 151


@pytest.fixture(scope="module", autouse=True)
def world_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(NUM_TOKENS, HIDDEN, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(VOCAB, HIDDEN, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(VOCAB, (NUM_TOKENS,), generator=generator)
    labels[0], labels[1] = 0, VOCAB - 1
    return hidden.requires_grad_(), weight.requires_grad_(), labels


def chunked(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, temperature: float, chunk: int) -> Any:
    return _ChunkedLogprobs.apply(hidden, weight, labels, temperature, chunk, 0, dist.group.WORLD, None)


def whole(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, temperature: float) -> Any:
    logp = torch.log_softmax(hidden @ weight.t() / temperature, -1)
    return logp.gather(-1, labels[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("use", ["logprobs", "entropy", "both"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunk", [1, 7, NUM_TOKENS, 1000])
def test_values_and_gradients(chunk: int, temperature: float, use: str) -> None:
    """Float32 against a float64 reference: errors are those of float32 rounding alone."""
    hidden, weight, labels = inputs()
    exact_hidden, exact_weight = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    got, want = chunked(hidden, weight, labels, temperature, chunk), whole(exact_hidden, exact_weight, labels, temperature)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == torch.float32
        torch.testing.assert_close(g.double(), w, atol=1e-5, rtol=1e-6)
    upstream = torch.linspace(-1, 2, NUM_TOKENS)
    for (logprobs, entropy), dtype in ((got, torch.float32), (want, torch.float64)):
        from_logprobs, from_entropy = logprobs @ upstream.to(dtype), entropy @ upstream.to(dtype).flip(0)
        (from_logprobs * (use != "entropy") + from_entropy * (use != "logprobs")).backward()
    for parameter, exact in ((hidden, exact_hidden), (weight, exact_weight)):
        assert parameter.grad is not None and exact.grad is not None
        torch.testing.assert_close(parameter.grad.double(), exact.grad, atol=2e-5, rtol=1e-5)
    assert weight.grad is not None and float(weight.grad.abs().max()) > 0.1


@pytest.mark.parametrize("which", [0, 1])
def test_only_one_of_the_two_results_is_used(which: int) -> None:
    """The gradient of the unused result is None, not zeros."""
    hidden, weight, labels = inputs()
    exact_hidden = hidden.detach().double().requires_grad_()
    chunked(hidden, weight, labels, 0.7, 5)[which].sum().backward()
    whole(exact_hidden, weight.detach().double(), labels, 0.7)[which].sum().backward()
    assert hidden.grad is not None and exact_hidden.grad is not None
    torch.testing.assert_close(hidden.grad.double(), exact_hidden.grad, atol=2e-5, rtol=1e-5)


def test_results_do_not_depend_on_the_chunk_nor_on_gradients_being_on() -> None:
    """Old log-probs come from a pass without gradients: the same bits as in the update."""
    hidden, weight, labels = inputs()
    with torch.no_grad():
        (without, _) = chunked(hidden, weight, labels, 0.6, 7)
    (with_gradients, _) = chunked(hidden, weight, labels, 0.6, 7)
    assert torch.equal(without, with_gradients)
    (one_chunk, _) = chunked(hidden, weight, labels, 0.6, 1000)
    torch.testing.assert_close(one_chunk, without, atol=2e-6, rtol=0)


def test_extreme_logits() -> None:
    hidden, weight, labels = inputs()
    with torch.no_grad():
        hidden.mul_(100)
    logprobs, entropy = chunked(hidden, weight, labels, 0.1, 4)
    (logprobs.sum() + entropy.sum()).backward()
    assert logprobs.isfinite().all() and entropy.isfinite().all() and hidden.grad is not None and hidden.grad.isfinite().all()
    assert logprobs.le(0).all() and entropy.ge(-1e-5).all()


def test_bfloat16_parameters_give_float32_results() -> None:
    hidden, weight, labels = inputs(torch.bfloat16)
    logprobs, _ = chunked(hidden, weight, labels, 1.0, 8)
    want, _ = whole(hidden.detach().double(), weight.detach().double(), labels, 1.0)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs.double(), want, atol=0.1, rtol=0.02)
    logprobs.sum().backward()
    assert weight.grad is not None and weight.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weights_gradient_is_added_where_megatron_keeps_it(dtype: torch.dtype) -> None:
    """In fp32, over micro-batches, as it would be without rounding in between; autograd sees none."""
    hidden, weight, labels = inputs(dtype)
    main_grad = torch.full((VOCAB, HIDDEN), 0.5)
    plain = weight.detach().clone().requires_grad_()
    for chunk in (4, 1000):
        logprobs, _ = _ChunkedLogprobs.apply(hidden, weight, labels, 0.6, chunk, 0, dist.group.WORLD, MainGrad(main_grad, False))
        logprobs.sum().backward()
        chunked(hidden, plain, labels, 0.6, chunk)[0].sum().backward()
    assert weight.grad is None and plain.grad is not None
    torch.testing.assert_close(
        main_grad - 0.5, plain.grad.float(), **({} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.02})
    )


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements of any tensor that an operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(t.numel() for t in tree_iter(result) if isinstance(t, torch.Tensor))])
        return result


def test_the_logits_of_all_tokens_never_exist() -> None:
    chunk, num_tokens = 4, 64
    hidden = torch.randn(num_tokens, HIDDEN, requires_grad=True)
    _, weight, _ = inputs()
    labels = torch.randint(VOCAB, (num_tokens,))
    with LargestTensor() as ours:
        logprobs, entropy = chunked(hidden, weight, labels, 0.6, chunk)
        (logprobs.sum() + entropy.sum()).backward()
    with LargestTensor() as naive:
        whole(hidden, weight, labels, 0.6)[0].sum().backward()
    assert naive.numel == num_tokens * VOCAB, "the probe sees logits where there are any"
    assert ours.numel == max(VOCAB * HIDDEN, chunk * VOCAB, num_tokens * HIDDEN)
