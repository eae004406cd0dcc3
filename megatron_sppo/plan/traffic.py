"""Bytes of one push of the policy into vLLM, by the planner that the run itself uses, on declared layouts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from megatron_sppo.plan.setup import Setup
from megatron_sppo.reshard.catalogue import hf_shapes
from megatron_sppo.reshard.report import PlanReport, plan_report
from megatron_sppo.reshard.traffic import Traffic, format_bytes, gather_bytes


@dataclass(frozen=True)
class Push:
    setup: Setup
    itemsize: int  # of vLLM's weights

    @cached_property
    def report(self) -> PlanReport:
        """Of ``rollout.weight_sync=reshard``."""
        cap = int(self.setup.config.rollout.reshard_cap_mib * 2**20)
        return plan_report(self.setup.actor, self.setup.cluster, cap, self.itemsize)

    @property
    def traffic(self) -> Traffic:
        return self.report.traffic

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
        moved = f"by plan: {self.traffic.summary()} in {self.report.num_rounds} rounds"
        return f"{moved}; gathering would bring {format_bytes(self.gathered)} to every rank"
