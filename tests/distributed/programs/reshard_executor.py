"""Run by torchrun on four ranks: plans of declared layouts executed over gloo, every element against its number.

Prints one line per check that held; one that does not raises.
"""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.reshard.boxes import Boxes, RankLayout, Shapes
from megatron_sppo.reshard.catalogue import MoEModelConfig, hf_shapes
from megatron_sppo.reshard.declared import Cluster, layouts
from megatron_sppo.reshard.executor import Executor
from megatron_sppo.reshard.push_plan import PushPlan
from megatron_sppo.reshard.shared_arenas import SharedArenas
from megatron_sppo.reshard.source import FlatParameters

DENSE = HFModelConfig("qwen2", 4, 64, 4, 2, 16, 96, 199, False, 1e4, 1e-6, 64, ())
MOE = MoEModelConfig(**(dataclasses.asdict(DENSE) | {"family": "qwen3", "num_layers": 2}), num_experts=8, expert_ffn_size=32)
CASES = {
    "TP4 -> TP4": (DENSE, Cluster(tp=4, rollout_tp=4)),
    "TP2 PP2 -> 2 x TP2": (DENSE, Cluster(tp=2, pp=2, rollout_tp=2, num_engines=2)),
    "PP4 -> 4 x TP1": (DENSE, Cluster(pp=4, num_engines=4)),
    "PP2 in two chunks, DP2 -> TP4": (DENSE, Cluster(pp=2, vpp=2, dp=2, rollout_tp=4)),
    "DP4 -> 4 x TP1": (DENSE, Cluster(dp=4, num_engines=4)),
    "TP2 -> TP2 apart": (DENSE, Cluster(tp=2, rollout_tp=2, separate=True)),
    "PP3 -> TP1 apart": (dataclasses.replace(DENSE, num_layers=3), Cluster(pp=3, separate=True)),
    "EP4 -> TP4": (MOE, Cluster(tp=2, dp=2, ep=4, rollout_tp=4)),
    "EP2 PP2 -> EP4": (MOE, Cluster(tp=2, pp=2, ep=2, rollout_tp=4, rollout_ep=True)),
}
# Machine of each rank: what has both ends on one goes through shared arenas, the rest by messages.
MACHINES = {"messages": (0, 1, 2, 3), "shared": (0, 0, 0, 0), "both": (0, 0, 1, 1)}


class Memory:
    """A target whose every third parameter takes memory only while it is unfinished, as a staged one of vLLM does."""

    def __init__(self, sizes: list[int], dtype: torch.dtype) -> None:
        self._sizes, self._dtype = sizes, dtype
        self._open: dict[int, Tensor] = {}
        self.done: dict[int, Tensor] = {}
        self.most_open = 0

    def dtype(self, param: int) -> torch.dtype:
        return self._dtype

    def lands(self, param: int) -> bool:
        return param % 3 == 0

    def flat(self, param: int) -> Tensor:
        assert param not in self.done, "written after it was finished"
        if param not in self._open:
            self._open[param] = torch.full((self._sizes[param],), -1, dtype=self._dtype)
            self.most_open = max(self.most_open, sum(self.lands(number) for number in self._open))
        return self._open[param]

    def finish(self, param: int) -> None:
        self.done[param] = self._open.pop(param)


def laid_out(layout: RankLayout, rectangle: Callable[[int, int, int, int, int], Tensor]) -> list[Tensor]:
    """A rank's flat parameters in fp32 out of ``rectangle(tensor, row, column, rows, columns)``; elements in no box are -1."""
    boxes: Boxes = layout.boxes
    sizes = [0] * len(layout.params)
    for param, offset, rows, columns, stride in zip(
        boxes.param, boxes.offset, boxes.rows, boxes.columns, boxes.row_stride, strict=True
    ):
        sizes[param] = max(sizes[param], int(offset + (rows - 1) * stride + columns))
    values = [torch.full((size,), -1, dtype=torch.float32) for size in sizes]
    for index in range(len(boxes)):
        tensor, row, column, rows, columns, param, offset, stride = (
            int(getattr(boxes, field.name)[index]) for field in dataclasses.fields(boxes)
        )
        values[param].as_strided((rows, columns), (stride, 1), offset).copy_(rectangle(tensor, row, column, rows, columns))
    return values


def numbered(layout: RankLayout, shapes: Shapes, dtype: torch.dtype) -> list[Tensor]:
    """A rank's flat parameters; each element has the number of its HF element."""
    widths, firsts, first = [shape[-1] for shape in shapes.values()], [], 1
    for shape in shapes.values():
        firsts.append(first)
        first += torch.Size(shape).numel()

    def numbers(tensor: int, row: int, column: int, rows: int, columns: int) -> Tensor:
        return firsts[tensor] + (row + torch.arange(rows))[:, None] * widths[tensor] + column + torch.arange(columns)

    return [values.to(dtype) for values in laid_out(layout, numbers)]


def check(name: str, machines: Sequence[int], cap: int, wire: torch.dtype) -> int:
    """Number of copies that go through shared arenas."""
    hf, cluster = CASES[name]
    rank, shapes = dist.get_rank(), hf_shapes(hf)
    sources, targets = layouts(hf, cluster, shapes)
    assert len(sources) == dist.get_world_size(), name
    plan = PushPlan.make(sources[rank], targets[rank], shapes, cap, wire.itemsize, None)
    assert plan.traffic.ratio_to_minimum == 1.0
    source = numbered(sources[rank], shapes, torch.float32)
    expected = numbered(targets[rank], shapes, torch.float32)
    target = Memory([len(values) for values in expected], wire) if expected else None
    device = torch.device("cpu")
    shared = SharedArenas.open(plan.rounds, machines, wire, rank, None)
    executor = Executor(plan.local, plan.rounds, rank, FlatParameters(source), target, wire, device, None, shared)
    assert executor.staging_bytes <= 4 * cap, f"{name}: {executor.staging_bytes} bytes of staging under a cap of {cap}"
    for _ in range(3):
        cost = executor.run()
        assert cost.received_bytes == plan.traffic.received[rank], name
        if target is not None:
            assert target.done.keys() == set(range(len(expected)))
            assert all(torch.equal(target.done[param], values.to(wire)) for param, values in enumerate(expected)), name
            target.done.clear()
    return 0 if shared is None else int((shared.starts >= 0).sum())


def check_no_room() -> None:
    """Rank 2 cannot allocate shared memory: nobody shares, and nothing is left behind."""
    shapes, cluster = hf_shapes(DENSE), Cluster(pp=4, num_engines=4)
    sources, targets = layouts(DENSE, cluster, shapes)
    rank = dist.get_rank()
    plan = PushPlan.make(sources[rank], targets[rank], shapes, 1 << 16, 4, None)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    shared = SharedArenas.open(plan.rounds, plan.nodes, torch.float32, rank, None)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert shared is None and "sppo-reshard" not in Path("/proc/self/maps").read_text(encoding="utf-8")
    if rank == 0:
        print("PASS no room", flush=True)


def check_no_name() -> None:
    """Shared memory and sockets have no name in the file system that a crash could leave behind."""
    shapes, cluster = hf_shapes(DENSE), Cluster(pp=4, num_engines=4)
    sources, targets = layouts(DENSE, cluster, shapes)
    rank = dist.get_rank()
    plan = PushPlan.make(sources[rank], targets[rank], shapes, 1 << 16, 4, None)
    shared = SharedArenas.open(plan.rounds, plan.nodes, torch.float32, rank, None)
    assert shared is not None and shared.nbytes > 0
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    segments = [line.split(maxsplit=5)[-1] for line in maps if "sppo-reshard" in line]
    assert segments == ["/memfd:sppo-reshard (deleted)"] * 4, segments
    if rank == 0:
        print("PASS no name", flush=True)


def check_disagreement() -> None:
    """Rank 2 plans with another cap: no byte may move."""
    shapes, cluster = hf_shapes(DENSE), Cluster(pp=4, num_engines=4)
    sources, targets = layouts(DENSE, cluster, shapes)
    rank = dist.get_rank()
    with pytest.raises(RuntimeError, match=r"Ranks \[2\] have planned another reshard than rank 0"):
        PushPlan.make(sources[rank], targets[rank], shapes, 4096 if rank == 2 else 8192, 4, None)
    if rank == 0:
        print("PASS disagreement", flush=True)


def main() -> None:
    dist.init_process_group("gloo")  # no Megatron: importing it would take most of the time
    for name in CASES:
        for how, machines in MACHINES.items():
            num_shared = check(name, machines, 1 << 13, torch.float32)
            check(name, machines, 1 << 16, torch.bfloat16)
            if dist.get_rank() == 0:
                print(f"PASS {name}, {how}: {num_shared} copies through shared memory", flush=True)
    check_no_room()
    check_no_name()
    check_disagreement()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
