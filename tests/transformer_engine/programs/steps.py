"""Under torchrun, without a GPU: two steps of each case, over the kernels' stand-ins.

    torchrun --nproc-per-node N steps.py CASES.json

CASES.json maps a name to {"subject": {model, role, layers, overrides}, "offload": "none" | "all"}. Prints one line
``RESULT {"case": name, ...}`` per case, with what rank 0 has seen.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed as dist
from transformer_engine.pytorch.quantization import FP8GlobalStateManager

from megatron_sppo.config.offload import LEAVING
from megatron_sppo.models import optimizer
from megatron_sppo.parallel.collectives import gather_objects
from tests.transformer_engine.programs.roles import (
    Subject,
    build,
    fingerprint,
    fp8_parameters,
    num_fp8_copies,
    start,
    step,
    weights,
)


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    subject = Subject(**case["subject"])
    model = build(subject)
    first = step(model)  # the optimizer's moments exist from here on
    leaving = LEAVING[case.get("offload", "none")][subject.role]
    if leaving:
        model.engine.residency.begin(leaving)
    second = step(model)
    return {
        "steps": [{**asdict(each), "outputs": each.outputs.tolist()} for each in (first, second)],
        "num_fp8_copies_between": num_fp8_copies(model),
        "num_fp8_parameters": len(fp8_parameters(model)),
        "num_queued": sum(len(queue) for queue in FP8GlobalStateManager.fp8_tensors_recompute_buffer),
        "num_buckets": len(model.engine.ddp.bucket_groups),
        "weights": fingerprint(weights(model)),
    }


def main(file: Path) -> None:
    rank = start()
    optimizer.BUCKET_PARAMETERS = 30000  # several buckets even of a tiny model
    for name, case in json.loads(file.read_text()).items():
        everywhere = gather_objects(run_case(case))
        if rank == 0:
            whole = {
                "num_micro_batches": [len(result["steps"][0]["log_ratios"]) for result in everywhere],
                "num_fingerprints": len({result["weights"] for result in everywhere}),
            }
            print("RESULT", json.dumps({"case": name, **everywhere[0], **whole}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
