from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_sppo import advantages
from megatron_sppo.advantages import kl_in_reward, over_tokens, sequence_level
from megatron_sppo.losses import value_bce, value_mse
from megatron_sppo.ragged import Ragged

ROWS = st.lists(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=7), min_size=1, max_size=5)
UNIT = st.floats(0, 1)


def test_sequence_level_advantage_is_equation_1() -> None:
    rewards, values = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.25, 0.75, 1.0])
    assert sequence_level(rewards, values).tolist() == [0.75, -0.75, 0.0]


def test_every_token_gets_its_responses_advantage() -> None:
    responses = Ragged.from_rows([[4, 5, 6], [7], [8, 9]], torch.int64)
    spread = over_tokens(torch.tensor([0.5, -1.0, 0.25]), responses)
    assert [row.tolist() for row in spread.rows()] == [[0.5, 0.5, 0.5], [-1.0], [0.25, 0.25]]


def test_kl_in_the_reward_is_summed_over_each_response() -> None:
    logprobs = Ragged.from_rows([[-1.0, -2.0], [-0.5]], torch.float32)
    reference = Ragged.from_rows([[-1.5, -2.0], [-0.25]], torch.float32)
    rewards = torch.tensor([1.0, 0.0])
    assert kl_in_reward(rewards, logprobs, reference, 0.5, "k1").tolist() == [1.0 - 0.5 * 0.5, 0.0 - 0.5 * -0.25]
    k2 = kl_in_reward(rewards, logprobs, reference, 2.0, "k2").tolist()
    assert k2 == [1.0 - 2.0 * 0.5**2 / 2, 0.0 - 2.0 * 0.25**2 / 2]
    assert rewards.tolist() == [1.0, 0.0], "the input keeps its values"


def test_token_rewards_put_the_outcome_at_the_end_and_the_kl_everywhere() -> None:
    kl = Ragged.from_rows([[0.5, 0.25], [1.0]], torch.float32)
    found = advantages.token_rewards(torch.tensor([1.0, 0.5]), kl, 0.1)
    assert [row.tolist() for row in found.rows()] == [pytest.approx([-0.05, 0.975]), pytest.approx([0.4])]
    assert kl.values.tolist() == [0.5, 0.25, 1.0], "the input keeps its values"


def naive_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """A_t = sum over l of (gamma lam)^l delta_t+l, each delta from its formula."""
    after = [*values[1:], 0.0]
    deltas = [r + gamma * v_next - v for r, v, v_next in zip(rewards, values, after, strict=True)]
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, len(deltas))) for t in range(len(deltas))]


def rewards_and_values(rows: list[list[tuple[float, float]]]) -> tuple[Ragged, Ragged]:
    rewards = Ragged.from_rows([[r for r, _ in row] for row in rows], torch.float32)
    return rewards, rewards.with_values(torch.tensor([v for row in rows for _, v in row]))


@given(ROWS, UNIT, UNIT)
def test_gae_equals_the_sum_of_its_formula(rows: list[list[tuple[float, float]]], gamma: float, lam: float) -> None:
    found, returns = advantages.gae(*rewards_and_values(rows), gamma, lam)
    for row, advantage, target in zip(rows, found.rows(), returns.rows(), strict=True):
        naive = naive_gae([r for r, _ in row], [v for _, v in row], gamma, lam)
        assert advantage.tolist() == pytest.approx(naive, abs=1e-5)
        assert target.tolist() == pytest.approx([a + v for a, (_, v) in zip(naive, row, strict=True)], abs=1e-5)


@given(ROWS)
def test_gae_without_discount_is_return_minus_value(rows: list[list[tuple[float, float]]]) -> None:
    found, returns = advantages.gae(*rewards_and_values(rows), 1.0, 1.0)
    for row, advantage, target in zip(rows, found.rows(), returns.rows(), strict=True):
        to_go = [sum(r for r, _ in row[t:]) for t in range(len(row))]
        assert target.tolist() == pytest.approx(to_go, abs=1e-5)
        assert advantage.tolist() == pytest.approx([g - v for g, (_, v) in zip(to_go, row, strict=True)], abs=1e-5)


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.floats(0, 1, width=32)), min_size=1, max_size=8), UNIT, UNIT)
def test_ppo_is_sppo_where_a_response_is_one_token(outcomes: list[tuple[float, float]], gamma: float, lam: float) -> None:
    rewards_B, values_B = (torch.tensor(column) for column in zip(*outcomes, strict=True))
    one_token = Ragged(rewards_B, torch.ones(len(outcomes), dtype=torch.int64))
    found, returns = advantages.gae(one_token, one_token.with_values(values_B), gamma, lam)
    assert torch.allclose(found.values, sequence_level(rewards_B, values_B), atol=1e-7)
    logits_B = torch.linspace(-2, 2, len(outcomes))
    assert torch.allclose(value_bce(logits_B, returns.values), value_bce(logits_B, rewards_B), atol=1e-6), "PPO + BCE's critic"


@given(st.lists(st.lists(st.floats(-1, 2), min_size=4, max_size=4), min_size=1, max_size=4), st.booleans())
def test_group_normalisation_equals_a_loop(groups: list[list[float]], by_std: bool) -> None:
    found = advantages.group_normalized(torch.tensor(groups, dtype=torch.float64).flatten(), 4, by_std).view(-1, 4)
    for group, advantage in zip(groups, found.tolist(), strict=True):
        mean = sum(group) / 4
        std = math.sqrt(sum((r - mean) ** 2 for r in group) / 3)
        assert advantage == pytest.approx([(r - mean) / (std + 1e-6 if by_std else 1.0) for r in group], abs=1e-6)


@pytest.mark.parametrize("successes", range(1, 64))
def test_grpo_under_a_bernoulli_reward_is_the_form_of_appendix_a(successes: int) -> None:
    size, solvability = 64, successes / 64
    rewards = (torch.arange(size) < successes).double()
    found = advantages.group_normalized(rewards, size, by_std=True)
    scale = math.sqrt(size / (size - 1))  # eq. 4: the sample deviation is the population's times this
    p = torch.tensor(solvability, dtype=torch.float64)
    assert float(found[0]) * scale == pytest.approx(float(advantages.bernoulli_grpo(p, success=True)), rel=1e-4)
    assert float(found[-1]) * scale == pytest.approx(float(advantages.bernoulli_grpo(p, success=False)), rel=1e-4)


@given(st.lists(st.lists(st.floats(-1, 2), min_size=5, max_size=5), min_size=1, max_size=4))
def test_leave_one_out_equals_a_loop_and_its_identity(groups: list[list[float]]) -> None:
    rewards = torch.tensor(groups, dtype=torch.float64).flatten()
    found = advantages.leave_one_out(rewards, 5)
    naive = [r - sum(group[:i] + group[i + 1 :]) / 4 for group in groups for i, r in enumerate(group)]
    assert found.tolist() == pytest.approx(naive, abs=1e-9)
    centred = advantages.group_normalized(rewards, 5, by_std=False)
    assert torch.allclose(found, centred * 5 / 4), "R - mean of the others = N / (N - 1) (R - mean)"
    assert found.view(-1, 5).sum(1).tolist() == pytest.approx([0.0] * len(groups), abs=1e-9)


def test_groups_of_equal_rewards_teach_nothing() -> None:
    rewards = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    for found in (
        advantages.group_normalized(rewards, 3, by_std=True),
        advantages.group_normalized(rewards, 3, by_std=False),
        advantages.leave_one_out(rewards, 3),
    ):
        assert found.tolist() == [0.0] * 6


def test_whitening_has_mean_0_and_deviation_1_over_tokens() -> None:
    rows = Ragged.from_rows([[1.0, 2.0, 3.0], [10.0]], torch.float32)
    found = advantages.whitened(rows).values
    assert float(found.mean()) == pytest.approx(0, abs=1e-6)
    assert float(found.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert advantages.whitened(rows.with_values(torch.full((4,), 0.5))).values.tolist() == [0.0] * 4


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(-1, 1), st.floats(-2, 2)), min_size=1, max_size=6), st.floats(0.1, 1))
def test_value_mse_equals_a_loop(rows: list[tuple[float, float, float]], clip: float) -> None:
    value, target, old = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    plain = [(v - g) ** 2 / 2 for v, g, _ in rows]
    assert value_mse(value, target, old, 0.0).tolist() == pytest.approx(plain)
    held = [(min(max(v, o - clip), o + clip) - g) ** 2 / 2 for v, g, o in rows]
    assert value_mse(value, target, old, clip).tolist() == pytest.approx([max(pair) for pair in zip(plain, held, strict=True)])
