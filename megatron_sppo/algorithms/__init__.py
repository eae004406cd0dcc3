"""Algorithms by name."""

from __future__ import annotations

from megatron_sppo.algorithms.base import Algorithm
from megatron_sppo.algorithms.grpo import GRPO
from megatron_sppo.algorithms.ppo import PPO, PPOWithBCE
from megatron_sppo.algorithms.remax import ReMax
from megatron_sppo.algorithms.rloo import RLOO
from megatron_sppo.algorithms.sppo import SPPO
from megatron_sppo.config.schema import Config

_ALGORITHMS = {"sppo": SPPO, "ppo": PPO, "ppo_bce": PPOWithBCE, "grpo": GRPO, "rloo": RLOO, "remax": ReMax}


def build_algorithm(config: Config) -> Algorithm:
    return _ALGORITHMS[config.algorithm.name](config.algorithm, config.rollout, config.seed)
