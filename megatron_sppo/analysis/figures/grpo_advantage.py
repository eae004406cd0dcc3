"""Fig. 3: the advantage that GRPO gives a success and a failure, by how often the prompt is solved."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from matplotlib.axes import Axes

from megatron_sppo.advantages import bernoulli_grpo, sequence_level
from megatron_sppo.analysis.compared_runs import ComparedRun
from megatron_sppo.analysis.drawing import GREY, RIGHT, WRONG, finish, legend_beside, new_figure, words
from megatron_sppo.analysis.figures.chart import Chart, Evidence, Table

EDGE = 0.02  # both forms of GRPO's advantage go to infinity at one end
MOST_DOTS = 400  # per method, drawn and written
LIMIT = 4.0
LINES = (  # in the order of the table's columns: label, colour, line, where the label stands
    ("GRPO, success", RIGHT, "-", (0.14, 2.5)),
    ("GRPO, failure", WRONG, "-", (0.62, -2.6)),
    ("SPPO, success", RIGHT, "--", (0.02, 0.5)),
    ("SPPO, failure", WRONG, "--", (0.78, -0.65)),
)
THEORY = (
    "GRPO's advantage (R - p) / sqrt(p (1 - p)) under a Bernoulli reward (the paper's app. A) against the probability p that "
    "the prompt is solved; dashed, SPPO's R - V where V = p."
)
ASSIGNED = (
    f"Right: what the runs assigned, up to {MOST_DOTS} responses each, evenly over the run; p is the mean reward of the "
    "prompt's group where the method samples one, else V. Groups are finite, so GRPO's dots lie a little off the curves; "
    "whitening moves PPO's."
)
NONE = "No run wrote the advantages that it assigned (`advantage` in calibration.jsonl)."


def draw(evidence: Evidence) -> tuple[Chart, ...]:
    theory = curves()
    assigned = Table("grpo_advantage_assigned", ("method", "run", "step", "p", "reward", "advantage"), tuple(_assigned(evidence)))
    figure = new_figure(10.5 if assigned.rows else 7.0)
    panels = figure.subplots(1, 2, sharey=True) if assigned.rows else [figure.subplots()]
    _draw_theory(panels[0], theory)
    if assigned.rows:
        _draw_theory(panels[1], theory, faint=True)
        panels[0].set_title("in theory", fontsize=10)
        panels[1].set_title("as the runs assigned it", fontsize=10)
        _draw_assigned(panels[1], assigned, evidence)
    numbers = (theory, assigned) if assigned.rows else (theory,)
    return (
        Chart("grpo_advantage", "GRPO's implicit advantage", f"{THEORY} {ASSIGNED if assigned.rows else NONE}", figure, numbers),
    )


def curves(points: int = 193) -> Table:
    p = torch.linspace(EDGE, 1 - EDGE, points, dtype=torch.float64)
    columns = (
        p,
        bernoulli_grpo(p, success=True),
        bernoulli_grpo(p, success=False),
        sequence_level(torch.ones_like(p), p),
        sequence_level(torch.zeros_like(p), p),
    )
    header = ("p", "grpo_success", "grpo_failure", "sppo_success", "sppo_failure")
    return Table("grpo_advantage", header, tuple(zip(*(column.tolist() for column in columns), strict=True)))


def _draw_theory(axes: Axes, theory: Table, *, faint: bool = False) -> None:
    p, *columns = zip(*theory.rows, strict=True)
    for (label, color, line, place), values in zip(LINES, columns, strict=True):
        axes.plot(p, values, color=color, linestyle=line, linewidth=0.8 if faint else 1.8, alpha=0.6 if faint else 1.0)
        if not faint:
            axes.text(*place, label, color=color, fontsize=9)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xlim(0, 1)
    axes.set_ylim(-LIMIT, LIMIT)
    finish(axes, "p, probability that the prompt is solved", "" if faint else "advantage of a response", legend=False)


def _assigned(evidence: Evidence) -> Iterator[tuple[object, ...]]:
    for label, runs in evidence.methods().items():
        for run in runs:
            yield from ((label, run.name, *row) for row in _rows(run))


def _rows(run: ComparedRun) -> Iterator[tuple[object, ...]]:
    """(step, p, reward, advantage), of responses evenly over the run."""
    credit = run.run.credit
    groups: dict[tuple[int, str], list[float]] = {}
    for step, prompt, reward in zip(credit.steps, credit.prompts, credit.rewards, strict=True):
        groups.setdefault((step, prompt), []).append(reward)
    stride = max(1, -(-len(credit.steps) // MOST_DOTS))
    for row in range(0, len(credit.steps), stride):
        group = groups[credit.steps[row], credit.prompts[row]]
        p = sum(group) / len(group) if len(group) > 1 else credit.values[row]
        yield credit.steps[row], p, credit.rewards[row], credit.advantages[row]


def _draw_assigned(axes: Axes, assigned: Table, evidence: Evidence) -> None:
    for label, look in evidence.looks().items():
        points = [(row[3], row[5]) for row in assigned.rows if row[0] == label]
        if points:
            axes.scatter(*zip(*points, strict=True), s=9, alpha=0.5, color=look.color, linewidths=0)
            axes.scatter([], [], s=36, color=look.color, label=words(label))  # opaque, for the legend
    legend_beside(axes)
