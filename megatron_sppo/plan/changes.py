"""Changes of a config that make it fit, the cheapest in training time first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from megatron_sppo.config.offload import LEVELS
from megatron_sppo.config.schema import Config
from megatron_sppo.errors import UserError
from megatron_sppo.plan.assumptions import Assumptions
from megatron_sppo.plan.machines import Machines
from megatron_sppo.plan.memory import Memory
from megatron_sppo.plan.setup import Setup
from megatron_sppo.plan.shapes import KNOWN

SHARES = [round(0.05 * step, 2) for step in range(1, 20)]  # of gpu_memory_utilization
MOST_NODES = 64


@dataclass(frozen=True)
class Change:
    """Knobs and their new values, and the number of nodes where that changes."""

    knobs: tuple[tuple[str, Any], ...] = ()
    nodes: int = 0

    def __str__(self) -> str:
        words = [f"{key}={_written(value)}" for key, value in self.knobs]
        return " ".join([*words, *([f"--nodes {self.nodes}"] if self.nodes else [])])

    def __add__(self, other: Change) -> Change:
        return Change(self.knobs + other.knobs, other.nodes or self.nodes)

    def applied(self, setup: Setup) -> Setup:
        """Raises UserError where the changed config could not run."""
        config: Config = setup.config
        for key, value in self.knobs:
            config = with_value(config, key, value)
        machines = replace(setup.machines, nodes=self.nodes) if self.nodes else setup.machines
        return Setup.of(config, machines)


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def with_value(config: Any, key: str, value: Any) -> Any:
    """A copy of a nested frozen config with one leaf changed."""
    head, _, rest = key.partition(".")
    assert is_dataclass(config) and any(field.name == head for field in fields(config)), f"no knob {key}"
    return replace(config, **{head: with_value(getattr(config, head), rest, value) if rest else value})  # type: ignore[type-var]


def fits(setup: Setup, change: Change, assumptions: Assumptions) -> bool:
    try:
        return not Memory(change.applied(setup), assumptions).problem()
    except UserError:
        return False


def candidates(config: Config, machines: Machines) -> list[Change]:
    """Single changes, those that cost least time first: what waits on the host, vLLM's share, what is computed anew, finer cuts,
    more machines.
    """
    more = () if config.offload == "auto" else LEVELS[LEVELS.index(config.offload) + 1 :]
    found = [Change((("offload", level),)) for level in more]
    found += [Change((("rollout.gpu_memory_utilization", share),)) for share in _near(config.rollout.gpu_memory_utilization)]
    found += [Change((knob,)) for knob in _cheap(config)]
    for name in ("actor", "critic"):
        model = getattr(config, name)
        found += [Change(((f"{name}.tp", model.tp * factor),)) for factor in (2, 4, 8)]
    found += [Change((("rollout.tp", config.rollout.tp * factor),)) for factor in (2, 4, 8)]
    found += [Change(((f"actor.{knob}", getattr(config.actor, knob) * 2),)) for knob in ("pp", "cp")]
    found += [Change((("critic.path", path),)) for path in smaller_models(config.critic.path or config.actor.path)]
    nodes = machines.nodes * 2
    while nodes <= MOST_NODES:
        found.append(Change(nodes=nodes))
        nodes *= 2
    return found


def _near(share: float) -> list[float]:
    return sorted((other for other in SHARES if other != share), key=lambda other: abs(other - share))


def _cheap(config: Config) -> Iterator[tuple[str, Any]]:
    if not config.rollout.sleep:
        yield "rollout.sleep", True
    for name in ("actor", "critic"):
        model = getattr(config, name)
        if not model.optimizer.distributed:
            yield f"{name}.optimizer.distributed", True
        if model.tp > 1 and not model.sequence_parallel:
            yield f"{name}.sequence_parallel", True
        if model.logprob_chunk_tokens > 256:
            yield f"{name}.logprob_chunk_tokens", 256
        if model.recompute != "full":
            yield f"{name}.recompute", "full"
        for factor in (2, 4):
            yield f"{name}.micro_batch_tokens", max(1, model.micro_batch_tokens // factor)


def smaller_models(path: str) -> list[str]:
    """Known models of the same series, which have the same tokenizer, the largest first: ``a/X-1.5B`` for ``a/X-7B``."""
    folder = Path(path)
    series = folder.name.rpartition("-")[0]
    same = [name for name in KNOWN if series and name.rpartition("-")[0] == series]  # by size
    below = same[: same.index(folder.name)] if folder.name in same else []
    return [str(folder.parent / name) for name in reversed(below)]


def nearest(setup: Setup, assumptions: Assumptions, wanted: int = 2) -> list[Change]:
    """The first single changes that fit, then, where there are too few, pairs that need each other; of each kind one."""
    singles = candidates(setup.config, setup.machines)
    enough = [change for change in singles if fits(setup, change, assumptions)]
    found = _one_of_each_kind(enough, wanted)
    if len(found) < wanted:
        rest = [change for change in singles if change not in enough]
        order = sorted(combinations(range(len(rest)), 2), key=sum)
        pairs = [rest[a] + rest[b] for a, b in order if _kind(rest[a]) != _kind(rest[b])]
        pairs.sort(key=lambda pair: pair.nodes)  # stable: machines last
        found += _one_of_each_kind((pair for pair in pairs if fits(setup, pair, assumptions)), wanted - len(found))
    return found


def _one_of_each_kind(changes: Iterable[Change], wanted: int) -> list[Change]:
    """The first of ``changes``, as many as are wanted; of an iterator no more are tried than needed."""
    found: list[Change] = []
    for change in changes:
        if _kind(change) not in map(_kind, found):
            found.append(change)
        if len(found) == wanted:
            break
    return found


def _kind(change: Change) -> tuple[Any, ...]:
    return tuple(key for key, _ in change.knobs), bool(change.nodes)
