"""A code reward with small limits, shared by a module's tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from megatron_sppo.config.code_limits import CodeLimits
from megatron_sppo.errors import UserError
from megatron_sppo.rewards.code.reward import CodeReward
from megatron_sppo.rewards.protocol import Sample, Verdict

LIMITS = CodeLimits(test_seconds=1.0, program_seconds=3.0, memory_mib=256, output_mib=1.0, file_mib=4, workers=2)


@pytest.fixture(scope="module")
def reward() -> Iterator[CodeReward]:
    try:
        made = CodeReward(LIMITS)
    except UserError as error:
        pytest.skip(f"no sandbox on this machine: {error}")
    yield made
    made.close()


def sample_of(program: str, tests: dict[str, Any] | str) -> Sample:
    gold = tests if isinstance(tests, str) else json.dumps(tests)
    return Sample("", f"reasoning</think>Here it is:\n```python\n{program}\n```\n", gold, "code", truncated=False)


@pytest.fixture(scope="module")
def grade(reward: CodeReward) -> Callable[[str, dict[str, Any] | str], Verdict]:
    return lambda program, tests: reward([sample_of(program, tests)])[0]


@pytest.fixture
def make_sample() -> Callable[[str, dict[str, Any] | str], Sample]:
    return sample_of
