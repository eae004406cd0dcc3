"""Log-probs of a real vocabulary by the kernels, in bf16, against fp32 on the same logits; and what they cost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from megatron_sppo.models.logprobs import MainGrad, _ChunkedLogprobs

NUM_TOKENS, HIDDEN, VOCAB = 2048, 1536, 151_665


@pytest.fixture(autouse=True)
def world_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_values_gradients_and_memory() -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    hidden, weight = (
        torch.randn(n, HIDDEN, generator=generator, device="cuda", dtype=torch.bfloat16).mul_(scale).requires_grad_()
        for n, scale in ((NUM_TOKENS, 1.0), (VOCAB, 0.05))
    )
    labels = torch.randint(VOCAB, (NUM_TOKENS,), generator=generator, device="cuda")
    main_grad = torch.zeros(VOCAB, HIDDEN, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    logprobs, entropy = _ChunkedLogprobs.apply(hidden, weight, labels, 0.6, 1024, 0, dist.group.WORLD, MainGrad(main_grad, False))
    upstream = torch.linspace(-1, 1, NUM_TOKENS, device="cuda")
    (logprobs @ upstream + entropy @ upstream.flip(0)).backward()
    extra = torch.cuda.max_memory_allocated() - before
    assert extra < 1.2 * 1024 * VOCAB * 2 + 3 * hidden.nbytes, "a chunk of logits and little more"

    logits = (hidden.detach() @ weight.detach().t()).float().div_(0.6).requires_grad_()
    everything = torch.log_softmax(logits, -1)
    want = everything.gather(-1, labels[:, None])[:, 0], -(everything.exp() * everything).sum(-1)
    for mine, exact in zip((logprobs, entropy), want, strict=True):
        torch.testing.assert_close(mine, exact, atol=2e-4, rtol=1e-5)
    (want[0] @ upstream + want[1] @ upstream.flip(0)).backward()
    assert logits.grad is not None and hidden.grad is not None
    d_logits = logits.grad.div_(0.6).to(torch.bfloat16)
    for mine, exact in ((hidden.grad.float(), d_logits @ weight.detach()), (main_grad, d_logits.t() @ hidden.detach())):
        assert float((mine - exact.float()).norm() / exact.float().norm()) < 5e-3
