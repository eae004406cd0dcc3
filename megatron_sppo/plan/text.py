"""A plan as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from megatron_sppo.config import arithmetic
from megatron_sppo.plan.assumptions import GB, Assumptions
from megatron_sppo.plan.engine_memory import kv_bytes_per_token
from megatron_sppo.plan.memory import PHASES, Memory, Table, peak_of, totals
from megatron_sppo.plan.ranks import describe_ranks
from megatron_sppo.plan.setup import Setup
from megatron_sppo.plan.times import Times
from megatron_sppo.plan.traffic import Push
from megatron_sppo.plan.trainer_memory import parameters

_FIRST_COLUMN, _COLUMN = 22, 15


def render(memory: Memory, times: Times, push: Push, assumptions: Assumptions) -> str:
    """Everything but warnings and the verdict."""
    setup = memory.setup
    sections = (
        ("machines", [setup.machines.describe()]),
        ("models", _models(setup)),
        ("batch", arithmetic.explain(setup.config, setup.machines.world_size).splitlines()),
        ("ranks", describe_ranks(setup)),
        *((f"memory of the fullest {kind}, GB", [*_memory(table, memory.usable)]) for kind, table in memory.tables.items()),
        ("KV cache of an engine's rank", _kv_cache(memory)),
        ("host memory of a node, GB", _host(memory)),
        ("bytes per reshard", [push.describe()]),
        ("seconds per step, estimated", _times(times)),
        ("assumed", assumptions.describe()),
    )
    return "\n\n".join("\n".join([f"{title}:", *(f"  {line}" for line in lines)]) for title, lines in sections)


def _models(setup: Setup) -> list[str]:
    shown = [("actor", setup.actor, "lm", setup.origins[0])]
    if setup.uses_critic:
        shown.append(("critic", setup.critic, "value", setup.origins[1]))
    lines = []
    for name, hf, head, origin in shown:
        count = parameters(hf, 1, 1, "value" if head == "value" else "lm")[0]
        shape = f"{hf.num_layers} layers, hidden {hf.hidden_size}, {hf.num_heads} heads, {hf.num_kv_heads} KV heads"
        lines.append(
            f"{name}: {count / 1e9:.2f} B parameters = {count * 2 / GB:.1f} GB in bf16; {shape} ({origin.partition(': ')[2]})"
        )
    return lines


def _memory(table: Table, usable: float) -> Iterator[str]:
    yield "".join([" " * _FIRST_COLUMN, *(f"{phase:>{_COLUMN}}" for phase in PHASES)])
    for component, row in table.items():
        cells = (f"{row[phase] / GB:.2f}" if row.get(phase) else "-" for phase in PHASES)
        yield "".join([f"{component:<{_FIRST_COLUMN}}", *(f"{cell:>{_COLUMN}}" for cell in cells)])
    sums = totals(table)
    yield "".join([f"{'total':<{_FIRST_COLUMN}}", *(f"{sums[phase] / GB:>{_COLUMN}.2f}" for phase in PHASES)])
    phase, peak = peak_of(table)
    yield f"peak {peak / GB:.1f} in the {phase} phase, of {usable / GB:.1f} usable"


def _kv_cache(memory: Memory) -> list[str]:
    setup, engine = memory.setup, memory.engine
    per_token = kv_bytes_per_token(setup.actor, setup.config.rollout.tp, engine.itemsize)
    longest, half = setup.longest, setup.longest // 2
    held = f"{engine.sequences(longest)} sequences of {longest} tokens, {engine.sequences(half)} of {half}"
    return [f"{max(0.0, engine.kv_cache) / GB:.1f} GB at {per_token:,} bytes a token: {held}"]


def _host(memory: Memory) -> list[str]:
    return [f"{size / GB:.1f}  {name}" for name, size in memory.host_bytes.items()]


def _times(times: Times) -> list[str]:
    seconds, steps = times.seconds(), times.setup.config.steps
    total = sum(seconds.values())
    lines = [f"{value:8.1f}  {value / total:4.0%}  {name}" for name, value in seconds.items()]
    overlap = "" if times.step == total else f", {times.step:.1f} with rollouts beside training"
    hours = f"{steps} steps = {steps * times.step / 3600:.1f} h, without reward, validation and checkpoints"
    return [*lines, f"{total:8.1f}        in all{overlap}; {hours}"]


def verdict(problem: str, changes: Sequence[object]) -> str:
    if not problem:
        return "fits"
    if not changes:
        return f"does not fit: {problem}; no change of one or two knobs that `plan` tries makes it fit: use a smaller model"
    return f"does not fit: {problem}; the nearest changes that fit:\n" + "\n".join(f"  {change}" for change in changes)
