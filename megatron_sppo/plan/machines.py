"""The machines that a plan is made for."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_sppo.errors import UserError
from megatron_sppo.parallel.gpus import GPU


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
