"""Process groups of one model. Actor and critic each own a :class:`ModelGroups`, with layouts free of each other.

Groups are passed to everything that takes them. Megatron-core still asks its global ``parallel_state`` in a few places
(GQA with fewer KV heads than TP, the layer offset of a pipeline stage, checkpoint replica ids), so the global state of
each layout is kept as a snapshot and :meth:`ModelGroups.active` puts it in place while that model is built, run or saved.
Nothing of ours reads the global state.

Rank order is Megatron's default (tp fastest, then cp, dp, pp). Example: 8 ranks, TP2 PP2 DP2: rank 0 and 1 are one TP
group, ranks {0, 2} share data-parallel gradients, rank 0 sends activations to rank 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any

import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from megatron_sppo.config.schema import ModelConfig
from megatron_sppo.parallel import platform


@dataclass(frozen=True)
class Layout:
    tp: int = 1
    pp: int = 1
    cp: int = 1

    @classmethod
    def of(cls, config: ModelConfig) -> Layout:
        return cls(config.tp, config.pp, config.cp)


@dataclass(frozen=True)
class ModelGroups:
    layout: Layout
    pg: ProcessGroupCollection
    state: dict[str, Any] = field(repr=False)  # Megatron's global parallel state for this layout

    @property
    def tp_rank(self) -> int:
        return self.pg.tp.rank()

    @property
    def pp_rank(self) -> int:
        return self.pg.pp.rank()

    @property
    def cp_rank(self) -> int:
        return self.pg.cp.rank()

    @property
    def dp_rank(self) -> int:
        return self.pg.dp.rank()

    @property
    def dp(self) -> int:
        return self.pg.dp.size()

    @property
    def is_first_stage(self) -> bool:
        return self.pp_rank == 0

    @property
    def is_last_stage(self) -> bool:
        return self.pp_rank == self.layout.pp - 1

    @property
    def speaks(self) -> bool:
        """One rank of each data-parallel replica reports its outputs: the last stage's first TP (and CP) rank."""
        return self.is_last_stage and self.tp_rank == 0 and self.cp_rank == 0

    @contextmanager
    def active(self) -> Iterator[None]:
        """Megatron's global parallel state is this model's while inside."""
        previous = _snapshot()
        _restore(self.state)
        try:
            yield
        finally:
            _restore(previous)


def _is_state(name: str) -> bool:
    return name.startswith("_") and name[1:2].isupper() and name.isupper()


def _snapshot() -> dict[str, Any]:
    return {name: value for name, value in vars(parallel_state).items() if _is_state(name)}


def _restore(state: dict[str, Any]) -> None:
    vars(parallel_state).update(state)


_PRISTINE = _snapshot()  # taken at import: the state before any layout was initialised


def build_groups(layouts: list[Layout], seed: int) -> list[ModelGroups]:
    """Groups for each layout over all ranks; equal layouts share theirs, those of earlier calls too. Collective.

    The first layout's state stays in place as Megatron's global state.
    """
    groups = [_groups_of(layout) for layout in layouts]
    _restore(groups[0].state)
    model_parallel_cuda_manual_seed(seed)
    return groups


@cache  # Megatron makes some 40 process groups for a layout, and gloo keeps two threads or more for each until the process ends
def _groups_of(layout: Layout) -> ModelGroups:
    _restore(_PRISTINE)
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        context_parallel_size=layout.cp,
        create_gloo_process_groups=False,
        distributed_timeout_minutes=platform.world_timeout() // timedelta(minutes=1),
    )
    return ModelGroups(layout, ProcessGroupCollection.use_mpu_process_groups(), _snapshot())


def is_main() -> bool:
    return dist.get_rank() == 0
