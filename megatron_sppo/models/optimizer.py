"""Megatron's data-parallel wrapper, AdamW and learning-rate schedule from an :class:`OptimizerConfig`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import MegatronOptimizer, get_megatron_optimizer
from megatron.core.optimizer import OptimizerConfig as MCoreOptimizerConfig
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from torch import Tensor

from megatron_sppo.config.schema import OptimizerConfig
from megatron_sppo.parallel import torch_adam
from megatron_sppo.parallel.groups import ModelGroups

BUCKET_PARAMETERS: int | None = None  # that are summed at once with ``overlap``; None: Megatron's choice, 40 million or more


def wrap_ddp(model: GPTModel, config: OptimizerConfig, groups: ModelGroups) -> DistributedDataParallel:
    """Gradients in contiguous fp32 buffers, summed over data-parallel ranks at the end of each step, or with ``config.overlap``
    bucket by bucket in the course of its last backward pass. Then weights are gathered as the next forward pass comes to them.
    """
    ddp = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=config.distributed,
        overlap_grad_reduce=config.overlap,
        bucket_size=BUCKET_PARAMETERS,
        overlap_param_gather=config.overlap and config.distributed,
        fp8_param_gather=model.config.fp8_param,
        check_for_nan_in_grad=True,  # a NaN ends the run with the rank's name instead of training on
    )
    return DistributedDataParallel(model.config, ddp, model, pg_collection=groups.pg)


def build_optimizer(
    ddp: DistributedDataParallel, config: OptimizerConfig, groups: ModelGroups, dtype: torch.dtype
) -> MegatronOptimizer:
    """AdamW; 1-D parameters (biases, norms) are exempt from decay."""
    torch_adam.install()
    mcore = MCoreOptimizerConfig(
        optimizer="adam",
        lr=config.lr,
        min_lr=config.min_lr,
        weight_decay=config.weight_decay,
        adam_beta1=config.beta1,
        adam_beta2=config.beta2,
        adam_eps=config.eps,
        clip_grad=config.clip_grad,
        bf16=dtype == torch.bfloat16,
        params_dtype=dtype,
        use_distributed_optimizer=config.distributed,
        overlap_param_gather=ddp.ddp_config.overlap_param_gather,
    )
    return get_megatron_optimizer(mcore, [ddp], use_gloo_process_groups=False, pg_collection=groups.pg)


def optimizer_parts(optimizer: MegatronOptimizer) -> list[MegatronOptimizer]:
    """The optimizers that it is made of: itself, where it is not a chain of several."""
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))


def optimizer_tensors(optimizer: MegatronOptimizer) -> Iterator[Tensor]:
    """What it keeps between steps: the parameters that it steps (fp32 copies of bf16 ones) and its states."""
    for part in optimizer_parts(optimizer):
        if part.optimizer is None:  # a rank without a parameter of this kind
            continue
        for group in part.optimizer.param_groups:
            yield from group["params"]
        for state in part.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def build_scheduler(optimizer: MegatronOptimizer, config: OptimizerConfig, total_steps: int) -> OptimizerParamScheduler:
    """Warm-up, then the configured decay over ``total_steps`` optimizer steps."""
    total = max(total_steps, config.warmup_steps + 1)
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=config.lr,
        min_lr=config.min_lr,
        lr_warmup_steps=config.warmup_steps,
        lr_decay_steps=total,
        lr_decay_style=config.schedule,
        start_wd=config.weight_decay,
        end_wd=config.weight_decay,
        wd_incr_steps=total,
        wd_incr_style="constant",
        # The config is the schedule's home; a checkpoint restores only how far it got.
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
    )
