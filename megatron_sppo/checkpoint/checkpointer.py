"""Save and resume a run: engines, generators, trainer state; in the background where asked.

A background save forks one process per rank (Megatron's ``AsyncCallsQueue``): the fork is the snapshot, so training may
change the weights at once. The process copies host memory to files and nothing else; the synchronous path forks the same
writers and waits for them. A checkpoint gets its name, and ``latest`` its new content, only when the
writers of all ranks are done, which every rank learns in the same :meth:`Checkpointer.maybe_finalize`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue, AsyncRequest
from torch.distributed.checkpoint.api import CheckpointException

from megatron_sppo.checkpoint import rng
from megatron_sppo.checkpoint.sharded import in_one_process, load_engine, plan_save, staged
from megatron_sppo.checkpoint.store import CheckpointStore, read_manifest
from megatron_sppo.config.schema import CheckpointConfig
from megatron_sppo.errors import UserError
from megatron_sppo.models.engine import MegatronEngine
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.collectives import broadcast_object
from megatron_sppo.parallel.groups import is_main

log = logging.getLogger(__name__)

_FORMAT = 1
_RNG = "rng"
_ROLLOUTS = "rollouts.pt"
# A tokenizer's end tokens and the longest position do not shape a weight.
_SHAPELESS = ("eos_token_ids", "max_positions")
Value = TypeVar("Value")


@dataclass(frozen=True)
class _Pending:
    """A save whose shards are not all on disk yet."""

    step: int
    manifest: dict[str, Any]
    is_best: bool


class Checkpointer:
    """Checkpoints of one run in ``run_dir``/checkpoints. Every method is collective over the world."""

    def __init__(self, run_dir: str | Path, config: CheckpointConfig, engines: Mapping[str, MegatronEngine]) -> None:
        """``engines`` by name, such as actor and critic; their optimizers must have been started before a save or a load."""
        self.config, self.engines = config, dict(engines)
        self.store = CheckpointStore(Path(run_dir).absolute() / "checkpoints", config.keep_last, config.keep_best)
        self._queue = AsyncCallsQueue()
        self._pending: _Pending | None = None

    def save(
        self, step: int, trainer_state: Mapping[str, Any], is_best: bool = False, rollouts: Mapping[str, Any] | None = None
    ) -> None:
        """Save what the engines are now; ``trainer_state`` must survive JSON. Asynchronous: returns before it is written.

        ``rollouts`` that wait for their step, the same on every rank, come back as "rollouts" of the trainer's state.
        """
        if self._pending is not None:
            self._announce("waiting for the checkpoint of step %d before the one of step %d", self._pending.step, step)
            self._finalize(blocking=True)
        manifest = json.loads(json.dumps({**self._description(), "step": step, "trainer": trainer_state}))  # a copy as of now
        folder = _on_main(lambda: self.store.begin(step, [*self.engines, _RNG]))
        rng.save(folder / _RNG)
        if rollouts and is_main():
            torch.save(dict(rollouts), folder / _ROLLOUTS)
        requests = list[AsyncRequest]()
        with ExitStack() as present:
            for name, engine in self.engines.items():
                present.enter_context(engine.training())
                requests.append(staged(plan_save(engine, folder / name)))
                if platform.is_gpu():
                    present.close()  # all of it is staged on the host: the next engine may need the room
            self._pending = _Pending(step, manifest, is_best)
            self._write(in_one_process(requests))

    def _write(self, request: AsyncRequest) -> None:
        """A background process of its own has been forked when this returns, or all is written."""
        if self.config.asynchronous:
            self._queue.schedule_async_request(request)
            return
        with self._explained():
            request.execute_sync()
        self._finalize(blocking=True)

    def maybe_finalize(self) -> None:
        """Publish the save in flight if its writers are done on all ranks. Call it once per step on every rank."""
        self._finalize(blocking=False)

    def close(self) -> None:
        """Wait for the save in flight and publish it."""
        self._finalize(blocking=True)

    def abort(self) -> None:
        """Stop this rank's writers without a word to the other ranks: for the way out of an error. Not collective."""
        for call in self._queue.async_calls:
            call.async_caller.close(abort=True)
        self._queue.async_calls.clear()
        self._pending = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Waiting for ranks that may have failed too would hang."""
        if kind is None:
            self.close()
        else:
            self.abort()

    def load_latest(self) -> tuple[int, dict[str, Any]] | None:
        """(step, trainer state) of the checkpoint that ``checkpoint.resume`` asks for, loaded; None to start afresh.

        What crashes left is deleted, and checkpoints later than the one resumed from are set aside (both announced).
        """
        folder = _on_main(self._choose)
        if folder is None:
            return None
        loaded = self.load(folder)
        _on_main(lambda: self.store.set_aside(after=loaded[0]))
        return loaded

    def load(self, folder: str | Path) -> tuple[int, dict[str, Any]]:
        """Fill the engines from one checkpoint and return its (step, trainer state). Changes nothing on disk."""
        path = Path(folder).absolute()
        manifest = _on_main(lambda: read_manifest(path))
        self._refuse_what_differs(path, manifest)
        for name, engine in self.engines.items():
            with engine.training():
                load_engine(engine, path / name)
        if manifest["layouts"] == self._description()["layouts"]:
            rng.load(path / _RNG)
        else:
            self._announce("%s was saved by another layout: weights and optimizers are restored, random generators are not", path)
        self._announce("resumed from %s", path, level=logging.INFO)
        return int(manifest["step"]), {**manifest["trainer"], **_waiting_rollouts(path)}

    def _choose(self) -> Path | None:
        """Rank 0: the folder to resume from, after cleaning up."""
        self.store.clean()
        if self.config.resume == "never":
            self.store.set_aside(after=-1)
            return None
        folder = self.store.latest()
        if folder is None and self.config.resume == "must":
            raise UserError(
                f"checkpoint.resume=must but {self.store.folder} holds no complete checkpoint; "
                "point run_dir at the run to continue, or set checkpoint.resume=auto."
            )
        return folder

    def _finalize(self, blocking: bool) -> None:
        if self._pending is None:
            return
        with self._explained():
            self._queue.maybe_finalize_async_calls(blocking=blocking)
        if self._queue.get_num_unfinalized_calls() > 0:
            return
        pending, self._pending = self._pending, None
        dist.barrier(group=platform.host_group())  # every rank's files, generator states too, are written
        folder = _on_main(lambda: self.store.publish(pending.step, pending.manifest, pending.is_best))
        self._announce("checkpoint of step %d is complete: %s", pending.step, folder, level=logging.INFO)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """A writer's failure is raised on every rank; it ends the run, since upstream's queue of results is then out of step."""
        try:
            yield
        except CheckpointException as error:
            assert self._pending is not None
            error.add_note(
                f"The checkpoint of step {self._pending.step} could not be written to {self.store.folder}: is the disk full?"
            )
            raise

    def _description(self) -> dict[str, Any]:
        """What a later load must agree with (models, precision) or adapt to (layouts)."""
        layouts = {name: asdict(engine.groups.layout) for name, engine in self.engines.items()}
        models = {name: {k: v for k, v in asdict(e.hf).items() if k not in _SHAPELESS} for name, e in self.engines.items()}
        states = {
            name: {
                "dtype": str(platform.resolve_dtype(engine.config.dtype)).removeprefix("torch."),
                "optimizer.distributed": engine.config.optimizer.distributed,
            }
            for name, engine in self.engines.items()
        }
        layouts_here = {**layouts, "world_size": dist.get_world_size()}
        return {"format": _FORMAT, "layouts": layouts_here, "models": models, "states": states}

    def _refuse_what_differs(self, path: Path, manifest: dict[str, Any]) -> None:
        """A checkpoint of another model, or whose optimizer states have another form, is the user's to mend."""
        if manifest["format"] != _FORMAT:
            raise UserError(f"{path} has format {manifest['format']}, not {_FORMAT}; load it with the version that saved it.")
        here = self._description()
        for name in self.engines:
            if name not in manifest["models"]:
                held = ", ".join(manifest["models"])
                raise UserError(f"{path} holds {held} but no {name}; resume with the config that saved it.")
            for key, value in here["models"][name].items():
                if (saved := manifest["models"][name][key]) != value:
                    raise UserError(
                        f"{name}.path has {key}={value} but {path} was saved with {key}={saved}; "
                        "use the model that the run began with, or set checkpoint.resume=never."
                    )
            for key, value in here["states"][name].items():
                if (saved := manifest["states"][name][key]) != value:
                    raise UserError(
                        f"{name}.{key}={value} but {path} was saved with {saved}; set it back, or set checkpoint.resume=never."
                    )

    def _announce(self, message: str, *values: object, level: int = logging.WARNING) -> None:
        if is_main():
            log.log(level, message, *values)


def _waiting_rollouts(folder: Path) -> dict[str, Any]:
    file = folder / _ROLLOUTS
    return {"rollouts": torch.load(file, weights_only=True)} if file.is_file() else {}


def _on_main(action: Callable[[], Value]) -> Value:
    """Rank 0's result, or its :class:`UserError`, on every rank. Collective: no rank goes on before rank 0 is done."""
    result: Any = None
    if is_main():
        try:
            result = action()
        except UserError as error:
            result = error
    result = broadcast_object(result)
    if isinstance(result, UserError):
        raise result
    value: Value = result
    return value
