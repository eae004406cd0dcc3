"""GPUs as their vendor describes them, and the machines that a plan is made for."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_sppo.errors import UserError

GIB = 2**30


@dataclass(frozen=True)
class GPU:
    """Memory as CUDA reports it; rates are the data sheet's, dense (without sparsity), for the SXM form."""

    name: str
    memory: float  # bytes
    bf16_flops: float  # per second
    memory_bandwidth: float  # bytes/s
    nvlink_bandwidth: float  # bytes/s, one direction


GPUS = {
    "a100": GPU("A100 80GB", 79.1 * GIB, 312e12, 2.04e12, 300e9),
    "h100": GPU("H100 80GB", 79.1 * GIB, 989e12, 3.35e12, 450e9),
    "h200": GPU("H200 141GB", 139.8 * GIB, 989e12, 4.8e12, 450e9),
    "b200": GPU("B200 180GB", 178.3 * GIB, 2250e12, 7.7e12, 900e9),
}


@dataclass(frozen=True)
class Machines:
    nodes: int
    gpus_per_node: int
    gpu: GPU

    def __post_init__(self) -> None:
        for flag, value in (("--nodes", self.nodes), ("--gpus-per-node", self.gpus_per_node)):
            if value < 1:
                raise UserError(f"{flag} {value} leaves nothing to run on: use {flag} 1 or more")

    @property
    def world_size(self) -> int:
        return self.nodes * self.gpus_per_node

    def describe(self) -> str:
        nodes = f"{self.nodes} node{'s' if self.nodes > 1 else ''}"
        return f"{nodes} x {self.gpus_per_node} {self.gpu.name} ({self.gpu.memory / 1e9:.1f} GB each) = {self.world_size} ranks"
