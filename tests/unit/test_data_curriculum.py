"""Prompts by difficulty: weights, exact inclusion probabilities, and draws that follow them."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_sppo.batch import Prompts
from megatron_sppo.config.schema import CurriculumConfig
from megatron_sppo.data.curriculum import ONE, draw, everything, in_units, inclusion_probabilities, systematic_sample, weights
from megatron_sppo.ragged import Ragged


def pool(size: int) -> Prompts:
    names = tuple(f"p:{index}" for index in range(size))
    return Prompts(names, names, names, names, Ragged.from_rows([[index] for index in range(size)], torch.int64))


def test_weights_by_variance() -> None:
    found = weights(torch.tensor([0.5, 0.9, 1.0]), CurriculumConfig(by="variance", uniform=0.0))
    assert found.tolist() == pytest.approx([0.25 / 0.34, 0.09 / 0.34, 0.0], abs=1e-6)
    mixed = weights(torch.tensor([0.5, 0.9, 1.0]), CurriculumConfig(by="variance", uniform=0.3))
    assert mixed.tolist() == pytest.approx([0.7 * w + 0.1 for w in found.tolist()])


def test_weights_in_a_band_and_with_nothing_in_it() -> None:
    config = CurriculumConfig(by="band", low=0.2, high=0.8, uniform=0.0)
    assert weights(torch.tensor([0.1, 0.3, 0.79, 0.9]), config).tolist() == [0.0, 0.5, 0.5, 0.0]
    assert weights(torch.tensor([0.1, 0.95]), config).tolist() == [0.5, 0.5]


def test_an_undecided_critic_draws_evenly() -> None:
    probabilities = inclusion_probabilities(weights(torch.full((8,), 0.5), CurriculumConfig(by="variance")), 2)
    assert probabilities.tolist() == pytest.approx([0.25] * 8)


positive = st.floats(0, 1, allow_nan=False, allow_subnormal=False)


@given(st.lists(positive, min_size=1, max_size=40), st.data())
def test_inclusion_probabilities_sum_to_the_count_and_keep_the_proportions(raw: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(raw)))
    found = inclusion_probabilities(torch.tensor(raw, dtype=torch.float64), count)
    assert float(found.sum()) == pytest.approx(count, abs=1e-6)
    assert bool(((found >= 0) & (found <= 1)).all())
    by_weight = sorted(zip(raw, found.tolist(), strict=True))
    assert all(low[1] <= high[1] + 1e-9 for low, high in pairwise(by_weight))
    open_ones = [(w, p) for w, p in by_weight if w > 1e-6 and p < 1]
    ratios = [p / w for w, p in open_ones]
    assert not ratios or max(ratios) == pytest.approx(min(ratios), rel=1e-6)


@given(st.lists(positive, min_size=1, max_size=40), st.integers(0, 10_000), st.data())
def test_a_draw_has_the_count_without_repeats_and_takes_what_is_certain(raw: list[float], step: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(raw)))
    probabilities = inclusion_probabilities(torch.tensor(raw, dtype=torch.float64), count)
    drawn = systematic_sample(probabilities, count, seed=1, step=step)
    assert len(set(drawn)) == len(drawn) == count and drawn == sorted(drawn)
    assert set(np.flatnonzero(probabilities.numpy() == 1.0)) <= set(drawn)
    units = in_units(probabilities.numpy(), count)
    assert int(units.sum()) == count * ONE and bool(((units >= 0) & (units <= ONE)).all())


def test_each_prompt_is_drawn_as_often_as_its_probability_says() -> None:
    values = torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.02])
    probabilities = inclusion_probabilities(weights(values, CurriculumConfig(by="variance")), 3)
    trials = 20_000
    counts = torch.zeros(8, dtype=torch.float64)
    for step in range(trials):
        counts[systematic_sample(probabilities, 3, seed=5, step=step)] += 1
    for share, probability in zip((counts / trials).tolist(), probabilities.tolist(), strict=True):
        assert abs(share - probability) < 4.5 * math.sqrt(probability * (1 - probability) / trials)
    assert probabilities[0] / probabilities[4] == pytest.approx((0.9 * 0.25 + 0.0) / (0.9 * 0.09), rel=0.25)


def test_a_draw_is_a_function_of_seed_and_step_and_says_what_it_did() -> None:
    values = torch.linspace(0.01, 0.99, 32)
    config = CurriculumConfig(by="band", low=0.4, high=0.6, uniform=0.1)
    one, same, other = (draw(pool(32), values, 8, config, seed=3, step=step) for step in (7, 7, 8))
    assert one.prompts.ids == same.prompts.ids != other.prompts.ids
    assert one.metrics["curriculum/pool"] == 32 and one.metrics["curriculum/passed_over"] == 24
    in_band = [0.4 <= float(values[int(name[2:])]) <= 0.6 for name in one.prompts.ids]
    assert sum(in_band) >= 5  # six have probability 1 x their weight's share, two places are left to all
    assert one.probability_P.shape == (8,) and bool((one.probability_P > 0).all())


def test_without_a_curriculum_everything_is_certain() -> None:
    drawn = everything(pool(3))
    assert drawn.prompts.ids == ("p:0", "p:1", "p:2") and drawn.probability_P.tolist() == [1.0] * 3 and not drawn.metrics
