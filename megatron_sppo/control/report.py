"""Success over updates, mean and interval over seeds, SPPO against PPO (fig. 8 of the paper), and the numbers behind it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from megatron_sppo.analysis.drawing import finish, new_figure, png, svg
from megatron_sppo.analysis.methods import COLORS, NAMES
from megatron_sppo.control.results import WINDOW, Group, by_task, load
from megatron_sppo.control.tables import write_tables
from megatron_sppo.control.tasks import TASKS

LINES = {"sppo": "-", "ppo": "--", "ppo_bce": ":"}  # so that the curves are told apart without colour too


def write_report(run_dir: Path, out: Path) -> list[Path]:
    """``control_curves.png``, ``.svg`` and ``.csv``, ``final_success.csv``, ``tables.md`` in ``out``; UserError without runs."""
    tasks = by_task(load(run_dir))
    out.mkdir(parents=True, exist_ok=True)
    width, height = 4.4 * min(len(tasks), 3), 3.7 * -(-len(tasks) // 3)
    figure = new_figure(width, height)
    for place, (name, groups) in enumerate(tasks.items(), start=1):
        _draw(figure.add_subplot(-(-len(tasks) // 3), min(len(tasks), 3), place), name, groups)
    paths = [out / "control_curves.png", out / "control_curves.svg"]
    for path, content in zip(paths, (png(figure), svg(figure)), strict=True):
        path.write_bytes(content)
    return [*paths, *write_tables(tasks, out)]


def _draw(axes: Axes, name: str, groups: Sequence[Group]) -> None:
    for group in groups:
        label, color, line = NAMES[group.algorithm], COLORS[group.algorithm], LINES[group.algorithm]
        curve = group.curve()
        updates = range(1, len(curve) + 1)
        axes.plot(updates, [mean for mean, _, _ in curve], line, color=color, label=f"{label}, {len(group.runs)} seeds")
        axes.fill_between(updates, [low for _, low, _ in curve], [high for _, _, high in curve], color=color, alpha=0.18, lw=0)
    axes.set_ylim(-0.02, 1.02)
    axes.set_title(TASKS[name].title, fontsize=11, loc="right", pad=22)
    finish(axes, "update", f"success rate, last {WINDOW} updates")
