"""The memory model's result for several configs, for the report's figure of memory by component and critic size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megatron_sppo.analysis.figures.chart import Planned
from megatron_sppo.config.load import load_config
from megatron_sppo.config.schema import Config
from megatron_sppo.errors import UserError
from megatron_sppo.parallel.gpus import GPUS
from megatron_sppo.plan.assumptions import Assumptions
from megatron_sppo.plan.machines import Machines
from megatron_sppo.plan.memory import PHASES, Memory, Table, peak_of
from megatron_sppo.plan.setup import Setup


def planned(configs: Sequence[str], nodes: int, gpus_per_node: int, gpu: str) -> tuple[Planned, ...]:
    """Of each ``CONFIG`` or ``LABEL=CONFIG``, on the rank that needs most; UserError for what could not run."""
    if gpu not in GPUS:
        raise UserError(f"--gpu {gpu} is none that is known: use one of {', '.join(GPUS)}")
    machines = Machines(nodes, gpus_per_node, GPUS[gpu])
    return tuple(_planned(word, machines) for word in configs)


def _planned(word: str, machines: Machines) -> Planned:
    label, equals, path = word.partition("=")
    if not equals or Path(word).exists():
        label, path = "", word
    memory = Memory(Setup.of(load_config(Config, [Path(path)]), machines), Assumptions())
    return Planned(label or Path(path).stem, by_phase(max(memory.tables.values(), key=lambda table: peak_of(table)[1])))


def by_phase(table: Table) -> dict[str, dict[str, float]]:
    return {phase: {component: row[phase] for component, row in table.items() if phase in row} for phase in PHASES}
