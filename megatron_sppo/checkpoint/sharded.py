"""One engine's model, optimizer and schedule position, through ``megatron.core.dist_checkpointing`` (torch_dist format).

Optimizer states are saved in the model's own shapes (``fully_reshardable``), so that another TP, PP or DP layout can
load them. What the config decides (learning rates, betas, decay) is not restored: a checkpoint says how far training
got, the config says how it goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.validation import StrictHandling

from megatron_sppo.models import fp8
from megatron_sppo.models.engine import MegatronEngine
from megatron_sppo.models.optimizer import optimizer_parts
from megatron_sppo.parallel import megatron_versions

_FORMAT = {
    "singleton_local_shards": False,
    "chained_optim_avoid_prefix": True,
    "distrib_optim_sharding_type": "fully_reshardable",
    "distrib_optim_fully_reshardable_mem_efficient": False,
}
_PROGRESS = ("params", "step")  # of an optimizer's parameter group: what training changes, all else is the config's
_EXTRA = "_extra_state"
_Job = tuple[Callable[..., None], tuple[Any, ...]]


def _metadata(engine: MegatronEngine) -> dict[str, Any]:
    return {**_FORMAT, "dp_cp_group": engine.groups.pg.dp_cp}


def model_state(engine: MegatronEngine) -> dict[str, Any]:
    """The model's sharded tensors alone; inside ``engine.groups.active()``.

    What layers say of themselves beside their tensors (``_extra_state``) is empty but for delayed FP8 scales. Other layers have
    other such keys, and a checkpoint is to pass between them; and Transformer Engine unpickles what it finds there.
    """
    state: dict[str, Any] = engine.model.sharded_state_dict(metadata=_metadata(engine))
    keeps = engine.config.fp8.recipe == "delayed"
    return {key: value for key, value in state.items() if keeps or not key.endswith(_EXTRA)}


def _state(engine: MegatronEngine, is_loading: bool) -> dict[str, Any]:
    # Adam's moments appear at the first step; an actor in the critic's warm-up has not made one.
    for part in optimizer_parts(engine.optimizer):
        part.init_state_fn(part.optimizer, part.config)
    model = model_state(engine)
    optimizer = engine.optimizer.sharded_state_dict(model, is_loading=is_loading, metadata=_metadata(engine))
    return {"model": model, "optimizer": optimizer, "scheduler_steps": engine.scheduler.num_steps}


def plan_save(engine: MegatronEngine, folder: Path) -> AsyncRequest:
    """What is to be written into the empty ``folder``; its tensors may still be the engine's own. Collective."""
    with engine.groups.active(), torch.no_grad(), _nothing_to_reimport():
        fp8.share_scales(engine.model, engine.groups.pg.dp_cp)
        state = _state(engine, is_loading=False)
        for value in state["model"].values():
            if fp8.is_fp8(value.data):
                value.data = fp8.plain(value.data).cpu()  # here, or on the device there would be a whole model in bf16
        return dist_checkpointing.save(
            state, str(folder), async_sharded_save=True, content_metadata=dict(_FORMAT), **megatron_versions.save_arguments()
        )


def staged(request: AsyncRequest) -> AsyncRequest:
    """With what was on a GPU copied to the host; memory of the host itself is not copied."""
    if request.async_fn is None or request.preload_fn is None:
        return request
    arguments = list(request.async_fn_args)
    arguments[1] = request.preload_fn()  # upstream's contract: the second argument
    return request._replace(async_fn_args=tuple(arguments), preload_fn=None)


def in_one_process(requests: Sequence[AsyncRequest]) -> AsyncRequest:
    """One request whose single process makes the writes of all, which are :func:`staged`, in order.

    Upstream hands all results of a rank back through one queue that does not say whose they are: of two requests in flight, the
    one that ends first is taken for the one that was scheduled first, and the checkpoint's index names the wrong files.
    """
    # A request without a function has nothing to write on this rank.
    jobs: list[_Job] = [(request.async_fn, tuple(request.async_fn_args)) for request in requests if request.async_fn is not None]
    finalize = [function for request in requests for function in request.finalize_fns]
    return AsyncRequest(_run_in_order if jobs else None, (jobs,), finalize)


def _run_in_order(jobs: list[_Job]) -> None:
    for function, arguments in jobs:
        function(*arguments)


def load_engine(engine: MegatronEngine, folder: Path) -> None:
    """Fill an engine whose optimizer was started, of any layout. Collective."""
    with engine.groups.active(), torch.no_grad():
        wanted = _state(engine, is_loading=True)
        state, *differing = dist_checkpointing.load(wanted, str(folder), strict=StrictHandling.RETURN_ALL)
        odd = sorted(key for keys in differing for key in keys if not key.endswith(_EXTRA))
        if odd:
            raise RuntimeError(f"{folder} and this model differ in {len(odd)} tensors, {', '.join(odd[:3])} among them")
        engine.model.load_state_dict(state["model"], strict=False)  # every name was compared
        engine.is_calibrated = True
        configured = [{key: group[key] for key in group if key not in _PROGRESS} for group in engine.optimizer.param_groups]
        for group in _param_groups(state["optimizer"]):
            group.update({key: value for key, value in configured[0].items() if key in megatron_versions.SCHEDULE_KEYS})
        engine.optimizer.load_state_dict(state["optimizer"])
        for group, values in zip(engine.optimizer.param_groups, configured, strict=True):
            group.update(values)
        engine.cast_parameters()  # the model's own tensors say less where one side has them in FP8
        engine.scheduler.num_steps = state["scheduler_steps"]
        engine.scheduler.step(0)  # learning rate and decay of this position


def _param_groups(saved: Any) -> Iterator[dict[str, Any]]:
    """Of an optimizer, or of the optimizers that it is made of."""
    if isinstance(saved, dict):
        yield from saved.get("param_groups", ())
        for part in saved.values():
            yield from _param_groups(part)


@contextmanager
def _nothing_to_reimport() -> Iterator[None]:
    """The first save spawns a small process that keeps the writers' results; a spawned process imports the program again.

    That takes seconds, and in a script without a main guard it would run the training once more.
    """
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program
