"""The weight sync of a job in two parts: the ranks that train and those that roll out push together."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from megatron_sppo.config.schema import RolloutConfig
from megatron_sppo.models.engine import MegatronEngine
from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.parallel.job import Job
from megatron_sppo.reshard.gather import GatherSync
from megatron_sppo.reshard.sync import ReshardSync
from megatron_sppo.reshard.weight_sync import WeightSync, build_reshard
from megatron_sppo.rollout.remote_engine import RemoteEngine
from megatron_sppo.rollout.serve import Push
from megatron_sppo.rollout.vllm_engine import VLLMEngine


@dataclass(frozen=True)
class RemoteSync:
    """Implements :class:`~megatron_sppo.reshard.weight_sync.WeightSync` on ranks that train."""

    engine: RemoteEngine
    sync: ReshardSync

    def push(self, step: int) -> dict[str, float]:
        """See the protocol. Collective over the job: the engine's ranks are told to join."""
        self.engine.begin_push(step)
        return self.sync.push(step)

    def describe(self) -> str:
        """See the protocol."""
        return self.sync.describe()


def sync_for_training(
    job: Job, config: RolloutConfig, policy: MegatronEngine, engine: RemoteEngine, wire: torch.dtype
) -> WeightSync:
    """Of ranks that train; ``wire`` is the dtype of vLLM's weights. Collective over the job, with :func:`push_for_rollout`."""
    if config.weight_sync == "gather":
        return GatherSync(policy, engine, wire, config.verify_weights_every)
    return RemoteSync(engine, build_reshard(job, config, policy.hf, policy, None, wire))


def push_for_rollout(job: Job, config: RolloutConfig, hf: HFModelConfig, engine: VLLMEngine, wire: torch.dtype) -> Push:
    """Of ranks that roll out."""
    if config.weight_sync == "gather":
        return lambda step: None  # never asked for: gathered weights arrive by orders of their own
    return build_reshard(job, config, hf, None, engine, wire).push
