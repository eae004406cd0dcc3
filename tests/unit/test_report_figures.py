"""The figures of several runs: what is plotted is what the CSV files say."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection

from megatron_sppo import advantages
from megatron_sppo.analysis.compared_runs import read_runs
from megatron_sppo.analysis.figures import grpo_advantage, loss_ablation, memory, score_time, token_values, value_vs_success
from megatron_sppo.analysis.figures.chart import Chart, Evidence, NotDrawn, Planned, Table
from megatron_sppo.analysis.intervals import student_interval
from tests.unit.report_runs import write_comparison_runs, write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_comparison_runs(tmp_path_factory.mktemp("compare"))


@pytest.fixture(scope="module")
def evidence(runs: list[Path]) -> Evidence:
    return Evidence(read_runs([str(folder) for folder in runs]), "grpo", planned())


def planned() -> tuple[Planned, ...]:
    def plan(label: str, critic: float, cache: float) -> Planned:
        kept = {"actor weights": 10e9, "critic weights": critic}
        update = {**kept, "activations": 4e9}
        return Planned(label, {"rollout": {**kept, "vLLM KV cache": cache}, "actor update": update, "reshard": kept})

    return plan("large", 10e9, 5e9), plan("small", 2e9, 12e9)


def lines(axes: Axes) -> list[list[tuple[float, float]]]:
    return [[(float(x), float(y)) for x, y in line.get_xydata()] for line in axes.get_lines()]


def rows(table: Table, *names: str, **chosen: Any) -> list[tuple[Any, ...]]:
    """Of the CSV text, read back: numbers as numbers."""
    read = list(csv.DictReader(table.csv().splitlines()))
    kept = [row for row in read if all(row[name] == str(value) for name, value in chosen.items())]
    return [tuple(float(row[name]) for name in names) for row in kept]


def only(charts: Sequence[Chart]) -> Chart:
    assert len(charts) == 1
    return charts[0]


@pytest.mark.parametrize(("draw", "place"), [(score_time.draw_time, "seconds"), (score_time.draw_tokens, "tokens")])
def test_scores_are_drawn_as_written(evidence: Evidence, draw: Any, place: str) -> None:
    chart = only(draw(evidence))
    (numbers,), (axes,) = chart.numbers, chart.figure.axes
    drawn = lines(axes)
    unit = 60.0 if place == "seconds" else 1e3
    for label in ("SPPO", "GRPO", "PPO", "PPO + BCE"):
        for seed in (1, 2, 3, "mean"):
            written = [(x / unit, y) for x, y in rows(numbers, place, "score", method=label, seed=seed)]
            assert len(written) == 5 and written in drawn
        low_and_high = rows(numbers, "low", "high", method=label, seed="mean")
        scores = [rows(numbers, "score", method=label, seed=seed) for seed in (1, 2, 3)]
        for point, ends in enumerate(low_and_high):
            assert ends == pytest.approx(student_interval([seed[point][0] for seed in scores]), abs=1e-12)
    bands = [path.vertices for fill in axes.collections if not isinstance(fill, PathCollection) for path in fill.get_paths()]
    assert len(bands) == 4 and max(rows(numbers, "high", seed="mean", method="SPPO"))[0] in bands[0][:, 1]


def test_the_ablation_shows_sppo_and_both_ppos_against_steps(evidence: Evidence) -> None:
    chart = only(loss_ablation.draw(evidence))
    (numbers,), (axes,) = chart.numbers, chart.figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        f"{name} (3 seeds)" for name in ("SPPO", "PPO", "PPO + BCE")
    ]
    for label in ("SPPO", "PPO", "PPO + BCE"):
        assert rows(numbers, "step", "score", method=label, seed="mean") in lines(axes)
    with pytest.raises(NotDrawn, match="the runs that have validations are of sppo"):
        loss_ablation.draw(Evidence(evidence.runs[:6], "grpo"))


def test_values_along_responses_are_drawn_as_written(evidence: Evidence) -> None:
    panels, separation = token_values.draw(evidence)
    (numbers,) = panels.numbers
    prompts = list(dict.fromkeys(row[0] for row in numbers.rows))
    assert len(prompts) == 10 and len(panels.figure.axes) == 10, "the run of the prompt-level critic has no panels"
    for axes, prompt in zip(panels.figure.axes, prompts, strict=True):
        drawn = {(line.get_color(), tuple(points)) for line, points in zip(axes.get_lines(), lines(axes), strict=True)}
        for kind, color in ((1, "#0072B2"), (0, "#D55E00")):
            found = rows(numbers, "response", "position", "value", prompt=prompt, reward=kind)
            curves = {number: tuple(point[1:] for point in found if point[0] == number) for number, *_ in found}
            assert {(color, curve) for curve in curves.values()} == {item for item in drawn if item[0] == color}
    (numbers,), (axes,) = separation.numbers, separation.figure.axes
    for run in ("ppo/seed_1", "sppo/seed_1"):
        for column in ("within", "pooled"):
            assert rows(numbers, "position", column, run=run) in lines(axes)


def test_value_against_success_is_drawn_as_written(evidence: Evidence) -> None:
    charts = value_vs_success.draw(evidence)
    assert [chart.name for chart in charts] == ["value_vs_success_sppo_seed_1", "value_vs_success_ppo_seed_1"]
    chart = charts[0]
    main_axes, top, right, corner = chart.figure.axes
    dots = next(item for item in main_axes.collections if isinstance(item, PathCollection)).get_offsets().tolist()
    written = rows(chart.numbers[0], "avg", "value")
    assert [tuple(dot) for dot in dots] == written and len(written) == 60
    assert sum(bar.get_height() for bar in top.patches) == sum(bar.get_width() for bar in right.patches) == 60
    fit = dict(zip(chart.shown[0].header, chart.shown[0].rows[0], strict=True))
    x, y = (torch.tensor(column, dtype=torch.float64) for column in zip(*written, strict=True))
    assert fit["pearson"] == pytest.approx(torch.corrcoef(torch.stack((x, y)))[0, 1].item())
    slope, intercept = torch.linalg.lstsq(torch.stack((x, torch.ones_like(x)), 1), y).solution.tolist()
    assert (fit["slope"], fit["intercept"]) == pytest.approx((slope, intercept))
    assert [y for _, y in lines(main_axes)[0]] == pytest.approx([intercept, intercept + slope])
    assert (
        f"Pearson {fit['pearson']:.3f}" in corner.texts[0].get_text()
        and f"Spearman {fit['spearman']:.3f}" in corner.texts[0].get_text()
    )


def test_memory_is_drawn_as_written_and_the_saving_is_stated(evidence: Evidence) -> None:
    chart = only(memory.draw(evidence))
    (numbers,), (axes,) = chart.numbers, chart.figure.axes
    for container in axes.containers:
        heights = [bar.get_height() for bar in container]
        assert heights == [row[0] for row in rows(numbers, "gigabytes", part=container.get_label())]
    assert {container.get_label() for container in axes.containers} == {row[2] for row in numbers.rows if row[3]}
    totals = [float(text.get_text()) for text in axes.texts]
    assert totals == [25.0, 24.0, 24.0, 16.0], "rollouts, then the fullest other phase"
    (_, peak, saved, equal_cache, saved_equal, others, saved_others) = chart.shown[0].rows[1]
    assert (peak, equal_cache, others) == (24.0, 17.0, 16.0)
    assert (saved, saved_equal, saved_others) == pytest.approx((4.0, 32.0, 100 / 3))


def test_grpos_advantage_is_the_formula_of_the_paper(evidence: Evidence) -> None:
    chart = only(grpo_advantage.draw(evidence))
    (numbers,), (axes,) = chart.numbers, chart.figure.axes
    for column, line in zip(numbers.header[1:], lines(axes), strict=False):
        assert rows(numbers, "p", column) == line
    for p, success, failure, *_ in rows(numbers, *numbers.header):
        assert (success, failure) == pytest.approx((math.sqrt((1 - p) / p), -math.sqrt(p / (1 - p))))


def test_what_a_run_assigned_stands_beside_it(tmp_path: Path) -> None:
    rewards = torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 0])
    assigned = advantages.group_normalized(rewards, 4, by_std=True).tolist()
    prompts = ["a"] * 4 + ["b"] * 4
    credit = {"prompt": prompts, "value": [None] * 8, "reward": rewards.tolist(), "advantage": assigned}
    folder = write_run(tmp_path / "grpo", "grpo", 1, {0: 0.5, 2: 0.6}, credit=credit)
    chart = only(grpo_advantage.draw(Evidence(read_runs([str(folder)]), "grpo")))
    dots = chart.figure.axes[1].collections[0].get_offsets().tolist()
    assert [tuple(dot) for dot in dots] == rows(chart.numbers[1], "p", "advantage")
    assert dots[:8] == [[p, a] for p, a in zip([0.25] * 4 + [0.75] * 4, assigned, strict=True)] and len(dots) == 16
