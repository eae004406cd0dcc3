"""Algorithms by name."""

from __future__ import annotations

from megatron_sppo.algorithms.base import Algorithm
from megatron_sppo.algorithms.sppo import SPPO
from megatron_sppo.config.schema import Config

_ALGORITHMS = {"sppo": SPPO}


def build_algorithm(config: Config) -> Algorithm:
    return _ALGORITHMS[config.algorithm.name](config.algorithm, config.rollout, config.seed)
