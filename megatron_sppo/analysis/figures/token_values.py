"""Figs. 1 and 9: V along right and wrong responses; and the measure of it, how early V tells them apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest

import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from megatron_sppo.analysis.compared_runs import ComparedRun
from megatron_sppo.analysis.drawing import INK, RIGHT, WRONG, finish, legend_beside, new_figure, words
from megatron_sppo.analysis.figures.chart import Chart, Evidence, NotDrawn, Table, file_name
from megatron_sppo.analysis.probe_files import Trajectory, read_prompts, read_trajectories
from megatron_sppo.analysis.separation import POSITIONS, Separation, mixed

PANELS = 10
MOST_LINES = 8  # of each colour in a panel
MOST_POINTS = 100  # of a line
SEPARATION = (
    "The chance that V of a right response is above V of a wrong one at the same share of their lengths, ties counting half. "
    "Solid: pairs of responses to the same problem, where knowing which problems are hard does not help; band: 95 % by "
    "bootstrap over problems. Dashed: all pairs. A critic that tells right from wrong only near the tail stays at 0.5 (solid) "
    "and rises at the end; one that reads the prompt alone is at 0.5 by construction."
)


def draw(evidence: Evidence) -> tuple[Chart, ...]:
    probed = {run.name: (run, read_trajectories(run.folder)) for run in evidence.runs}
    probed = {name: found for name, found in probed.items() if found[1]}
    if not probed:
        raise NotDrawn("no run folder has critic_probe/trajectories.jsonl")
    panels = [
        _panels(run, trajectories, alone=len(probed) == 1)
        for run, trajectories in probed.values()
        if all(found.per_token for found in trajectories) and mixed(trajectories)
    ]
    return (*panels, _separation(list(probed.values()), evidence))


def _panels(run: ComparedRun, trajectories: Sequence[Trajectory], *, alone: bool) -> Chart:
    problems = mixed(trajectories)
    chosen = chosen_problems(list(problems))
    columns = min(5, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = new_figure(2.3 * columns + 0.6, 2.0 * rows + 0.9)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    name = "token_values" if alone else file_name("token_values", run.name)
    rates = {found.prompt: f", AVG@{found.samples} {found.rate:.2f}" for found in read_prompts(run.folder)}
    numbers: list[tuple[object, ...]] = []
    for place, axes in enumerate(grid.flat):
        if place >= len(chosen):
            axes.set_axis_off()
            continue
        numbers += _panel(axes, chosen[place], problems[chosen[place]])
        axes.set_title(f"{words(chosen[place])}{rates.get(chosen[place], '')}", fontsize=8)
        _finish_panel(axes, place, rows, columns)
    handles = [Line2D([], [], color=RIGHT, label="right response"), Line2D([], [], color=WRONG, label="wrong response")]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    caption = (
        f"V(s_t) of the token-level critic of {run.method} (seed {run.seed}) along right (blue) and wrong (red) responses; 0 is "
        f"V of the prompt alone, 1 is V before the last token. {len(chosen)} of the {len(problems)} problems with responses of "
        f"both kinds, drawn at random (seed 0); at most {MOST_LINES} responses of each kind, each at no more than {MOST_POINTS} "
        "places."
    )
    title = f"V along responses: {run.method}, seed {run.seed}"
    return Chart(
        name, title, caption, figure, (Table(name, ("prompt", "response", "reward", "position", "value"), tuple(numbers)),)
    )


def chosen_problems(prompts: list[str]) -> list[str]:
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(0)).tolist()
    return [prompts[place] for place in sorted(order[:PANELS])]


def _panel(axes: Axes, prompt: str, problem: Sequence[Trajectory]) -> list[tuple[object, ...]]:
    """Draws, and returns what it drew."""
    rows: list[tuple[object, ...]] = []
    kinds = [[found for found in problem if found.right == right][:MOST_LINES] for right in (True, False)]
    for number, pair in enumerate(zip_longest(*kinds)):  # in turn, so that no colour hides the other
        for trajectory in filter(None, pair):
            positions = _positions(len(trajectory.values))
            values = [trajectory.at(position) for position in positions]
            axes.plot(positions, values, color=RIGHT if trajectory.right else WRONG, linewidth=1.0, alpha=0.75)
            rows += [(prompt, number, int(trajectory.right), x, y) for x, y in zip(positions, values, strict=True)]
    return rows


def _positions(num_values: int) -> list[float]:
    count = min(num_values, MOST_POINTS)
    return [place / (count - 1) for place in range(count)] if count > 1 else [0.0]


def _finish_panel(axes: Axes, place: int, rows: int, columns: int) -> None:
    bottom, left = place // columns == rows - 1, place % columns == 0
    finish(axes, "share of the response" if bottom else "", "V(s_t)" if left else "", legend=False)
    axes.xaxis.label.set_fontsize(9)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.tick_params(labelsize=8)


def _separation(probed: Sequence[tuple[ComparedRun, Sequence[Trajectory]]], evidence: Evidence) -> Chart:
    figure = new_figure(8.6)
    axes, looks, rows = figure.subplots(), evidence.looks(), []
    for run, trajectories in probed:
        found, look = Separation.of(trajectories), looks[run.method]
        label = f"{words(run.method)}, seed {run.seed}"
        axes.plot(POSITIONS, found.within, color=look.color, linewidth=2, label=f"{label}: same problem")
        axes.fill_between(POSITIONS, found.low, found.high, color=look.color, alpha=0.13, linewidth=0)
        axes.plot(POSITIONS, found.pooled, color=look.color, linewidth=1.2, linestyle="--", label=f"{label}: all pairs")
        columns = (POSITIONS, found.within, found.low, found.high, found.pooled)
        rows += [(run.name, *point, found.num_problems, found.num_responses) for point in zip(*columns, strict=True)]
    axes.axhline(0.5, color=INK, linestyle=":", linewidth=1)
    axes.annotate("chance", (1, 0.5), (-2, 3), textcoords="offset points", ha="right", fontsize=8, color=INK)
    lowest = min((value for row in rows for value in (row[2], row[5]) if not math.isnan(value)), default=0.5)
    axes.set_ylim(0.4 if lowest > 0.4 else -0.01, 1.01)
    finish(axes, "share of the response that V has read", "AUROC of V, right against wrong", legend=False)
    legend_beside(axes)
    header = ("run", "position", "within", "low", "high", "pooled", "problems", "responses")
    numbers = Table("token_values_auroc", header, tuple(rows))
    return Chart("token_values_auroc", "How early V tells right from wrong", SEPARATION, figure, (numbers,), (_ends(numbers),))


def _ends(numbers: Table) -> Table:
    header = ("run", *(f"AUROC at {at}" for at in (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)), "problems", "responses")
    rows: dict[str, list[object]] = {}
    for run, position, within, *_, problems, responses in numbers.rows:
        if position in {0.0, 0.25, 0.5, 0.75, 0.9, 1.0}:
            rows.setdefault(run, []).append(within)
        if position == 1.0:
            rows[run] += [problems, responses]
    return Table("token_values_auroc_summary", header, tuple((run, *cells) for run, cells in rows.items()))
