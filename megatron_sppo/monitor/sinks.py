"""Where metrics go: metrics.jsonl always, Weights & Biases and TensorBoard where asked for. Rank 0 opens them.

Example::

    with open_sinks(config.logging, run_dir, first_step, as_dict(config)) as sinks:
        sinks.write(step, {"reward/mean": 0.5}, "train")
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from megatron_sppo.config.schema import LoggingConfig
from megatron_sppo.errors import UserError
from megatron_sppo.monitor.jsonl import JsonlFile

Kind = Literal["train", "validation"]


class Sink(Protocol):
    def write(self, step: int, metrics: Mapping[str, float], kind: Kind) -> None: ...
    def close(self) -> None: ...


class Sinks:
    """Several sinks as one; ``Sinks(())`` for the ranks that do not write."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = tuple(sinks)

    def write(self, step: int, metrics: Mapping[str, float], kind: Kind) -> None:
        for sink in self._sinks:
            sink.write(step, metrics, kind)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_sinks(logging: LoggingConfig, run_dir: Path, first_step: int, config: Mapping[str, Any]) -> Sinks:
    """``first_step``: the first step this run will write, 0 for a new run; what an earlier attempt wrote from there on goes."""
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    sinks: list[Sink] = [JsonlSink(run_dir / "metrics.jsonl", first_step)]
    if logging.tensorboard:
        sinks.append(TensorboardSink(run_dir / "tensorboard", first_step))
    if logging.wandb != "off":
        sinks.append(WandbSink(logging.wandb, logging.wandb_project, run_dir, first_step, config))
    return Sinks(sinks)


class JsonlSink:
    """``{"step": 3, "kind": "train", "reward/mean": 0.5, ...}`` per line; null stands for NaN."""

    def __init__(self, path: Path, first_step: int) -> None:
        self._file = JsonlFile(path, first_step)

    def write(self, step: int, metrics: Mapping[str, float], kind: Kind) -> None:
        self._file.append({"step": step, "kind": kind, **metrics})

    def close(self) -> None:
        self._file.close()


class TensorboardSink:
    """Event files; on resume TensorBoard hides what an earlier attempt wrote from ``first_step`` on."""

    def __init__(self, folder: Path, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and not in every installation
        except ImportError as error:
            raise UserError(
                "logging.tensorboard=true needs the tensorboard package: pip install tensorboard or set logging.tensorboard=false"
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def write(self, step: int, metrics: Mapping[str, float], kind: Kind) -> None:
        for name, value in metrics.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """One W&B run per run folder: its id is kept in ``wandb_id.txt``, so that a resumed run continues the same curves."""

    def __init__(
        self, mode: Literal["offline", "online"], project: str, run_dir: Path, first_step: int, config: Mapping[str, Any]
    ) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                f"logging.wandb={mode} needs the wandb package: pip install wandb or set logging.wandb=off"
            ) from error
        self.run_id = _run_id(run_dir / "wandb_id.txt", first_step)
        self._run = wandb.init(
            project=project,
            id=self.run_id,
            name=run_dir.name,
            dir=str(run_dir),
            mode=mode,
            resume="allow",
            config=dict(config),
            settings=wandb.Settings(console="off", silent=mode == "offline"),
        )
        # Our own axis: W&B's built-in step only grows, while a resumed run goes back to its last checkpoint.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, metrics: Mapping[str, float], kind: Kind) -> None:
        self._run.log({"step": step, **metrics})

    def close(self) -> None:
        self._run.finish()


def _run_id(file: Path, first_step: int) -> str:
    """The id of the run being continued, or a new one."""
    if first_step == 0 or not file.exists():
        file.write_text(uuid.uuid4().hex[:12] + "\n", encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()
