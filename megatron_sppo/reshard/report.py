"""A reshard planned from declared layouts, without a model: what it would move, in words, and how to make it cheaper."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from megatron_sppo.models.hf_config import HFModelConfig
from megatron_sppo.reshard.alias import aliasable_share
from megatron_sppo.reshard.catalogue import hf_shapes
from megatron_sppo.reshard.declared import VLLM_VOCAB_MULTIPLE, Cluster, layouts
from megatron_sppo.reshard.planner import plan_copies
from megatron_sppo.reshard.rounds import make_rounds
from megatron_sppo.reshard.traffic import Traffic, format_bytes, gather_bytes, measure_traffic


@dataclass(frozen=True)
class PlanReport:
    """One reshard of one model on one cluster."""

    cluster: Cluster
    traffic: Traffic
    num_rounds: int
    seconds: float  # that planning took
    gather_bytes: int  # received per rank where each gathers the whole model
    aliasable: float  # smallest share of an engine rank's elements that could be the trainer's own memory

    def row(self) -> dict[str, object]:
        """What tables and JSON show."""
        engine = self.traffic.needed > 0
        return {
            "needed_per_rank": int(self.traffic.needed.max()),
            "received_per_rank_max": int(self.traffic.received.max()),
            "received_per_rank_mean": float(self.traffic.received[engine].mean()),
            "received_across_nodes": int(self.traffic.received_across.sum()),
            "minimum_per_rank_max": int(self.traffic.minimum.max()),
            "gather_per_rank": self.gather_bytes,
            "ratio_to_minimum": self.traffic.ratio_to_minimum,
            "copies": self.traffic.num_copies,
            "rounds": self.num_rounds,
            "planning_seconds": self.seconds,
            "aliasable_share": self.aliasable,
        }


def plan_report(hf: HFModelConfig, cluster: Cluster, cap: int, itemsize: int = 2) -> PlanReport:
    """``cap``: bytes per round and direction of a rank; ``itemsize`` of an element on the wire.

    Raises UserError where the model cannot be cut as the cluster says.
    """
    shapes = hf_shapes(hf)
    sources, targets = layouts(hf, cluster, shapes)
    started = time.perf_counter()
    copies = plan_copies(sources, targets, shapes, cluster.nodes)
    rounds = make_rounds(copies.take(~copies.is_local), cluster.world_size, cap // itemsize)
    seconds = time.perf_counter() - started
    traffic = measure_traffic(copies, sources, targets, cluster.nodes, itemsize)
    engines = [rank for rank, target in enumerate(targets) if len(target.boxes)]
    return PlanReport(
        cluster,
        traffic,
        rounds.num_rounds,
        seconds,
        gather_bytes(shapes, cluster.tp, cluster.pp, itemsize),
        min(aliasable_share(sources[rank], targets[rank]) for rank in engines),
    )


def _changes(cluster: Cluster) -> list[tuple[str, Cluster]]:
    """Layouts that train and roll out as well as ``cluster`` and may move less, each with what to do."""
    found: list[tuple[str, Cluster]] = []
    if cluster.order == "tp-dp-pp" and cluster.pp > 1 and cluster.dp > 1 and cluster.ep * cluster.expert_tp in {1, cluster.tp}:
        found.append(("rank order tp-pp-dp (the stages of a replica side by side)", replace(cluster, order="tp-pp-dp")))
    if cluster.tp == cluster.rollout_tp and VLLM_VOCAB_MULTIPLE % cluster.tp == 0:
        multiple = VLLM_VOCAB_MULTIPLE // cluster.tp
        found.append((f"a vocabulary padded to a multiple of {VLLM_VOCAB_MULTIPLE}", replace(cluster, vocab_multiple=multiple)))
    engines, rest = divmod(cluster.num_rollout_ranks, cluster.tp)
    if cluster.tp != cluster.rollout_tp and not rest and not cluster.separate:
        same = replace(cluster, rollout_tp=cluster.tp, num_engines=engines)
        found.append((f"rollout TP {cluster.tp} as in training ({engines} engines)", same))
    return found


def advise(hf: HFModelConfig, report: PlanReport, cap: int, itemsize: int = 2) -> list[str]:
    """A sentence for each change that would save at least a hundredth of the bytes received, or of those from other nodes."""
    advice = []
    now, now_across = report.traffic.received.sum(), report.traffic.received_across.sum()
    for what, cluster in _changes(report.cluster):
        then = plan_report(hf, cluster, cap, itemsize).traffic
        received, across = then.received.sum(), then.received_across.sum()
        if received < 0.99 * now or across < 0.99 * now_across:
            from_others = f", {format_bytes(across)} instead of {format_bytes(now_across)} from other nodes"
            advice.append(
                f"{what}: {format_bytes(received)} received by all ranks instead of {format_bytes(now)}"
                f"{from_others if across or now_across else ''}"
            )
    if report.aliasable == 1.0:
        advice.append(
            "every parameter has the same layout on both sides: rollout.alias_weights=true saves the copy in memory too"
        )
    return advice
