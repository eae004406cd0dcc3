"""Run one Megatron model over packed micro-batches: forward for results, or one optimizer step.

The engine knows pipelines, gradients and optimizers; it does not know what a policy or a critic is. Callers give
micro-batches (anything with a ``packed`` row) and a function of the last stage's output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from megatron.core.distributed import finalize_model_grads
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer.optimizer import MixedPrecisionOptimizer
from megatron.core.pipeline_parallel import schedules
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from torch import Tensor

from megatron_sppo.config.fp8 import row_multiple
from megatron_sppo.config.offload import COPIED, PARTS, Part
from megatron_sppo.config.schema import ModelConfig
from megatron_sppo.losses import LossSum
from megatron_sppo.metrics import Metric, merge
from megatron_sppo.models import fp8
from megatron_sppo.models.flops import forward_flops
from megatron_sppo.models.gpt import Head, build_gpt, without_recomputation
from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.models.logprobs import LMHead
from megatron_sppo.models.offload import Mirror, Residency, Storages, storages_of
from megatron_sppo.models.optimizer import build_optimizer, build_scheduler, optimizer_parts, optimizer_tensors, wrap_ddp
from megatron_sppo.models.packing import PackedSequences, RowLayout
from megatron_sppo.models.rotary import Rotation
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.collectives import gather_objects
from megatron_sppo.parallel.groups import ModelGroups


class MicroBatch(Protocol):
    @property
    def packed(self) -> PackedSequences: ...


Batch = TypeVar("Batch", bound=MicroBatch)
Result = TypeVar("Result")
Snapshot = list[list[Tensor]]  # what holds each parameter, in the model's order


@dataclass(frozen=True)
class Update:
    """One optimizer step as this rank saw it."""

    micro_batch_metrics: list[dict[str, Metric]]  # empty unless this rank holds the last pipeline stage
    grad_norm: float
    lr: float  # that was applied


class MegatronEngine:
    """One model, its gradients, optimizer and schedule on this rank."""

    def __init__(
        self,
        hf: HFModelConfig,
        config: ModelConfig,
        groups: ModelGroups,
        head: Head,
        total_steps: int,
        initial_logit: float = 0.0,
    ) -> None:
        self.hf, self.config, self.groups, self.head = hf, config, groups, head
        self.model: GPTModel = build_gpt(hf, config, groups, head, initial_logit)
        with groups.active():
            self.ddp = wrap_ddp(self.model, config.optimizer, groups)
        if config.optimizer.overlap:
            self.model.config.no_sync_func = self.ddp.no_sync  # of all micro-batches but the last
            if isinstance(getattr(self.model, "output_layer", None), LMHead):
                self.model.output_layer.shows_gradient = True
        self._num_trainings = 0  # that are entered
        self.is_calibrated = False  # delayed FP8 scales have seen activations
        self._total_steps = total_steps
        self.residency = Residency({part: Mirror(partial(self.storages, part), copies=part in COPIED) for part in PARTS})

    def start_optimizer(self) -> None:
        """Create the optimizer from the parameters as they are now: call once they are filled."""
        mcore, dtype = self.model.config, platform.resolve_dtype(self.config.dtype)
        with self.groups.active():
            self.optimizer = build_optimizer(self.ddp, self.config.optimizer, self.groups, dtype)
            self.scheduler = build_scheduler(self.optimizer, self.config.optimizer, self._total_steps)
        mcore.finalize_model_grads_func = partial(_finalize, groups=self.groups)
        mcore.grad_scale_func = self.optimizer.scale_loss

    def cast_parameters(self) -> None:
        """Make the parameters from the optimizer's fp32 ones, as a step does. Collective."""
        for part in optimizer_parts(self.optimizer):
            if isinstance(part, MixedPrecisionOptimizer):  # an fp32 model's parameters are the optimizer's
                part._copy_main_params_to_model_params()  # noqa: SLF001
        if self.config.optimizer.distributed:
            self.ddp.start_param_sync(force_sync=True)
        fp8.drop_copies(self.model)

    def storages(self, part: Part) -> Storages:
        """Of the device memory that a part of this model takes; an fp32 model's weights are what its optimizer steps."""
        weights = storages_of(tensor for parameter in self.model.parameters() for tensor in fp8.stored(parameter))
        if part == "weights":
            return weights
        if part == "gradients":
            return storages_of(buffer.grad_data for buffer in (*self.ddp.buffers, *self.ddp.expert_parallel_buffers))
        states = storages_of(optimizer_tensors(self.optimizer))
        return {key: storage for key, storage in states.items() if key not in weights}

    def cost(self, length: int) -> float:
        """FLOPs of a forward pass over one sequence's layers: what data-parallel ranks share evenly."""
        return forward_flops(self.hf, length, length * length)

    @property
    def row_layout(self) -> RowLayout:
        """Sequence parallelism cuts a rank's part of a packed row into TP equal parts, and FP8 kernels take multiples alone."""
        multiple = row_multiple(self.config)
        return RowLayout(multiple, self.config.cp, self.groups.cp_rank)

    def forward(self, batches: Sequence[Batch], collect: Callable[[Tensor, Batch], Result]) -> list[Result]:
        """``collect(output, batch)`` of every micro-batch on the last pipeline stage, nothing on the others.

        ``output`` is [1, T, h] hidden states (lm head) or [1, T, 1] logits (value head) of this rank's part of the row.
        """
        if not batches:  # fewer sequences than data-parallel ranks: this replica has none, and forward needs no other replica
            return []

        def as_loss(output: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Result]:
            return output.new_zeros(()), torch.zeros([], dtype=torch.int, device=output.device), collect(output, batch)

        with torch.no_grad(), self.residency.using("weights"), without_recomputation(self.model.config):
            if self.config.fp8.recipe == "delayed" and not self.is_calibrated and platform.has_transformer_engine():
                self._run(batches, as_loss, forward_only=True)
                fp8.update_scales()
                self.is_calibrated = True
            results: list[Result] = self._run(batches, as_loss, forward_only=True)
            fp8.drop_copies(self.model)
        return results

    @contextmanager
    def training(self) -> Iterator[None]:
        """All that an :meth:`update` needs is on the device while inside: once around the updates of a phase.

        On leaving, every rank has the weights of the last update.
        """
        with self.residency.using(*PARTS):
            self._num_trainings += 1
            yield
            self._num_trainings -= 1
            if self._num_trainings:
                return
            fp8.drop_copies(self.model)
            if self.ddp.ddp_config.overlap_param_gather:
                self.ddp.start_param_sync(force_sync=True)

    def update(self, batches: Sequence[Batch], loss: Callable[[Tensor, Batch], LossSum]) -> Update:
        """One optimizer step on the loss's global sum over the global weight. Every data-parallel rank needs a micro-batch.

        The ranks of a context-parallel group compute one and the same loss, so that its weight counts on the first of them alone.
        """
        assert batches, "a mini-batch has at least one sequence per data-parallel rank"
        counts = self.groups.cp_rank == 0

        def as_loss(output: Tensor, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Metric]]:
            value = loss(output, batch)
            weight = torch.tensor(value.weight if counts else 0, dtype=torch.int, device=output.device)
            return value.total, weight, value.metrics

        with self.training():
            self.ddp.zero_grad_buffer()
            self.optimizer.zero_grad()
            metrics: list[dict[str, Metric]] = self._run(batches, as_loss, forward_only=False)
            lr = max((float(group["lr"]) for group in self.optimizer.param_groups), default=0.0)
            with self.groups.active():
                succeeded, grad_norm, _ = self.optimizer.step()
                self.scheduler.step(increment=1)
        assert succeeded, "without loss scaling every optimizer step succeeds"
        return Update(metrics, float(grad_norm or 0.0), lr)

    def reduced(self, parts: Sequence[dict[str, Metric]]) -> dict[str, Metric]:
        """Metrics of micro-batches over the model, each replica's once, the same on every rank. Collective over all."""
        contribution = list(parts) if self.groups.speaks else []
        return merge(part for rank in gather_objects(contribution) for part in rank)

    def _run(self, batches: Sequence[Batch], loss: Callable[..., Any], forward_only: bool) -> list[Any]:
        pipeline = self.groups.layout.pp > 1
        schedule = (
            schedules.forward_backward_pipelining_without_interleaving if pipeline else schedules.forward_backward_no_pipelining
        )
        extra = {"p2p_communicator": P2PCommunicator(self.groups.pg.pp, self.model.config)} if pipeline else {}
        with self.groups.active():
            results = schedule(
                forward_step_func=partial(self._forward_step, loss=loss),
                data_iterator=iter(batches),
                model=self.ddp,
                num_microbatches=len(batches),
                seq_length=1,  # unused: shapes are exchanged (variable_seq_lengths)
                micro_batch_size=1,
                forward_only=forward_only,
                pg_collection=self.groups.pg,
                **extra,
            )
        return list(results)

    def _forward_step(
        self, batches: Iterator[MicroBatch], model: torch.nn.Module, loss: Callable[..., Any]
    ) -> tuple[Tensor, Callable[..., Any]]:
        batch = next(batches)
        packed, dtype = batch.packed, platform.resolve_dtype(self.config.dtype)
        packed.row.rotation = Rotation.at(packed.positions_T, self.hf.rope_theta, self.hf.head_dim, dtype)
        output = model(packed.tokens_T[None], packed.positions_T[None], None, packed_seq_params=packed.row)
        return output, partial(loss, batch=batch)

    def snapshot(self, device: torch.device | None = None) -> Snapshot:
        """The present values of the parameters, copied to ``device`` (default: this rank's)."""
        target = device or platform.device()
        return [[tensor.to(target, copy=True) for tensor in fp8.stored(parameter)] for parameter in self.model.parameters()]

    @contextmanager
    def swapped_parameters(self, parameters: Snapshot) -> Iterator[None]:
        """The model computes with ``parameters`` while inside."""
        own = self.snapshot()
        self._restore(parameters)
        try:
            yield
        finally:
            self._restore(own)

    def _restore(self, values: Snapshot) -> None:
        for parameter, held in zip(self.model.parameters(), values, strict=True):
            fp8.restore(parameter, held)


def _finalize(
    models: list[torch.nn.Module],
    num_tokens: Tensor | None = None,
    *,
    groups: ModelGroups,
    pg_collection: Any = None,  # noqa: ARG001 - Megatron passes its own
    force_all_reduce: bool = False,
) -> None:
    finalize_model_grads(models, num_tokens, pg_collection=groups.pg, force_all_reduce=force_all_reduce)
