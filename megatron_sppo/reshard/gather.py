"""Weights from Megatron to vLLM by gathering: every rank sees every full tensor once and vLLM's own loader takes its slice.

The simplest correct way, and the oracle for faster ones: bytes moved are those of the whole model per rank.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from megatron_sppo.models.engine import MegatronEngine
from megatron_sppo.parallel import platform
from megatron_sppo.reshard.catalogue import hf_shapes
from megatron_sppo.reshard.traffic import format_bytes, gather_bytes
from megatron_sppo.rollout.engine import RolloutEngine
from megatron_sppo.weights.export_hf import iter_hf_tensors


@dataclass(frozen=True)
class GatherSync:
    policy: MegatronEngine
    engine: RolloutEngine
    dtype: torch.dtype  # of vLLM's weights
    verify_every: int  # prove by checksums each Nth step; 0 = at start alone

    def push(self, step: int) -> dict[str, float]:
        """See :class:`~megatron_sppo.reshard.weight_sync.WeightSync`."""
        started = time.perf_counter()
        self.engine.load_weights(iter_hf_tensors(self.policy.model, self.policy.hf, self.policy.groups, self.dtype))
        if step == 0 or (self.verify_every and step % self.verify_every == 0):
            self.engine.verify_weights(iter_hf_tensors(self.policy.model, self.policy.hf, self.policy.groups, self.dtype))
        platform.synchronize()
        return {"perf/reshard/push_seconds": time.perf_counter() - started}

    def describe(self) -> str:
        layout, shapes = self.policy.groups.layout, hf_shapes(self.policy.hf)
        moved = gather_bytes(shapes, layout.tp, layout.pp, self.dtype.itemsize)
        return f"weight sync by gathering: every rank receives {format_bytes(moved)} per push"
