"""One rank of tools/bench_reshard.py: pushes of a random model of 300 M parameters in bf16, timed and weighed.

torchrun --nproc-per-node 2 tools/bench_reshard_ranks.py FOLDER RESULTS.json LAYERS REPEATS
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from megatron_sppo.config.schema import ActorConfig, RolloutConfig
from megatron_sppo.models.engine import MegatronEngine
from megatron_sppo.models.hf_config import HFModelConfig, read_hf_config
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.groups import Layout, build_groups
from megatron_sppo.parallel.job import Job
from megatron_sppo.reshard.catalogue import hf_shapes
from megatron_sppo.reshard.gather import GatherSync
from megatron_sppo.reshard.sync import ReshardSync
from megatron_sppo.reshard.traffic import gather_bytes
from megatron_sppo.rollout.vllm_engine import VLLMEngine
from megatron_sppo.weights.load_hf import load_hf_weights

MIB = 2**20
BF16 = torch.bfloat16
EVERY = RolloutConfig().verify_weights_every
CASES = ((2, (Layout(tp=2), Layout(pp=2))), (1, (Layout(tp=2),)))  # rollout TP, layouts of the trainer


def write_model(folder: Path, layers: int) -> HFModelConfig:
    """An HF folder with random weights: 309 M parameters at 16 layers."""
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-6,
        "eos_token_id": 2,
        "hidden_act": "silu",
    }
    if dist.get_rank() == 0:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        generator = torch.Generator().manual_seed(0)
        shapes = hf_shapes(read_hf_config(folder))
        tensors = {name: torch.randn(shape, generator=generator).mul_(0.02).to(BF16) for name, shape in shapes.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    dist.barrier()
    return read_hf_config(folder)


def slowest(seconds: float) -> float:
    worst = torch.tensor(seconds, dtype=torch.float64)
    dist.all_reduce(worst, op=dist.ReduceOp.MAX, group=platform.host_group())
    return float(worst)


def timed(push: Callable[[], object]) -> float:
    """Seconds of the slowest rank."""
    dist.barrier()
    started = time.perf_counter()
    push()
    platform.synchronize()
    return slowest(time.perf_counter() - started)


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def peak_growth_mib(push: Callable[[], object]) -> float:
    """Of this rank's resident memory at its highest point during a push, over before it; of the worst rank."""
    push()  # what is allocated once and kept is no cost of a push
    gc.collect()
    dist.barrier()
    if platform.is_gpu():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        push()
        return slowest((torch.cuda.max_memory_allocated() - before) / MIB)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM starts anew
    push()
    return slowest((_resident("VmHWM") - before) / MIB)


class Case:
    """One trainer layout against one rollout layout."""

    def __init__(self, policy: MegatronEngine, engine: VLLMEngine, options: RolloutConfig) -> None:
        self._hf, self._policy, self._engine, self._options = policy.hf, policy, engine, options
        self._layout = policy.groups.layout
        self._gather = GatherSync(policy, engine, BF16, verify_every=0)

    def _sync(self, cap_mib: int) -> ReshardSync:
        return ReshardSync(Job.colocated(), self._hf, self._policy, self._engine, BF16, cap_mib * MIB, verify_every=0)

    def measure(self, what: str, repeats: int) -> dict[str, Any]:
        tp = self._options.tp
        num_engines = dist.get_world_size() // tp
        rollout = f"TP{tp}" if num_engines == 1 else f"{num_engines} x TP{tp}"
        name = {
            "layout": f"{'TP' if self._layout.tp > 1 else 'PP'}2 -> {rollout}",
            "weights": "packed" if self._options.cpu_packed_weights else "live",
        }
        return name | (self._memory() if what == "memory" else self._seconds(repeats))

    def _seconds(self, repeats: int) -> dict[str, Any]:
        sync = self._sync(32)
        seconds: dict[str, list[float]] = {"push": [], "proven": [], "gather": []}
        routes: dict[str, Callable[[], object]] = {
            "push": lambda: sync.push(1),
            "proven": lambda: sync.push(0),
            "gather": lambda: self._gather.push(1),
        }
        for repeat in range(repeats + 1):
            for name, route in routes.items():
                spent = timed(route)
                if repeat:  # the first of each warms up
                    seconds[name].append(spent)
        median = {name: statistics.median(values) for name, values in seconds.items()}
        proof = max(0.0, median["proven"] - median["push"])
        cost, traffic = sync.push(1), sync.plan.traffic
        received = torch.tensor(cost["perf/reshard/received_gb"] * 1e9, dtype=torch.float64)
        dist.all_reduce(received, group=platform.host_group())
        least = int(traffic.minimum.sum())
        return {
            "received_bytes_all_ranks": round(float(received)),
            "minimum_bytes_all_ranks": least,
            "ratio_to_minimum": round(float(received)) / least if least else 1.0 + round(float(received)),
            "gather_bytes": gather_bytes(hf_shapes(self._hf), self._layout.tp, self._layout.pp, BF16.itemsize),
            "push_seconds": median["push"],
            "gather_seconds": median["gather"],
            "speedup": median["gather"] / median["push"],
            "proof_seconds": proof,
            "proof_share": proof / EVERY / median["push"],
            "seconds": seconds,
            "cost_of_rank_0": cost,
        }

    def _memory(self) -> dict[str, Any]:
        peaks = {}
        for cap_mib in (16, 64):
            sync = self._sync(cap_mib)
            measured = peak_growth_mib(lambda: sync.push(1))  # noqa: B023
            peaks[str(cap_mib)] = {"measured": measured, "bound": 4 * cap_mib + slowest(sync.largest_module_bytes / MIB)}
        return {"peak_mib": peaks, "gather_peak_mib": peak_growth_mib(lambda: self._gather.push(1))}


def main(what: str, folder: Path, results: Path, layers: int, repeats: int) -> None:
    platform.start_distributed()
    platform.quiet_upstream()
    hf = write_model(folder, layers)
    found = []
    for packed in (False, True):
        for tp, layouts in CASES:
            options = RolloutConfig(
                tp=tp, max_prompt_tokens=48, max_response_tokens=16, cpu_kv_cache_gib=0.05, cpu_packed_weights=packed
            )
            engine = VLLMEngine(options, folder, BF16, seed=0)
            for layout, groups in zip(layouts, build_groups(list(layouts), seed=0), strict=True):
                policy = MegatronEngine(
                    hf, ActorConfig(path=str(folder), tp=layout.tp, pp=layout.pp, dtype="bf16"), groups, "lm", 1
                )
                load_hf_weights(policy.model, hf, folder, groups)
                found.append(Case(policy, engine, options).measure(what, repeats))
                if dist.get_rank() == 0:
                    print(f"{what} of {found[-1]['layout']}, {found[-1]['weights']} weights: done", file=sys.stderr, flush=True)
                del policy
                gc.collect()
            engine.close()
    if dist.get_rank() == 0:
        results.write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
