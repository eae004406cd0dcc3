"""A sharded checkpoint's policy as an HF folder: any layout in, one layout out, no optimizer states read."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.validation import StrictHandling

from megatron_sppo.checkpoint.sharded import model_state
from megatron_sppo.checkpoint.store import MANIFEST, CheckpointStore, read_manifest
from megatron_sppo.config.load import load_config
from megatron_sppo.config.schema import ActorConfig, Config, FP8Config
from megatron_sppo.errors import UserError
from megatron_sppo.models.engine import MegatronEngine
from megatron_sppo.models.hf_config import read_hf_config
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.collectives import broadcast_object
from megatron_sppo.parallel.groups import Layout, build_groups, is_main
from megatron_sppo.weights.hf_folder import save_hf_folder

EXPORTED = "hf"  # inside the checkpoint's folder, unless told otherwise; pruned with it


def checkpoint_folder(path: str | Path) -> Path | None:
    """The checkpoint that ``path`` is, or the latest one of the run folder that it is; None for anything else."""
    folder = Path(path)
    if (folder / MANIFEST).is_file():
        return folder
    return CheckpointStore(folder / "checkpoints", keep_last=1, keep_best=False).latest()


def run_config(checkpoint: Path) -> Config:
    """The config of the run that ``checkpoint`` belongs to."""
    file = checkpoint.absolute().parent.parent / "config.yaml"
    if not file.is_file():
        raise UserError(f"{checkpoint} is outside of a run folder ({file} is missing); move it back to <run_dir>/checkpoints.")
    return load_config(Config, [file])


def export_checkpoint(checkpoint: Path, output: Path, tp: int = 1) -> None:
    """Write the policy of ``checkpoint`` to ``output``. Collective over the world, in groups of ``tp`` ranks.

    Config and tokenizer come from the run's ``actor.path``. UserError where that is gone, or is another model.
    """
    manifest = read_manifest(checkpoint)
    actor = run_config(checkpoint).actor
    hf = read_hf_config(actor.path, f"actor.path of {checkpoint}")
    saved: dict[str, Any] = manifest["models"]["actor"]
    differing = next((key for key, value in asdict(hf).items() if key in saved and saved[key] != value), None)
    if differing:
        raise UserError(
            f"actor.path={actor.path} has {differing}={asdict(hf)[differing]} but {checkpoint} was saved with "
            f"{saved[differing]}; put the model back that the run began with."
        )
    dtype = {"float32": "fp32", "bfloat16": "bf16"}[manifest["states"]["actor"]["dtype"]]
    # A checkpoint knows no FP8: what is written are its numbers, on a machine that need not have the kernels.
    layout: ActorConfig = replace(actor, tp=tp, pp=1, cp=1, sequence_parallel=False, dtype=dtype, fp8=FP8Config())
    (groups,) = build_groups([Layout.of(layout)], seed=0)
    engine = MegatronEngine(hf, layout, groups, "lm", total_steps=1)
    with groups.active(), torch.no_grad():
        wanted = {"model": model_state(engine)}
        # RAISE_UNEXPECTED: every tensor that is asked for must be there; optimizer states, which are not, may be.
        state = dist_checkpointing.load(wanted, str((checkpoint / "actor").absolute()), strict=StrictHandling.RAISE_UNEXPECTED)
        engine.model.load_state_dict(state["model"], strict=False)  # every name was compared
    save_hf_folder(engine.model, hf, groups, actor.path, output)


def exported(path: str | Path) -> Path | None:
    """Where the HF form of the checkpoint at ``path`` is or belongs; None if ``path`` is no checkpoint and no run folder."""
    checkpoint = checkpoint_folder(path)
    return None if checkpoint is None else checkpoint / EXPORTED


def ensure_exported(path: str | Path, tp: int = 1) -> None:
    """Export the checkpoint at ``path`` unless that has been done; nothing for anything else. Collective."""
    target = broadcast_object(_missing_export(path) if is_main() else None)
    if target is not None:
        export_checkpoint(target.parent, target, tp)


def _missing_export(path: str | Path) -> Path | None:
    target = exported(path)
    return None if target is None or (target / "config.json").is_file() else target


def main(path: Path, output: Path | None, tp: int) -> None:
    """``megatron-sppo export``: join the launch, or be a world of one."""
    checkpoint = checkpoint_folder(path)
    if checkpoint is None:
        raise UserError(f"{path} is neither a checkpoint nor a run folder with one; name <run_dir>/checkpoints/step_*.")
    rank, _ = platform.start_distributed()
    platform.quiet_upstream()
    target = output or checkpoint / EXPORTED
    export_checkpoint(checkpoint, target, tp)
    if rank == 0:
        print(f"exported {checkpoint} to {target}", flush=True)
    dist.destroy_process_group()
