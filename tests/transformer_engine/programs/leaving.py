"""Under torchrun, without a GPU: what leaves a model whose parameters are FP8, and comes back to it.

    torchrun --nproc-per-node N leaving.py CASES.json

CASES.json maps a name to {"subject": {model, role, layers, overrides}, "cluster": {tp, dp, rollout_tp, num_engines}}. Prints one
line ``RESULT {"case": name, "ranks": [...]}`` per case.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_sppo.actor import Actor
from megatron_sppo.models import fp8
from megatron_sppo.parallel.collectives import gather_objects
from megatron_sppo.reshard.boxes import RankLayout, Shapes, matrix_shape
from megatron_sppo.reshard.catalogue import hf_shapes
from megatron_sppo.reshard.copies import Copies
from megatron_sppo.reshard.declared import Cluster, layouts
from megatron_sppo.reshard.executor import Executor
from megatron_sppo.reshard.proof import Proof
from megatron_sppo.reshard.push_plan import PushPlan
from megatron_sppo.reshard.source import live_source
from megatron_sppo.weights.mapping import mapped_parameters
from tests.distributed.programs.reshard_executor import Memory, laid_out
from tests.transformer_engine.programs.roles import Subject, build, fingerprint, outputs, problem, start, step, weights

CAP = 1 << 16  # bytes of a round: several rounds even of a tiny model


def filled(layout: RankLayout, shapes: Shapes, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """A rank's flat parameters as HF ``tensors`` fill them."""
    matrices = [tensors[name].view(matrix_shape(shape)) for name, shape in shapes.items()]

    def rectangle(tensor: int, row: int, column: int, rows: int, columns: int) -> Tensor:
        return matrices[tensor][row : row + rows, column : column + columns]

    return [values.bfloat16() for values in laid_out(layout, rectangle)]


def pushes(model: Actor, cluster: Cluster) -> list[bool]:
    """Whether an engine has the trainer's numbers, and the proof says so, at a first push and at one after another step."""
    engine, rank, shapes = model.engine, dist.get_rank(), hf_shapes(model.engine.hf)
    _, targets = layouts(engine.hf, cluster, shapes)
    layout, source = live_source(mapped_parameters(engine.ddp), engine.hf, shapes, engine.groups.tp_rank, cluster.tp)
    plan = PushPlan.make(layout, targets[rank], shapes, CAP, torch.bfloat16.itemsize, None)
    received = Memory([flat.numel() for flat in filled(targets[rank], shapes, weights(model))], torch.bfloat16)
    executor = Executor(plan.local, plan.rounds, rank, source, received, torch.bfloat16, torch.device("cpu"), None)
    proof = Proof(Copies.concatenate(plan.local, plan.rounds.copies), tuple(shapes), rank, source, torch.bfloat16)
    found = []
    for number in range(2):
        if number:
            step(model)
        received.done.clear()
        executor.run()
        proof.add_source()
        for param, flat in received.done.items():
            proof.subtract_target(param, flat)
        proof.conclude(None)  # raises where they differ
        expected = filled(targets[rank], shapes, weights(model))
        found.append(all(torch.equal(received.done[param], values) for param, values in enumerate(expected)))
    return found


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    model = build(Subject(**case["subject"]))
    assert isinstance(model, Actor)
    initial = outputs(model).values
    model.remember_reference()
    step(model)
    trained, stored = outputs(model).values, fingerprint(weights(model))
    reference = model.reference_logprobs(*problem()).values
    again = outputs(model).values
    parameters = mapped_parameters(model.engine.model).values()
    quantized = [parameter for parameter in parameters if fp8.is_fp8(parameter)]
    return {
        "num_fp8_parameters": len(quantized),
        "bytes_an_element": sum(sum(part.nbytes for part in fp8.stored(each)) for each in quantized)
        / sum(each.numel() for each in quantized),
        "reference_is_the_initial_policy": torch.equal(reference, initial),
        "differs_from_it": not torch.equal(trained, initial),
        "comes_back": torch.equal(again, trained) and fingerprint(weights(model)) == stored,
        "pushes": pushes(model, Cluster(**case["cluster"])),
    }


def main(file: Path) -> None:
    rank = start()
    for name, case in json.loads(file.read_text()).items():
        everywhere = gather_objects(run_case(case))
        if rank == 0:
            print("RESULT", json.dumps({"case": name, "ranks": everywhere}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
