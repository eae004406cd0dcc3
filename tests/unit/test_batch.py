"""Values of a step that are joined and taken apart again."""

from __future__ import annotations

from itertools import accumulate

import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_sppo.batch import Prompts, Rollouts, join_prompts
from megatron_sppo.ragged import Ragged


def prompts(name: str, count: int) -> Prompts:
    words = tuple(f"{name}{index}" for index in range(count))
    rows = [[len(name) + index] * (index + 1) for index in range(count)]
    return Prompts(words, words, words, (name,) * count, Ragged.from_rows(rows, torch.int64), ((("user", name),),) * count)


def responses(asked: Prompts, per_prompt: int) -> Rollouts:
    """Each says which prompt and which sample it is."""
    named = [(name, sample) for name in asked.ids for sample in range(per_prompt)]
    rows = [[sample] * (1 + sample) for _, sample in named]
    return Rollouts(
        prompts=asked,
        prompt_index_B=torch.arange(len(asked)).repeat_interleave(per_prompt),
        response_tokens=Ragged.from_rows(rows, torch.int64),
        engine_logprobs=Ragged.from_rows(rows, torch.float32),
        truncated_B=torch.tensor([sample % 2 == 0 for _, sample in named]),
        texts=tuple(f"{name}, sample {sample}" for name, sample in named),
    )


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 3))
def test_responses_to_joined_prompts_come_apart(counts: list[int], per_prompt: int) -> None:
    parts = [prompts("abcd"[: place + 1], count) for place, count in enumerate(counts)]
    together = responses(join_prompts(parts), per_prompt)
    for first, part in zip(accumulate([0, *counts]), parts, strict=False):
        found, expected = together.to_prompts(first, part), responses(part, per_prompt)
        assert found.prompts is part and found.texts == expected.texts
        assert found.prompt_index_B.equal(expected.prompt_index_B) and found.truncated_B.equal(expected.truncated_B)
        assert found.response_tokens.values.equal(expected.response_tokens.values)
        assert found.prompt_tokens.values.equal(expected.prompt_tokens.values)
