"""The plan of a push, made by each rank for itself from the layouts of all."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from megatron_sppo.reshard.boxes import RankLayout, Shapes
from megatron_sppo.reshard.copies import Copies
from megatron_sppo.reshard.planner import plan_copies
from megatron_sppo.reshard.rounds import Rounds, make_rounds, plan_digest
from megatron_sppo.reshard.traffic import Traffic, measure_traffic


@dataclass(frozen=True)
class PushPlan:
    """The same on every rank of the job."""

    local: Copies
    rounds: Rounds
    traffic: Traffic
    nodes: tuple[int, ...]  # each rank's machine, by number

    @classmethod
    def make(
        cls, source: RankLayout, target: RankLayout, shapes: Shapes, cap: int, itemsize: int, group: dist.ProcessGroup | None
    ) -> PushPlan:
        """From this rank's layouts. ``cap``: bytes that a rank sends or receives in one round. Collective over ``group``
        (host).
        """
        everyone: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(everyone, (source, target, socket.gethostname()), group=group)
        sources, targets, hosts = map(list, zip(*everyone, strict=True))
        nodes = tuple(sorted(set(hosts)).index(host) for host in hosts)
        copies = plan_copies(sources, targets, shapes, nodes)
        stays = copies.is_local
        rounds = make_rounds(copies.take(~stays), len(nodes), cap // itemsize)
        plan = cls(copies.take(stays), rounds, measure_traffic(copies, sources, targets, nodes, itemsize), nodes)
        plan.check_agreement(group)
        return plan

    def check_agreement(self, group: dist.ProcessGroup | None) -> None:
        """RuntimeError where a rank has made another plan: the first byte would hang the job. Collective."""
        digests: list[str] = [""] * dist.get_world_size(group)
        dist.all_gather_object(digests, plan_digest(self.local, self.rounds), group=group)
        others = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
        if others:
            raise RuntimeError(
                f"Ranks {others} have planned another reshard than rank 0; they must run the same code and config."
            )
