"""The losses against plain Python loops written from the formulae, and the properties that the engine relies on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_sppo.losses import Aggregation, aggregate, clipped_surrogate, kl_penalty, log_ratio, mismatch_weights, value_bce
from megatron_sppo.ragged import Ragged

AGGREGATIONS: tuple[Aggregation, ...] = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "fixed-length")
LONGEST = 9

finite = st.floats(-3.0, 3.0, allow_subnormal=False)
rows_of_floats = st.lists(st.lists(finite, min_size=1, max_size=LONGEST), min_size=1, max_size=6)


def f64(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def ragged(rows: Sequence[Sequence[float]]) -> Ragged:
    return Ragged.from_rows(rows, torch.float64)


# --- eq. 2 ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(-8, 8), st.floats(0, 1)), min_size=1, max_size=8))
def test_value_bce_is_equation_2(pairs: list[tuple[float, float]]) -> None:
    want = []
    for logit, reward in pairs:
        value = 1 / (1 + math.exp(-logit))
        want.append(-(reward * math.log(value) + (1 - reward) * math.log(1 - value)))
    logits, rewards = zip(*pairs, strict=True)
    torch.testing.assert_close(value_bce(f64(logits), f64(rewards)), f64(want), atol=1e-9, rtol=1e-9)


def test_value_bce_stays_finite_where_the_sigmoid_saturates() -> None:
    logits = torch.tensor([200.0, -200.0], requires_grad=True)
    loss = value_bce(logits, torch.tensor([0.0, 1.0]))
    loss.sum().backward()
    assert loss.tolist() == [200.0, 200.0]
    assert logits.grad is not None and logits.grad.tolist() == [1.0, -1.0]


# --- eq. 3 ------------------------------------------------------------------------------------------------------------


def surrogate_loop(log_r: float, advantage: float, low: float, high: float, dual: float) -> float:
    ratio = math.exp(log_r)
    objective = min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
    if dual and advantage < 0:
        objective = max(objective, dual * advantage)
    return -objective


@pytest.mark.parametrize("dual", [0.0, 1.5, 3.0])
@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=8), st.floats(0.05, 0.9), st.floats(0.05, 2.0))
def test_clipped_surrogate_is_equation_3(dual: float, tokens: list[tuple[float, float]], low: float, high: float) -> None:
    log_r, advantages = zip(*tokens, strict=True)
    terms = clipped_surrogate(f64(log_r), f64(advantages), low, high, dual)
    want = [surrogate_loop(x, a, low, high, dual) for x, a in tokens]
    torch.testing.assert_close(terms.loss_N, f64(want), atol=1e-12, rtol=1e-12)
    assert terms.clipped_low_N.tolist() == [math.exp(x) < 1 - low and a < 0 for x, a in tokens]
    assert terms.clipped_high_N.tolist() == [math.exp(x) > 1 + high and a > 0 for x, a in tokens]


# ratio, advantage, gradient of the loss with respect to log pi: zero exactly where a clip decides
GRADIENTS = [(1.0, 1.0, -1.0), (1.3, 1.0, 0.0), (1.3, -1.0, 1.3), (0.7, -1.0, 0.0), (0.7, 1.0, -0.7), (3.5, -1.0, 0.0)]


@pytest.mark.parametrize(("ratio", "advantage", "gradient"), GRADIENTS)
def test_clipped_tokens_have_no_gradient(ratio: float, advantage: float, gradient: float) -> None:
    log_r = f64([math.log(ratio)]).requires_grad_()
    clipped_surrogate(log_r, f64([advantage]), 0.2, 0.2, dual_clip=3.0).loss_N.sum().backward()
    assert log_r.grad is not None
    torch.testing.assert_close(log_r.grad, f64([gradient]))


def test_first_step_is_the_policy_gradient() -> None:
    """At ratio 1 the clipped loss has the gradient of -A log pi, token by token."""
    logprobs, advantages = f64([-1.0, -2.0, -0.5]).requires_grad_(), f64([0.7, -0.3, 0.1])
    difference = log_ratio(logprobs, logprobs.detach(), torch.tensor([3]), "token")
    clipped_surrogate(difference, advantages, 0.2, 0.2).loss_N.sum().backward()
    assert logprobs.grad is not None and torch.equal(logprobs.grad, -advantages)


# --- ratios -----------------------------------------------------------------------------------------------------------


@given(rows_of_floats)
def test_sequence_ratio_is_the_geometric_mean_of_the_token_ratios(rows: list[list[float]]) -> None:
    now = ragged(rows)
    old = torch.linspace(-1, 1, now.values.numel(), dtype=torch.float64)
    token = log_ratio(now.values, old, now.lengths, "token")
    assert torch.equal(token, now.values - old)
    want = [math.fsum(row.tolist()) / len(row) for row in now.with_values(token).rows() for _ in row]
    sequence = log_ratio(now.values, old, now.lengths, "sequence")
    torch.testing.assert_close(sequence, f64(want), atol=1e-12, rtol=1e-12)


def test_sequence_ratio_spreads_its_gradient_over_the_response() -> None:
    """GSPO: d/d log pi(y_t) of sum over the response of s_i A = s_i A at every token, for a response of any length."""
    logprobs = f64([0.1, 0.2, 0.3, -0.1]).requires_grad_()
    lengths = torch.tensor([3, 1])
    log_ratio(logprobs, torch.zeros(4, dtype=torch.float64), lengths, "sequence").exp().sum().backward()
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, f64([math.exp(0.2)] * 3 + [math.exp(-0.1)]))


# --- KL ---------------------------------------------------------------------------------------------------------------


def test_kl_estimators_against_their_formulae() -> None:
    policy, reference = f64([-0.5, -2.0, -1.0]), f64([-1.0, -1.5, -1.0])
    for estimator, formula in {
        "k1": lambda r: -math.log(r),
        "k2": lambda r: math.log(r) ** 2 / 2,
        "k3": lambda r: r - 1 - math.log(r),
    }.items():
        want = [formula(math.exp(q - p)) for p, q in zip(policy.tolist(), reference.tolist(), strict=True)]
        got = kl_penalty(policy, reference, estimator)  # type: ignore[arg-type]
        torch.testing.assert_close(got, f64(want))


@given(st.lists(st.floats(-2, 2), min_size=3, max_size=3), st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_k1_and_k3_are_unbiased(policy_logits: list[float], reference_logits: list[float]) -> None:
    """Their expectation under the policy is the KL divergence, here summed over a whole vocabulary of 3."""
    policy, reference = f64(policy_logits).log_softmax(0), f64(reference_logits).log_softmax(0)
    exact = (policy.exp() * (policy - reference)).sum()
    for estimator in ("k1", "k3"):
        expectation = (policy.exp() * kl_penalty(policy, reference, estimator)).sum()  # type: ignore[arg-type]
        torch.testing.assert_close(expectation, exact, atol=1e-12, rtol=1e-9)


# --- mismatch ---------------------------------------------------------------------------------------------------------


def mismatch_loop(trainer: float, engine: float, truncate: float, mask_above: float) -> float:
    ratio = math.exp(trainer - engine)
    if mask_above and (ratio > mask_above or 1 / ratio > mask_above):
        return 0.0
    return min(truncate, ratio) if truncate else 1.0


@pytest.mark.parametrize(("truncate", "mask_above"), [(0.0, 0.0), (2.0, 0.0), (0.5, 0.0), (0.0, 1.7), (2.0, 5.0)])
@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=8))
def test_mismatch_weights(truncate: float, mask_above: float, tokens: list[tuple[float, float]]) -> None:
    trainer, engine = zip(*tokens, strict=True)
    weights = mismatch_weights(f64(trainer).requires_grad_(), f64(engine), truncate, mask_above)
    assert not weights.requires_grad
    torch.testing.assert_close(weights, f64([mismatch_loop(t, e, truncate, mask_above) for t, e in tokens]))


# --- aggregation ------------------------------------------------------------------------------------------------------

FORMULAE: dict[Aggregation, Callable[[list[list[float]]], float]] = {
    "token-mean": lambda rows: sum(map(sum, rows)) / sum(map(len, rows)),
    "seq-mean-token-mean": lambda rows: sum(sum(row) / len(row) for row in rows) / len(rows),
    "seq-mean-token-sum": lambda rows: sum(map(sum, rows)) / len(rows),
    "fixed-length": lambda rows: sum(map(sum, rows)) / (len(rows) * LONGEST),
}


@pytest.mark.parametrize("mode", AGGREGATIONS)
@given(rows_of_floats)
def test_aggregation_modes(mode: Aggregation, rows: list[list[float]]) -> None:
    loss = ragged(rows)
    total, weight = aggregate(loss.values, loss.lengths, mode, LONGEST)
    assert float(total) / weight == pytest.approx(FORMULAE[mode](rows), abs=1e-12)


@pytest.mark.parametrize("mode", AGGREGATIONS)
@settings(max_examples=50)
@given(rows_of_floats, st.data())
def test_sum_over_weight_does_not_depend_on_micro_batches(
    mode: Aggregation, rows: list[list[float]], data: st.DataObject
) -> None:
    whole = ragged(rows)
    total, weight = aggregate(whole.values, whole.lengths, mode, LONGEST)
    which = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    parts = [whole.select([i for i, w in enumerate(which) if w == micro]) for micro in sorted(set(which))]
    pieces = [aggregate(part.values, part.lengths, mode, LONGEST) for part in parts]
    assert sum(piece_weight for _, piece_weight in pieces) == weight
    assert sum(float(piece) for piece, _ in pieces) == pytest.approx(float(total), abs=1e-9)
