"""Fig. 6: memory of a GPU by component, with a critic as large as the policy and with a smaller one."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from matplotlib.axes import Axes

from megatron_sppo.analysis.drawing import INK, finish, legend_beside, new_figure, words
from megatron_sppo.analysis.figures.chart import Chart, Evidence, NotDrawn, Planned, Table

GB = 1e9
ROLLOUT, CACHE = "rollout", "vLLM KV cache"
PARTS: Mapping[str, tuple[str, tuple[str, ...]]] = {  # shown -> colour, components of the memory model
    "actor: weights": ("#003f66", ("actor weights",)),
    "actor: gradients": ("#0072B2", ("actor gradients",)),
    "actor: optimizer": ("#7fb8d8", ("actor optimizer",)),
    "critic: weights": ("#8a3d00", ("critic weights",)),
    "critic: gradients": ("#D55E00", ("critic gradients",)),
    "critic: optimizer": ("#f0b48c", ("critic optimizer",)),
    "vLLM: weights, work": ("#00664a", ("vLLM weights", "vLLM activations", "vLLM CUDA graphs")),
    "vLLM: KV cache": ("#8fd3be", (CACHE,)),
    "activations, logits": ("#CC79A7", ("activations", "logits in chunks")),
}
REST = ("all else", "#999999")
CAPTION = (
    "Computed by the memory model of `megatron-sppo plan`, not measured: one GPU, the rank that needs most, while vLLM "
    "generates and in the fullest of the other phases. The KV cache takes what rollout.gpu_memory_utilization gives it, so a "
    "config can hand to the cache what a smaller critic frees; the table says what is saved at an equal cache too. The paper "
    "reports 12.8 % less at the peak for 7B + 1.5B against 7B + 7B."
)


def draw(evidence: Evidence) -> tuple[Chart, ...]:
    if not evidence.planned:
        raise NotDrawn("no configs to plan were given: --plan CONFIG CONFIG, the one with the larger critic first")
    numbers = bars(evidence.planned)
    figure = new_figure(8.6, 4.6)
    _stack(figure.subplots(), numbers)
    savings = saving(evidence.planned)
    shown = (savings,) if savings.rows else ()
    return (Chart("memory", "Memory by component and critic size", CAPTION, figure, (numbers,), shown),)


def shown_phases(plan: Planned) -> tuple[str, str]:
    """The rollout, and the fullest of the others."""
    others = [phase for phase in plan.phases if phase != ROLLOUT]
    return ROLLOUT, max(others, key=lambda phase: sum(plan.phases[phase].values()))


def parts(components: Mapping[str, float]) -> dict[str, float]:
    """Bytes of each shown part; what the table does not name is in the rest."""
    found = {name: sum(components.get(part, 0.0) for part in held) for name, (_, held) in PARTS.items()}
    return {**found, REST[0]: sum(components.values()) - sum(found.values())}


def bars(planned: tuple[Planned, ...]) -> Table:
    rows = []
    for rank in (0, 1):  # rollouts side by side, then training
        for plan in planned:
            phase = shown_phases(plan)[rank]
            rows += [(plan.label, phase, part, size / GB) for part, size in parts(plan.phases[phase]).items()]
    return Table("memory", ("config", "phase", "part", "gigabytes"), tuple(rows))


def saving(planned: tuple[Planned, ...]) -> Table:
    """Each config against the first: at its peak, had it the first's KV cache, and at its peak outside of rollouts."""
    measures = [_peaks(plan, planned[0]) for plan in planned]
    header = (
        "config",
        "peak, GB",
        "saved, %",
        "with the first's KV cache, GB",
        "saved, %",
        "peak outside of rollouts, GB",
        "saved, %",
    )
    rows = []
    for plan, found in zip(planned, measures, strict=True):
        cells = [(size / GB, 100 * (1 - size / first)) for size, first in zip(found, measures[0], strict=True)]
        rows.append((plan.label, *(value for cell in cells for value in cell)))
    return Table("memory_saving", header, tuple(rows))


def _peaks(plan: Planned, first: Planned) -> tuple[float, float, float]:
    sizes = {phase: sum(components.values()) for phase, components in plan.phases.items()}
    others = max(size for phase, size in sizes.items() if phase != ROLLOUT)
    more = plan.phases[ROLLOUT].get(CACHE, 0.0) - first.phases[ROLLOUT].get(CACHE, 0.0)
    return max(sizes.values()), max(others, sizes[ROLLOUT] - more), others


def _stack(axes: Axes, numbers: Table) -> None:
    labels = list(dict.fromkeys((config, phase) for config, phase, _, _ in numbers.rows))
    bottom = [0.0] * len(labels)
    colors = {name: color for name, (color, _) in PARTS.items()} | {REST[0]: REST[1]}
    for part, color in colors.items():
        sizes = [size for _, _, name, size in numbers.rows if name == part]
        if any(sizes):
            axes.bar(
                range(len(labels)), sizes, bottom=bottom, width=0.66, color=color, label=part, edgecolor="white", linewidth=0.6
            )
        bottom = [low + size for low, size in zip(bottom, sizes, strict=True)]
    for place, total in enumerate(bottom):
        axes.annotate(f"{total:.1f}", (place, total), (0, 4), textcoords="offset points", ha="center", weight="bold", color=INK)
    axes.set_ylim(0, 1.1 * max(bottom))
    finish(axes, "", "GB per GPU", legend=False)
    axes.set_axisbelow(True)
    _name_bars(axes, labels)
    legend_beside(axes, reverse=True)  # from the top, as the bars


def _name_bars(axes: Axes, labels: list[tuple[str, str]]) -> None:
    axes.set_xticks(range(len(labels)), [f"{words(config)}\n{phase}" for config, phase in labels], fontsize=9)
    axes.grid(visible=False, axis="x")
    for place, (left, right) in enumerate(pairwise(labels)):
        if (left[1] == ROLLOUT) != (right[1] == ROLLOUT):
            axes.axvline(place + 0.5, color=INK, linewidth=0.6, linestyle=":")
