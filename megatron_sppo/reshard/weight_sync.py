"""What the trainer asks of a weight sync, and the choice between the two that exist."""

from __future__ import annotations

from typing import Protocol

import torch

from megatron_sppo.config.schema import RolloutConfig
from megatron_sppo.models.engine import MegatronEngine
from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.parallel.job import Job
from megatron_sppo.reshard.gather import GatherSync
from megatron_sppo.reshard.sync import ReshardSync
from megatron_sppo.rollout.vllm_engine import VLLMEngine

_MIB = 2**20


class WeightSync(Protocol):
    def push(self, step: int) -> dict[str, float]:
        """Replace vLLM's weights by the policy's; returns what it cost, as metrics. Collective.

        Raises :class:`~megatron_sppo.errors.WeightMismatch` where the proof, due at step 0 and each Nth step, fails.
        """
        ...

    def describe(self) -> str:
        """What a push moves, in a sentence for the log."""
        ...


def build_weight_sync(
    job: Job, config: RolloutConfig, policy: MegatronEngine, engine: VLLMEngine, wire: torch.dtype
) -> WeightSync:
    """``rollout.weight_sync`` for ranks that train and roll out; ``wire`` is the dtype of vLLM's weights. Collective."""
    if config.weight_sync == "gather":
        return GatherSync(policy, engine, wire, config.verify_weights_every)
    return build_reshard(job, config, policy.hf, policy, engine, wire)


def build_reshard(
    job: Job,
    config: RolloutConfig,
    hf: HFModelConfig,
    policy: MegatronEngine | None,
    engine: VLLMEngine | None,
    wire: torch.dtype,
) -> ReshardSync:
    """As the config says, of a rank with a policy, an engine or both. Collective over the job."""
    cap = int(config.reshard_cap_mib * _MIB)
    return ReshardSync(job, hf, policy, engine, wire, cap, config.verify_weights_every, config.alias_weights)
