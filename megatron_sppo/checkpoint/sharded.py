"""One engine's model, optimizer and schedule position, through ``megatron.core.dist_checkpointing`` (torch_dist format).

Optimizer states are saved in the model's own shapes (``fully_reshardable``), so that another TP, PP or DP layout can
load them. What the config decides (learning rates, betas, decay) is not restored: a checkpoint says how far training
got, the config says how it goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.validation import StrictHandling

from megatron_sppo.models.engine import MegatronEngine

_FORMAT = {
    "singleton_local_shards": False,
    "chained_optim_avoid_prefix": True,
    "distrib_optim_sharding_type": "fully_reshardable",
    "distrib_optim_fully_reshardable_mem_efficient": False,
}
_PROGRESS = ("params", "step")  # of an optimizer's parameter group: what training changes, all else is the config's


def _state(engine: MegatronEngine, is_loading: bool) -> dict[str, Any]:
    metadata = {**_FORMAT, "dp_cp_group": engine.groups.pg.dp_cp}
    model = engine.model.sharded_state_dict(metadata=metadata)
    optimizer = engine.optimizer.sharded_state_dict(model, is_loading=is_loading, metadata=metadata)
    return {"model": model, "optimizer": optimizer, "scheduler_steps": engine.scheduler.num_steps}


def save_engine(engine: MegatronEngine, folder: Path, asynchronous: bool) -> AsyncRequest | None:
    """Write the engine into the empty ``folder``. Collective.

    Asynchronous: returns the request to schedule. Its tensors still alias the engine's until it is scheduled.
    """
    with engine.groups.active(), torch.no_grad():
        return dist_checkpointing.save(
            _state(engine, is_loading=False), str(folder), async_sharded_save=asynchronous, content_metadata=dict(_FORMAT)
        )


def load_engine(engine: MegatronEngine, folder: Path) -> None:
    """Fill an engine whose optimizer was started, of any layout. Collective."""
    with engine.groups.active(), torch.no_grad():
        state = dist_checkpointing.load(_state(engine, is_loading=True), str(folder), strict=StrictHandling.RAISE_ALL)
        engine.model.load_state_dict(state["model"])
        configured = [{key: group[key] for key in group if key not in _PROGRESS} for group in engine.optimizer.param_groups]
        engine.optimizer.load_state_dict(state["optimizer"])
        for group, values in zip(engine.optimizer.param_groups, configured, strict=True):
            group.update(values)
        engine.scheduler.num_steps = state["scheduler_steps"]
        engine.scheduler.step(0)  # learning rate and decay of this position
