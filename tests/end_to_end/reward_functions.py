"""A custom reward by import path, as a user would write one: a random policy earns it about half of the time."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_sppo.rewards.protocol import Sample


def even_sum(samples: Sequence[Sample]) -> list[float]:
    """1 where the response's characters sum to an even number."""
    return [float(sum(map(ord, sample.response)) % 2 == 0) for sample in samples]
