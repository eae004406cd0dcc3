"""Weights from Megatron to vLLM by a plan: what a rank has never travels, what it lacks comes once, and arrives in place.

Once: the layouts of all ranks become copies, and those that travel rounds under a cap, the same on every rank. Every step: write,
prove now and then, forget cached prefixes.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import torch

from megatron_sppo.models.engine import MegatronEngine
from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.job import Job
from megatron_sppo.reshard.alias import Aliases
from megatron_sppo.reshard.boxes import RankLayout, Shapes
from megatron_sppo.reshard.catalogue import hf_shapes
from megatron_sppo.reshard.copies import Copies
from megatron_sppo.reshard.executor import Executor
from megatron_sppo.reshard.proof import Proof
from megatron_sppo.reshard.push_plan import PushPlan
from megatron_sppo.reshard.shared_arenas import SharedArenas
from megatron_sppo.reshard.source import FlatParameters, live_source
from megatron_sppo.reshard.target import target_layout
from megatron_sppo.reshard.traffic import format_bytes
from megatron_sppo.rollout.vllm_engine import VLLMEngine
from megatron_sppo.weights.mapping import mapped_parameters

if TYPE_CHECKING:
    from megatron_sppo.rollout.live_weights import LiveWeights, Mode  # imports vLLM


class ReshardSync:
    """Implements :class:`~megatron_sppo.reshard.weight_sync.WeightSync` with the fewest bytes. Building it is collective."""

    def __init__(
        self,
        job: Job,
        hf: HFModelConfig,
        policy: MegatronEngine | None,
        engine: VLLMEngine | None,
        wire: torch.dtype,
        cap: int,
        verify_every: int,
        alias: bool = False,
    ) -> None:
        """``policy`` on ranks that train, ``engine`` on ranks that roll out; ``cap`` in bytes; ``wire``: dtype of vLLM's weights;
        ``alias``: vLLM's parameters become the trainer's memory where the layouts agree, and are not copied.
        """
        self._job, self._engine, self._verify_every = job, engine, verify_every
        shapes = hf_shapes(hf)
        source_layout, self._source = _source_of(policy, hf, shapes)
        self._weights = engine.open_weights(shapes) if engine is not None else None
        target = _target_of(self._weights, shapes)
        is_host = not platform.is_gpu()
        self.plan = plan = PushPlan.make(source_layout, target, shapes, cap, wire.itemsize, job.host_group)
        self._shared = SharedArenas.open(plan.rounds, plan.nodes, wire, job.rank, job.host_group) if is_host else None
        self._aliases = Aliases(source_layout, target, self._source, self._weights) if alias and self._weights else None
        copies = Copies.concatenate(self.plan.local, self.plan.rounds.copies)
        self._proof = Proof(copies, tuple(shapes), job.rank, self._source, wire)
        local = self.plan.local
        self._executor = Executor(
            self._aliases.without(local, job.rank) if self._aliases else local,
            self.plan.rounds,
            job.rank,
            self._source,
            self._weights,
            wire,
            platform.device(),
            job.device_group,
            self._shared,
        )

    def push(self, step: int) -> dict[str, float]:
        """See :class:`~megatron_sppo.reshard.weight_sync.WeightSync`. Collective over the job; seconds are this rank's."""
        started = time.perf_counter()
        if self._aliases:
            self._aliases.check()
        is_proven = step == 0 or bool(self._verify_every and step % self._verify_every == 0)
        if self._engine is None:
            cost = self._executor.run()
        else:
            with self._engine.overwriting(step, self._proof.subtract_target if is_proven else None):
                cost = self._executor.run()
        platform.synchronize()
        pushed = time.perf_counter()
        if is_proven:
            self.prove()
        return {
            **cost.metrics(),
            "perf/reshard/push_seconds": pushed - started,
            "perf/reshard/proof_seconds": time.perf_counter() - pushed,
            "perf/reshard/staging_mib": self._executor.staging_bytes / 2**20,
            "perf/reshard/landing_mib": (self._weights.peak_landing_bytes if self._weights else 0) / 2**20,
        }

    def describe(self) -> str:
        """See :class:`~megatron_sppo.reshard.weight_sync.WeightSync`."""
        modes = ", ".join(f"{count} {mode}" for mode, count in sorted(Counter(self.modes).items()))
        rounds = self.plan.rounds.num_rounds
        moves = f"weight sync by plan: {self.plan.traffic.summary()}; {rounds} rounds; parameters written: {modes or 'none'}"
        handed = "; in shared memory between ranks of one machine" if self._shared else ""
        aliased = f"; {format_bytes(self._aliases.num_bytes)} of them are the trainer's own memory" if self._aliases else ""
        return moves + handed + aliased

    @property
    def largest_module_bytes(self) -> int:
        """Of the modules of this rank's engine that are made anew by a push: the memory it may take beside its staging."""
        return self._weights.largest_group_bytes if self._weights is not None else 0

    @property
    def modes(self) -> tuple[Mode, ...]:
        """How each parameter of this rank's engine is written."""
        return self._weights.modes if self._weights is not None else ()

    def prove(self) -> None:
        """Raise WeightMismatch on all ranks unless vLLM holds the policy's weights to the last bit. Collective over the job.

        Parameters that vLLM keeps in kernel form are compared in the course of a push, before they are turned into it: with such
        ones, call it through :meth:`push`.
        """
        self._proof.add_source()
        if self._weights is not None:
            for param in self._weights.comparable:
                self._proof.subtract_target(param, self._weights.live(param))
        self._proof.conclude(self._job.host_group)


def _source_of(policy: MegatronEngine | None, hf: HFModelConfig, shapes: Shapes) -> tuple[RankLayout, FlatParameters]:
    if policy is None:
        return RankLayout.empty(), FlatParameters(())
    return live_source(mapped_parameters(policy.model), hf, shapes, policy.groups.tp_rank, policy.groups.layout.tp)


def _target_of(weights: LiveWeights | None, shapes: Shapes) -> RankLayout:
    return RankLayout.empty() if weights is None else target_layout(weights.names, weights.regions, shapes)
