"""Bytes of one push of the policy into vLLM, by the planner that the run itself uses, on declared layouts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from megatron_sppo.plan.setup import Setup
from megatron_sppo.reshard.catalogue import hf_shapes
from megatron_sppo.reshard.declared import layouts
from megatron_sppo.reshard.planner import plan_copies
from megatron_sppo.reshard.traffic import Traffic, format_bytes, gather_bytes, measure_traffic


@dataclass(frozen=True)
class Push:
    setup: Setup
    itemsize: int  # of vLLM's weights

    @cached_property
    def traffic(self) -> Traffic:
        """Of ``rollout.weight_sync=reshard``."""
        setup = self.setup
        shapes, nodes = hf_shapes(setup.actor), setup.cluster.nodes
        sources, targets = layouts(setup.actor, setup.cluster, shapes)
        copies = plan_copies(sources, targets, shapes, nodes)
        return measure_traffic(copies, sources, targets, nodes, self.itemsize)

    @property
    def gathered(self) -> int:
        """Received per rank of ``rollout.weight_sync=gather``."""
        actor = self.setup.config.actor
        return gather_bytes(hf_shapes(self.setup.actor), actor.tp, actor.pp, self.itemsize)

    @property
    def most_received(self) -> tuple[float, float]:
        """(within the node, from other nodes) of the ranks that receive most of each."""
        if self.setup.config.rollout.weight_sync == "gather":
            return float(self.gathered), 0.0
        traffic = self.traffic
        return float((traffic.received - traffic.received_across).max()), float(traffic.received_across.max())

    def describe(self) -> str:
        if self.setup.config.rollout.weight_sync == "gather":
            return f"by gathering: every rank receives {format_bytes(self.gathered)}"
        return f"by plan: {self.traffic.summary()}; gathering would bring {format_bytes(self.gathered)} to every rank"
