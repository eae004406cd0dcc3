"""The plots of a run: one function per figure, and the table that lists them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from megatron_sppo.analysis.drawing import BLUE, CYCLE, GREY, ORANGE, RED, SKY, finish, moving_mean, words
from megatron_sppo.analysis.intervals import wilson_interval
from megatron_sppo.analysis.run_files import Accuracy, Run, Series
from megatron_sppo.metrics import reliability

PHASES = ("rollout", "reward", "value", "old_logprobs", "reference_logprobs", "critic_update", "actor_update", "reshard")


@dataclass(frozen=True)
class Plot:
    name: str  # file name without ".png"
    title: str
    draw: Callable[[Figure, Run], bool]  # False: the run has nothing to draw here


def draw_reward(figure: Figure, run: Run) -> bool:
    reward = run.series.get("reward/mean")
    if reward is None:
        return False
    axes = figure.subplots()
    window = max(1, len(reward.steps) // 20)
    axes.plot(reward.steps, reward.values, color=SKY, linewidth=1, alpha=0.7, label="reward of a step")
    if window > 1:
        axes.plot(reward.steps, moving_mean(reward.values, window), color=BLUE, linewidth=2, label=f"mean of {window} steps")
    if value := run.series.get("critic/value_mean"):
        axes.plot(value.steps, value.values, color=ORANGE, linewidth=1.5, linestyle="--", label="V, before the update")
    axes.set_ylim(0, 1)
    return finish(axes, "step", "mean over the step's responses")


def draw_accuracy(figure: Figure, run: Run) -> bool:
    if not run.validations:
        return False
    axes = figure.subplots()
    for (label, points), color in zip(run.validations.items(), CYCLE * len(run.validations), strict=False):
        axes.errorbar(
            [point.step for point in points],
            [point.mean for point in points],
            yerr=_error_bars(points),
            color=color,
            marker="o",
            markersize=4,
            capsize=3,
            linewidth=1.5,
            label=words(label),
        )
        if len(run.validations) <= 3:
            _mark_before_and_after(axes, points, color)
    axes.margins(x=0.12, y=0.25)
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return finish(axes, "step", "held-out accuracy, 95 % interval")


def draw_calibration(figure: Figure, run: Run) -> bool:
    """Mean reward against V, early and late in the run; without per-response rows, a point per step."""
    axes = figure.subplots()
    noun = "prompt"
    if run.calibration.steps:
        steps = torch.tensor(run.calibration.steps)
        values = torch.tensor(run.calibration.values, dtype=torch.float64)
        rewards = torch.tensor(run.calibration.rewards, dtype=torch.float64)
        middle = (int(steps.min()) + int(steps.max())) / 2
        for label, chosen, color in (("first half", steps <= middle, ORANGE), ("second half", steps > middle, BLUE)):
            if chosen.any():
                _draw_reliability(axes, values[chosen], rewards[chosen], f"{label} of the run", color)
    elif {"critic/value_mean", "reward/mean"} <= run.series.keys():
        value = dict(zip(run.series["critic/value_mean"].steps, run.series["critic/value_mean"].values, strict=True))
        reward = dict(zip(run.series["reward/mean"].steps, run.series["reward/mean"].values, strict=True))
        common = sorted(value.keys() & reward.keys())
        points = axes.scatter([value[s] for s in common], [reward[s] for s in common], c=common, cmap="viridis", s=14)
        figure.colorbar(points, ax=axes, label="step")
        noun = "step, mean over its responses"
    else:
        return False
    axes.plot((0, 1), (0, 1), color=GREY, linestyle=":", label="calibrated")
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    return finish(axes, f"V of the {noun}", "mean reward")


def draw_time(figure: Figure, run: Run) -> bool:
    total = run.series.get("time/step")
    if total is None:
        return False
    axes = figure.subplots()
    layers = {phase: _aligned(run.series.get(f"time/{phase}"), total.steps) for phase in PHASES}
    layers = {phase: seconds for phase, seconds in layers.items() if any(seconds)}
    rest = [max(0.0, whole - sum(parts)) for whole, *parts in zip(total.values, *layers.values(), strict=True)]
    layers["other"] = rest  # curriculum, wake and sleep, and what is in no phase: metrics, sinks, waiting
    colors = [*CYCLE[: len(layers) - 1], "#444444"]
    if len(total.steps) > 40:
        axes.stackplot(total.steps, *layers.values(), labels=list(layers), colors=colors, linewidth=0)
    else:
        bottom = [0.0] * len(total.steps)
        for (phase, seconds), color in zip(layers.items(), colors, strict=True):
            axes.bar(total.steps, seconds, bottom=bottom, width=0.85, label=phase, color=color)
            bottom = [low + high for low, high in zip(bottom, seconds, strict=True)]
    axes.set_ylim(0, 1.15 * sorted(total.values)[math.ceil(0.98 * len(total.values)) - 1])
    cut = max(total.values) > axes.get_ylim()[1]
    finish(axes, "step", f"seconds (slowest step: {max(total.values):.0f} s, cut off)" if cut else "seconds", legend=False)
    axes.legend(*_reversed_legend(axes), loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    return True


def draw_length(figure: Figure, run: Run) -> bool:
    lengths = run.named(("response/length_mean", "response/length_max"))
    if not lengths:
        return False
    truncated = run.series.get("response/truncated")
    panels = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1)) if truncated else [figure.subplots()]
    _lines(panels[0], {name.removeprefix("response/length_"): series for name, series in lengths.items()})
    panels[0].set_ylim(bottom=0)
    finish(panels[0], "" if truncated else "step", "response tokens")
    if truncated:
        panels[1].plot(truncated.steps, [100 * share for share in truncated.values], color=RED, linewidth=1.5)
        panels[1].set_ylim(0, max(5.0, 110 * max(truncated.values)))
        finish(panels[1], "step", "cut off, %")
    return True


def draw_mismatch(figure: Figure, run: Run) -> bool:
    labels = {
        "actor/kl_rollout": "KL(rollout policy, updated policy)",
        "mismatch/kl": "KL(engine, trainer), same weights",
        "mismatch/logprob_abs_mean": "mean |log-prob gap| engine/trainer",
        "mismatch/logprob_abs_max": "max |log-prob gap| engine/trainer",
    }
    found = {labels[name]: _positive(series) for name, series in run.named(tuple(labels)).items()}
    found = {label: series for label, series in found.items() if series.steps}
    if not found:
        return False
    axes = figure.subplots()
    _lines(axes, found)
    axes.set_yscale("log")
    return finish(axes, "step", "magnitude (log scale, zeros left out)")


def draw_clipping(figure: Figure, run: Run) -> bool:
    labels = {"actor/clip_fraction_low": "ratio below 1 - clip_low", "actor/clip_fraction_high": "ratio above 1 + clip_high"}
    found = {labels[name]: series for name, series in run.named(tuple(labels)).items()}
    if not found:
        return False
    axes = figure.subplots()
    _lines(axes, {label: Series(s.steps, tuple(100 * share for share in s.values)) for label, s in found.items()})
    axes.set_ylim(bottom=0)
    return finish(axes, "step", "clipped tokens, %")


def draw_critic(figure: Figure, run: Run) -> bool:
    losses = run.named(("critic/bce", "critic/brier"))
    skill = run.named(("critic/auroc", "critic/explained_variance"))
    if not losses and not skill:
        return False
    left, right = figure.subplots(1, 2)
    _lines(left, {name.removeprefix("critic/"): series for name, series in losses.items()})
    left.set_ylim(bottom=0)
    finish(left, "step", "error of V (lower is better)")
    _lines(right, {name.removeprefix("critic/").replace("_", " "): series for name, series in skill.items()})
    right.axhline(0.5, color=GREY, linestyle=":", linewidth=1)
    right.text(
        0.99, 0.5, "AUROC by chance", transform=right.get_yaxis_transform(), ha="right", va="bottom", color=GREY, fontsize=8
    )
    right.set_ylim(max(-1.0, min([0.0, *(min(series.values) - 0.05 for series in skill.values())])), 1)
    return finish(right, "step", "skill of V (higher is better)")


def draw_policy(figure: Figure, run: Run) -> bool:
    entropy = run.named(("actor/entropy",))
    norms = run.named(("actor/grad_norm", "critic/grad_norm"))
    if not entropy and not norms:
        return False
    left, right = figure.subplots(1, 2)
    _lines(left, entropy)
    left.set_ylim(bottom=0)
    finish(left, "step", "token entropy, nats", legend=False)
    _lines(right, {name.removesuffix("/grad_norm"): series for name, series in norms.items()})
    if all(value > 0 for series in norms.values() for value in series.values):
        right.set_yscale("log")
    return finish(right, "step", "gradient norm")


def draw_loss(figure: Figure, run: Run) -> bool:
    found = {name: series for name, series in run.series.items() if name.startswith("sft/") and "loss" in name}
    if not found:
        return False
    axes = figure.subplots()
    _lines(axes, found)
    return finish(axes, "step", "nats per response token")


PLOTS = (
    Plot("accuracy", "Held-out accuracy", draw_accuracy),
    Plot("reward", "Reward and value per step", draw_reward),
    Plot("loss", "Supervised loss", draw_loss),
    Plot("calibration", "Does V predict the reward?", draw_calibration),
    Plot("critic", "Critic", draw_critic),
    Plot("time", "Time per phase", draw_time),
    Plot("length", "Response length", draw_length),
    Plot("mismatch", "KL and trainer/engine mismatch", draw_mismatch),
    Plot("clipping", "Clip fraction", draw_clipping),
    Plot("policy", "Entropy and gradient norms", draw_policy),
)


# --- pieces -----------------------------------------------------------------------------------------------------------


def _lines(axes: Axes, found: Mapping[str, Series]) -> None:
    """A line each; long series also as a moving mean over a twentieth of the steps."""
    for (label, series), color in zip(found.items(), CYCLE, strict=False):
        window = len(series.steps) // 20 if len(series.steps) >= 100 else 1
        if window > 1:
            axes.plot(series.steps, series.values, color=color, linewidth=0.8, alpha=0.3)
        axes.plot(series.steps, moving_mean(series.values, window), color=color, linewidth=1.7, label=label)


def _error_bars(points: tuple[Accuracy, ...]) -> list[list[float]]:
    return [[point.mean - point.low for point in points], [point.high - point.mean for point in points]]


def _mark_before_and_after(axes: Axes, points: tuple[Accuracy, ...], color: str) -> None:
    ends = (points[0],) if len(points) == 1 else (points[0], points[-1])
    for point in ends:
        axes.scatter([point.step], [point.mean], s=90, facecolors="white", edgecolors=color, linewidths=2, zorder=5)
        top = point.mean if math.isnan(point.high) else point.high
        text = f"{100 * point.mean:.1f} %"
        axes.annotate(text, (point.step, top), (0, 7), textcoords="offset points", ha="center", color=color, weight="bold")


def _draw_reliability(axes: Axes, values_B: torch.Tensor, rewards_B: torch.Tensor, label: str, color: str) -> None:
    """Bins of V with the 95 % interval of their mean reward; the area of a dot is its share of responses."""
    points = reliability(values_B, rewards_B)
    share = points.count_K / points.count_K.sum()
    x, y = points.mean_value_K.tolist(), points.mean_reward_K.tolist()
    ends = [wilson_interval(mean, count) for mean, count in zip(y, points.count_K.tolist(), strict=True)]
    bars = [
        [mean - low for mean, (low, _) in zip(y, ends, strict=True)],
        [high - mean for mean, (_, high) in zip(y, ends, strict=True)],
    ]
    axes.errorbar(x, y, yerr=bars, color=color, linewidth=1.2, capsize=2, label=f"{label} (n = {len(values_B)})")
    axes.scatter(x, y, s=(20 + 300 * share).tolist(), color=color, alpha=0.6)


def _aligned(series: Series | None, steps: tuple[int, ...]) -> list[float]:
    known = {} if series is None else dict(zip(series.steps, series.values, strict=True))
    return [known.get(step, 0.0) for step in steps]


def _positive(series: Series) -> Series:
    points = [(step, abs(value)) for step, value in zip(series.steps, series.values, strict=True) if value != 0]
    return Series(tuple(step for step, _ in points), tuple(value for _, value in points))


def _reversed_legend(axes: Axes) -> tuple[list, list]:  # type: ignore[type-arg]  # matplotlib's own types
    """In the order of the stack, from its top."""
    handles, labels = axes.get_legend_handles_labels()
    return handles[::-1], labels[::-1]
