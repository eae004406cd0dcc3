"""Under torchrun, without a GPU: checkpoints between layers and FP8 recipes, and what a reshard is told of layers.

    torchrun --nproc-per-node N checkpoints.py SUBJECTS.json FOLDER

SUBJECTS.json is {"checkpoints": {name: {"saved": subject, "resumed": subject}}, "rectangles": {name: HF folder}}. Prints one line
``RESULT {"case": name, ...}`` per name.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_sppo.actor import Actor
from megatron_sppo.checkpoint.checkpointer import Checkpointer
from megatron_sppo.config.schema import CheckpointConfig
from megatron_sppo.critic import Critic
from megatron_sppo.models.optimizer import optimizer_tensors
from megatron_sppo.parallel.collectives import gather_objects
from megatron_sppo.reshard.boxes import RankLayout
from megatron_sppo.reshard.catalogue import hf_shapes
from megatron_sppo.reshard.declared import Cluster, megatron_layout
from megatron_sppo.reshard.source import live_source
from megatron_sppo.weights.mapping import mapped_parameters
from tests.transformer_engine.programs.roles import Subject, build, fingerprint, outputs, start, step, weights

# Names of norms that Transformer Engine fuses into the layer after them -> those that stand alone.
FUSED_NORMS = {
    "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
    "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
}


def optimizer_values(model: Actor | Critic) -> Tensor:
    """All that this rank's optimizer keeps, sorted: layers of another kind have their parameters in another order."""
    return torch.cat([tensor.flatten().float() for tensor in optimizer_tensors(model.engine.optimizer)]).sort().values


def checkpoint_case(saved: Subject, resumed: Subject, folder: Path) -> dict[str, Any]:
    """Two models go on from one checkpoint: the one that wrote it and the one that read it."""
    config = CheckpointConfig(asynchronous=False)
    writer = build(saved)
    step(writer)
    with Checkpointer(folder, config, {"model": writer.engine}) as checkpointer:
        checkpointer.save(1, {})
    kept, states, values = fingerprint(weights(writer)), optimizer_values(writer), outputs(writer).values
    step(writer)
    goal = fingerprint(weights(writer))
    reader = build(resumed, fills=False)
    with Checkpointer(folder, config, {"model": reader.engine}) as checkpointer:
        loaded = checkpointer.load_latest()
    assert loaded is not None
    found = {
        "same_weights": fingerprint(weights(reader)) == kept,
        "same_optimizer": torch.equal(optimizer_values(reader), states),
        "steps_of_optimizer": sorted({group["step"] for group in reader.engine.optimizer.param_groups}),
    }
    difference = (outputs(reader).values - values).abs()
    step(reader)
    return found | {
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "same_weights_after_a_step": fingerprint(weights(reader)) == goal,
    }


def boxes(layout: RankLayout) -> list[tuple[str | int, ...]]:
    """Rectangles in one order, with the name of a norm that stands alone for one that is fused."""
    names = []
    for name in layout.params:
        fused = next((fused for fused in FUSED_NORMS if name.endswith(fused)), None)
        names.append(name if fused is None else name.replace(fused, FUSED_NORMS[fused]))
    table = layout.boxes
    columns = (table.tensor, table.row, table.column, table.rows, table.columns, table.offset, table.row_stride)
    return sorted((names[param], *map(int, row)) for param, *row in zip(table.param, *columns, strict=True))


def rectangles_case(model: str) -> dict[str, Any]:
    tp = dist.get_world_size()
    engine = build(Subject(model, "actor", "transformer_engine", (f"tp={tp}",))).engine
    shapes = hf_shapes(engine.hf)
    live, _ = live_source(mapped_parameters(engine.ddp), engine.hf, shapes, engine.groups.tp_rank, tp)
    declared = megatron_layout(engine.hf, Cluster(tp=tp), engine.groups.tp_rank, shapes)
    has_fused_norms = any(name.endswith(tuple(FUSED_NORMS)) for name in live.params)
    return {"agree": boxes(live) == boxes(declared), "num_boxes": len(live.boxes), "has_fused_norms": has_fused_norms}


def main(file: Path, folder: Path) -> None:
    rank = start()
    subjects = json.loads(file.read_text())

    def say(name: str, found: dict[str, Any]) -> None:
        everywhere = gather_objects(found)
        if rank == 0:
            print("RESULT", json.dumps({"case": name, "ranks": everywhere}), flush=True)

    for number, (name, pair) in enumerate(subjects["checkpoints"].items()):
        saved, resumed = (Subject(**pair[which]) for which in ("saved", "resumed"))
        say(name, checkpoint_case(saved, resumed, folder / str(number)))
    for name, model in subjects["rectangles"].items():
        say(name, rectangles_case(model))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
