"""Weights from Megatron to vLLM by gathering: every rank sees every full tensor once and vLLM's own loader takes its slice.

The simplest correct way, and the oracle for faster ones: bytes moved are those of the whole model per rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from megatron_sppo.models.engine import MegatronEngine
from megatron_sppo.rollout.engine import RolloutEngine
from megatron_sppo.weights.export_hf import iter_hf_tensors


@dataclass(frozen=True)
class GatherSync:
    policy: MegatronEngine
    engine: RolloutEngine
    dtype: torch.dtype  # of vLLM's weights
    verify_every: int  # prove by checksums each Nth step; 0 = at start alone

    def push(self, step: int) -> None:
        """Replace vLLM's weights by the policy's. Collective. Raises WeightMismatch where the proof fails."""
        self.engine.load_weights(iter_hf_tensors(self.policy.model, self.policy.hf, self.policy.groups, self.dtype))
        if step == 0 or (self.verify_every and step % self.verify_every == 0):
            self.engine.verify_weights(iter_hf_tensors(self.policy.model, self.policy.hf, self.policy.groups, self.dtype))
