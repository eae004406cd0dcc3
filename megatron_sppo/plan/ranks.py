"""Which part of actor, critic and vLLM each rank holds, in words."""

from __future__ import annotations

from itertools import pairwise

from megatron_sppo.config.schema import ModelConfig
from megatron_sppo.plan.setup import Setup

MOST_LINES = 16  # one line per rank up to here, one per node beyond


def coordinates(model: ModelConfig, rank: int, world_size: int) -> dict[str, int]:
    """Megatron's order: TP fastest, then CP, DP and PP (:mod:`megatron_sppo.parallel.groups`)."""
    rest, tp = divmod(rank, model.tp)
    rest, cp = divmod(rest, model.cp)
    pp, dp = divmod(rest, world_size // (model.tp * model.cp * model.pp))
    return {"tp": tp, "cp": cp, "dp": dp, "pp": pp}


def describe_ranks(setup: Setup) -> list[str]:
    """A line per rank, or per node where there are many; training ranks and rollout ranks on lines of their own."""
    world_size, per_node = setup.machines.world_size, setup.machines.gpus_per_node
    size = 1 if world_size <= MOST_LINES else per_node
    cuts = sorted({*range(0, world_size, size), world_size, setup.train_ranks})
    return [_line(setup, range(first, end)) for first, end in pairwise(cuts)]


def _line(setup: Setup, ranks: range) -> str:
    config, node = setup.config, ranks[0] // setup.machines.gpus_per_node
    where = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]}-{ranks[-1]}"
    parts = []
    if ranks[0] < setup.train_ranks:
        parts.append(f"actor {_held(config.actor, ranks, setup.train_ranks)}")
        if setup.uses_critic:
            parts.append(f"critic {_held(config.critic, ranks, setup.train_ranks)}")
    first_engine_rank = setup.train_ranks if setup.is_separate else 0
    if ranks[0] >= first_engine_rank:
        places = [divmod(rank - first_engine_rank, config.rollout.tp) for rank in ranks]
        engines, tp_ranks = (sorted(set(values)) for values in zip(*places, strict=True))
        parts.append(f"vLLM engine {_span(engines)} tp {_span(tp_ranks)}")
    return f"node {node} {where}: {' | '.join(parts)}"


def _held(model: ModelConfig, ranks: range, world_size: int) -> str:
    """Example: ``tp 0-3 dp 0 pp 1``; dimensions of size 1 are left out."""
    at = [coordinates(model, rank, world_size) for rank in ranks]
    sizes = {"tp": model.tp, "cp": model.cp, "dp": world_size // (model.tp * model.cp * model.pp), "pp": model.pp}
    words = [f"{name} {_span(sorted({c[name] for c in at}))}" for name, size in sizes.items() if size > 1]
    return " ".join(words) or "whole"


def _span(values: list[int]) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]}-{values[-1]}"
