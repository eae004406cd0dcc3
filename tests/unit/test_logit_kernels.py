"""The kernels against plain PyTorch, on the CPU in Triton's interpreter (or on a GPU where there is one)."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist

pytest.importorskip("triton", reason="Triton comes with PyTorch for GPUs and with Megatron-core 0.18 and later")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET=1 before anything imports Triton, or a GPU", allow_module_level=True)

from megatron_sppo.models import logit_kernels, logit_math, logprobs  # noqa: E402

ULP = {torch.float32: 2e-6, torch.bfloat16: 8e-3}
SHAPES = [(5, 1), (3, 151), (2, 8192), (2, 20_001), (4, 8193), (1, 4096)]  # below, at and over the kernels' blocks


def problem(num_tokens: int, num_rows: int, dtype: torch.dtype, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels of which the first is another rank's."""
    generator = torch.Generator().manual_seed(num_rows)
    logits = (torch.randn(num_tokens, num_rows, generator=generator) * scale).to(dtype)
    labels = torch.randint(num_rows, (num_tokens,), generator=generator)
    labels[0] = -1
    return logits.to(DEVICE), labels.to(DEVICE)


@pytest.mark.parametrize("dtype", ULP)
@pytest.mark.parametrize("scale", [1.0, 40.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_statistics(shape: tuple[int, int], scale: float, dtype: torch.dtype) -> None:
    logits, labels = problem(*shape, dtype, scale)
    found, want = (each.statistics(logits.clone(), labels, 0.6) for each in (logit_kernels, logit_math))
    assert found.dtype == want.dtype == torch.float32
    top, total, weighted, picked = found
    torch.testing.assert_close(top, want[0], rtol=3e-7, atol=0)
    torch.testing.assert_close(picked[1:], want[3][1:], rtol=3e-7, atol=0)
    torch.testing.assert_close(total, want[1], rtol=5e-5, atol=0)
    torch.testing.assert_close(weighted, want[2], rtol=5e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ULP)
@pytest.mark.parametrize("use", ["logprobs", "entropy", "both"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient(shape: tuple[int, int], use: str, dtype: torch.dtype) -> None:
    logits, labels = problem(*shape, dtype, 3.0)
    top, total, weighted, _ = logit_math.statistics(logits, labels, 0.6)
    log_z, entropy = top + total.log(), total.log() - weighted / total
    upstream = torch.linspace(-1, 2, len(logits), device=DEVICE)
    of_logprobs, of_entropy = (None if use == other else upstream * sign for other, sign in (("entropy", 1), ("logprobs", -0.3)))
    want = logit_math.gradient(logits.clone(), labels, log_z, entropy, of_logprobs, of_entropy, 0.6)
    found = logit_kernels.gradient(logits, labels, log_z, entropy, of_logprobs, of_entropy, 0.6)
    assert found is logits and want.dtype == found.dtype == dtype
    torch.testing.assert_close(found.float(), want.float(), rtol=ULP[dtype], atol=2e-6)


def test_no_token_and_no_row() -> None:
    none, labels = torch.empty(0, 7, device=DEVICE), torch.empty(0, dtype=torch.int64, device=DEVICE)
    assert logit_kernels.statistics(none, labels, 1.0).shape == (4, 0)
    rows = torch.empty(2, 0, device=DEVICE)
    elsewhere, zeros = torch.full((2,), -1, device=DEVICE), torch.zeros(2, device=DEVICE)
    found, want = (each.statistics(rows, elsewhere, 1.0) for each in (logit_kernels, logit_math))
    assert torch.equal(found, want)
    assert logit_kernels.gradient(rows, elsewhere, zeros, zeros, zeros, None, 1.0).shape == (2, 0)


def test_a_logit_that_is_no_number_is_not_lost() -> None:
    logits, labels = problem(2, 300, torch.bfloat16, 1.0)
    logits[1, 200] = torch.nan
    assert logit_kernels.statistics(logits, labels, 1.0)[1].isnan().tolist() == [False, True]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_and_gradients_by_the_kernels(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of it, in chunks, against log_softmax and autograd in float64."""
    monkeypatch.setattr(logprobs, "_passes", lambda logits: logit_kernels)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 16, generator=generator).to(DEVICE).requires_grad_() for n in (23, 9001))
    labels = torch.randint(9001, (23,), generator=generator).to(DEVICE)
    exact_hidden, exact_weight = (each.detach().double().requires_grad_() for each in (hidden, weight))
    found = logprobs._ChunkedLogprobs.apply(hidden, weight, labels, temperature, 7, 0, dist.group.WORLD, None)
    everything = torch.log_softmax(exact_hidden @ exact_weight.t() / temperature, -1)
    want = everything.gather(-1, labels[:, None])[:, 0], -(everything.exp() * everything).sum(-1)
    dist.destroy_process_group()
    upstream = torch.linspace(-1, 2, 23, device=DEVICE)
    for mine, exact in zip(found, want, strict=True):
        torch.testing.assert_close(mine.double(), exact, atol=2e-5, rtol=1e-6)
    (found[0] @ upstream + found[1] @ upstream.flip(0)).backward()
    (want[0] @ upstream.double() + want[1] @ upstream.double().flip(0)).backward()
    for mine, exact in ((hidden, exact_hidden), (weight, exact_weight)):
        torch.testing.assert_close(mine.grad.double(), exact.grad, atol=5e-5, rtol=1e-5)
