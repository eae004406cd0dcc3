"""Fig. 7: V of a prompt against how often the policy solves it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from megatron_sppo import metrics
from megatron_sppo.analysis.compared_runs import ComparedRun
from megatron_sppo.analysis.drawing import BLUE, GREY, RED, SKY, finish, new_figure
from megatron_sppo.analysis.figures.chart import Chart, Evidence, NotDrawn, Table, file_name
from megatron_sppo.analysis.intervals import correlation_interval
from megatron_sppo.analysis.probe_files import ProbedPrompt, read_prompts

BINS = 20
PAPER = (
    "In brackets the 95 % interval of Pearson's r by Fisher's z. The paper's 7B critic: Pearson 0.642, Spearman 0.664 on 200 "
    "prompts, k = 64."
)


@dataclass(frozen=True)
class Fit:
    """V against AVG@k: correlations, and the least-squares line V = intercept + slope x AVG@k."""

    pearson: float
    low: float
    high: float
    spearman: float
    slope: float
    intercept: float
    deviation_of_value: float  # standard deviations over prompts: a critic that says the same of all has none
    deviation_of_avg: float

    @classmethod
    def of(cls, prompts: Sequence[ProbedPrompt]) -> Fit:
        rates_P = torch.tensor([found.rate for found in prompts], dtype=torch.float64)
        values_P = torch.tensor([found.value for found in prompts], dtype=torch.float64)
        pearson = metrics.pearson(rates_P, values_P)
        low, high = correlation_interval(pearson, len(prompts))
        deviations = values_P.std().item(), rates_P.std().item()
        slope = pearson * deviations[0] / deviations[1] if deviations[1] > 0 else math.nan
        intercept = (values_P.mean() - slope * rates_P.mean()).item()
        return cls(pearson, low, high, metrics.spearman(rates_P, values_P), slope, intercept, *deviations)


def draw(evidence: Evidence) -> tuple[Chart, ...]:
    probed = [(run, found) for run in evidence.runs if (found := read_prompts(run.folder))]
    if not probed:
        raise NotDrawn("no run folder has critic_probe/prompts.jsonl")
    return tuple(_chart(run, prompts, alone=len(probed) == 1) for run, prompts in probed)


def _chart(run: ComparedRun, prompts: Sequence[ProbedPrompt], *, alone: bool) -> Chart:
    fit, name = Fit.of(prompts), "value_vs_success" if alone else file_name("value_vs_success", run.name)
    counts = sorted({found.samples for found in prompts})
    k = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    figure = new_figure(6.6, 5.8)
    _draw(figure, prompts, fit, k)
    rows = tuple((found.prompt, found.rate, found.value, found.successes, found.samples) for found in prompts)
    numbers = Table(name, ("prompt", "avg", "value", "successes", "samples"), rows)
    header = ("run", "prompts", "k", "pearson", "low", "high", "spearman", "slope", "intercept", "sd of V", "sd of AVG@k")
    row = (run.name, len(prompts), k, *astuple(fit))
    caption = f"V of each held-out prompt against the share of its responses that are right, with the histograms of both. {PAPER}"
    title = f"V against success: {run.method}, seed {run.seed}"
    return Chart(name, title, caption, figure, (numbers,), (Table(f"{name}_fit", header, (row,)),))


def _draw(figure: Figure, prompts: Sequence[ProbedPrompt], fit: Fit, k: str) -> None:
    grid = figure.add_gridspec(2, 2, width_ratios=(5, 1.2), height_ratios=(1, 5))
    axes = figure.add_subplot(grid[1, 0])
    top, right = figure.add_subplot(grid[0, 0], sharex=axes), figure.add_subplot(grid[1, 1], sharey=axes)
    rates, values = [found.rate for found in prompts], [found.value for found in prompts]
    low, high = min(0.0, *values), max(1.0, *values)  # a critic of returns is not bound to [0, 1]
    axes.scatter(rates, values, s=18, color=BLUE, alpha=0.45, linewidths=0, zorder=3)
    axes.plot((0, 1), (fit.intercept, fit.intercept + fit.slope), color=RED, linewidth=2, label="least squares")
    axes.plot((0, 1), (0, 1), color=GREY, linestyle=":", linewidth=1.2, label="V = AVG@k", zorder=1)
    top.hist(rates, bins=BINS, range=(0, 1), color=SKY)
    right.hist(values, bins=BINS, range=(low, high), color=SKY, orientation="horizontal")
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(low - 0.03, high + 0.03)
    finish(axes, f"AVG@k, share of k = {k} responses that are right", "V(s_p)", legend=False)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.13), ncols=2, frameon=False, fontsize=9)
    _margins(top, right)
    corner = figure.add_subplot(grid[0, 1])
    corner.set_axis_off()
    corner.text(-0.25, 1, _correlations(fit, len(prompts)), va="top", fontsize=8.5, transform=corner.transAxes)


def _correlations(fit: Fit, count: int) -> str:
    interval = "" if math.isnan(fit.low) else f"\n({fit.low:.2f} to {fit.high:.2f})"
    return f"Pearson {fit.pearson:.3f}{interval}\nSpearman {fit.spearman:.3f}\nn = {count}"


def _margins(top: Axes, right: Axes) -> None:
    for axes, kept in ((top, "left"), (right, "bottom")):
        axes.spines[["top", "right", "left" if kept == "bottom" else "bottom"]].set_visible(False)
        axes.tick_params(labelsize=8)
    top.tick_params(labelbottom=False)
    right.tick_params(labelleft=False)
    top.set_ylabel("prompts", fontsize=8)
    right.set_xlabel("prompts", fontsize=8)
