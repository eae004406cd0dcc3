from __future__ import annotations

import random

from megatron_sppo.rollout.dispatch import deal_prompts, response_seed


def test_every_prompt_is_dealt_once_and_counts_differ_by_at_most_one() -> None:
    rng = random.Random(0)
    for num_prompts in range(40):
        lengths = [rng.randint(1, 500) for _ in range(num_prompts)]
        for num_engines in (1, 2, 3, 8):
            hands = deal_prompts(lengths, num_engines)
            assert len(hands) == num_engines
            assert sorted(index for hand in hands for index in hand) == list(range(num_prompts))
            sizes = [len(hand) for hand in hands]
            assert max(sizes) - min(sizes) <= 1
            assert all(list(hand) == sorted(hand) for hand in hands)


def test_docstring_example() -> None:
    assert deal_prompts((9, 1, 5, 7), 2) == ((0, 1), (2, 3))


def test_prompt_tokens_are_balanced() -> None:
    rng = random.Random(1)
    lengths = [rng.randint(10, 1000) for _ in range(256)]
    loads = [sum(lengths[i] for i in hand) for hand in deal_prompts(lengths, 8)]
    assert max(loads) < 1.02 * sum(lengths) / 8


def test_seeds_are_stable_distinct_and_fit_63_bits() -> None:
    assert response_seed(7, "train:3", 1) == 0x36AFF5C71398A0FF  # a resumed run must sample what the first one would have
    seeds = {response_seed(seed, f"f:{row}", sample) for seed in (1, 11) for row in (1, 11, 111) for sample in range(12)}
    assert len(seeds) == 2 * 3 * 12
    assert all(0 <= seed < 2**63 for seed in seeds)
