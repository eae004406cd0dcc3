"""What the knobs of the weight sync must agree on."""

from __future__ import annotations

from typing import Literal

from megatron_sppo.config.schema import Config
from megatron_sppo.errors import UserError


def check_weight_sync(config: Config, device: Literal["cpu", "gpu"]) -> None:
    """UserError in one sentence, before anything is built."""
    rollout = config.rollout
    if rollout.quantization != "none" and device == "cpu":
        raise UserError(
            f"rollout.quantization={rollout.quantization} needs a GPU, vLLM's CPU backend has no kernels for it: "
            "set rollout.quantization=none"
        )
    if rollout.quantization != "none" and config.actor.dtype == "fp32":
        raise UserError(
            f"rollout.quantization={rollout.quantization} computes the rest in bf16 but actor.dtype=fp32: "
            "set actor.dtype=bf16 or rollout.quantization=none"
        )
    if not rollout.alias_weights:
        return
    if rollout.weight_sync != "reshard":
        raise UserError(
            f"rollout.alias_weights=true shares memory by the plan of a reshard, which rollout.weight_sync={rollout.weight_sync} "
            "has not: set rollout.weight_sync=reshard"
        )
    if config.actor.fp8.parameters:
        raise UserError(
            "rollout.alias_weights=true needs weights of one dtype on both sides, and actor.fp8.parameters=true keeps the "
            "trainer's in FP8: set rollout.alias_weights=false"
        )
    if rollout.placement == "separate":
        raise UserError(
            "rollout.alias_weights=true needs vLLM in the training ranks: set rollout.placement=colocated or "
            "rollout.alias_weights=false"
        )
    if rollout.execution == "compiled" or (rollout.execution == "auto" and device == "gpu"):
        raise UserError(
            f"rollout.execution={rollout.execution} captures the addresses of vLLM's own weights, which "
            "rollout.alias_weights=true replaces: set rollout.execution=eager or rollout.alias_weights=false"
        )
