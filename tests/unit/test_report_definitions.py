"""The numbers of the report of several runs: time to reach a score, tokens, intervals, AUROC; against calculations by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from matplotlib.collections import PathCollection

from megatron_sppo.analysis.compared_runs import Summary, read_runs
from megatron_sppo.analysis.curves import Curve, band
from megatron_sppo.analysis.figures import score_time
from megatron_sppo.analysis.figures.chart import Evidence, NotDrawn
from megatron_sppo.analysis.intervals import correlation_interval, student_interval
from megatron_sppo.analysis.methods import looks
from megatron_sppo.analysis.probe_files import Trajectory
from megatron_sppo.analysis.separation import POSITIONS, Separation
from tests.unit.report_runs import write_run


def test_time_to_reach_by_hand(tmp_path: Path) -> None:
    """GRPO: 10 s a step, mean over seeds 0.4, 0.7, 0.8, 0.6 at steps 0, 2, 4, 6: best 0.8 after 40 s. SPPO: 2 s a step, mean
    0.4, 0.6, 0.9, 0.9: crosses 0.8 two thirds of the way from step 2 to step 4, at 3.333 steps = 6.667 s; ratio 6."""
    table = {
        ("grpo", 1): (0.4, 0.68, 0.78, 0.6),
        ("grpo", 2): (0.4, 0.72, 0.82, 0.6),
        ("sppo", 1): (0.4, 0.55, 0.85, 0.85),
        ("sppo", 2): (0.4, 0.65, 0.95, 0.95),
        ("rloo", 1): (0.4, 0.5, 0.6, 0.7),
    }
    folders = []
    for (name, seed), scores in table.items():
        seconds, by_step = 2 if name == "sppo" else 10, dict(zip((0, 2, 4, 6), scores, strict=True))
        folders.append(str(write_run(tmp_path / f"{name}_{seed}", name, seed, by_step, seconds=seconds)))
    (chart,) = score_time.draw_time(Evidence(read_runs(folders), "grpo"))
    (reach,) = chart.shown
    assert reach.header[3] == "seconds to GRPO's best (0.8000)" and reach.header[7] == "seconds to 90% of GRPO's gain (0.7600)"
    shown = {row[0]: row[1:] for row in reach.rows}
    assert shown["GRPO"][:4] == (2, pytest.approx(0.8), pytest.approx(40), 1.0)
    assert shown["SPPO"][:4] == (2, pytest.approx(0.9), pytest.approx(20 / 3), pytest.approx(6))
    assert shown["RLOO"][:4] == (1, 0.7, "not reached", None)
    # Each seed at its own validations, to what GRPO reached with that seed: 0.78 and 0.82.
    assert [shown[name][4:6] for name in ("GRPO", "SPPO", "RLOO")] == [("40 / 40", "1 / 1"), ("8 / 8", "5 / 5"), ("-", "-")]
    # 90 % of the gain from 0.4 to 0.8 is 0.76: GRPO at 20 + 0.6 x 20 = 32 s, SPPO at 4 + 4 x 0.16 / 0.3 = 6.133 s
    assert shown["GRPO"][6] == pytest.approx(32)
    assert shown["SPPO"][6:8] == (pytest.approx(6.1333333), pytest.approx(32 / 6.1333333))
    marks = [item.get_offsets().tolist()[0] for item in chart.figure.axes[0].collections if isinstance(item, PathCollection)]
    assert marks == [[pytest.approx(20 / 3), pytest.approx(0.8)], [pytest.approx(40), pytest.approx(0.8)]]


def test_tokens_fall_back_on_lengths_where_that_is_exact(tmp_path: Path) -> None:
    scores = {0: 0.4, 3: 0.5}
    old = [write_run(tmp_path / name, name, 1, scores, tokens=None) for name in ("sppo", "grpo", "remax")]
    sppo, grpo, remax = read_runs(list(map(str, old)))
    assert sppo.tokens() == [0, 100, 200, 300], "25 tokens x 4 prompts"
    assert grpo.tokens() == [0, 800, 1600, 2400], "and 8 samples"
    assert remax.tokens() is None, "the greedy responses' lengths are not known"
    with pytest.raises(NotDrawn, match=r"remax lacks rollout/tokens"):
        score_time.draw_tokens(Evidence((sppo, remax), "grpo"))


def test_runs_that_measured_different_things_are_not_compared(tmp_path: Path) -> None:
    left = write_run(tmp_path / "left", "sppo", 1, {0: 0.4, 1: 0.5}, benchmarks=("a", "b"))
    right = write_run(tmp_path / "right", "grpo", 1, {0: 0.4, 1: 0.5}, benchmarks=("a",))
    found = read_runs([str(left), str(right)])
    assert found[0].scores() == {0: 0.4, 1: 0.5} and found[0].benchmarks == ("a avg@8", "b avg@8")
    with pytest.raises(NotDrawn, match=r"left was validated on a avg@8, b avg@8 and right on a avg@8"):
        score_time.draw_time(Evidence(found, "grpo"))


def test_a_band_is_over_the_steps_that_all_seeds_have() -> None:
    long, short = Curve((0, 2, 4), (0.0, 20.0, 40.0), (0.0, 0.5, 1.0)), Curve((0, 2), (0.0, 40.0), (0.2, 0.7))
    both = band((long, short))
    assert both is not None and both.mean == Curve((0, 2), (0.0, 30.0), (0.1, 0.6))
    assert both.low[1] == pytest.approx(0.6 - 12.706 * 0.1) and both.num_seeds == 2
    alone = band((short,))
    assert alone is not None and alone.mean == short and math.isnan(alone.low[0])
    assert band((long, Curve((1,), (5.0,), (0.1,)))) is None
    assert (
        long.first_at(0.0) == 0.0
        and long.first_at(0.75) == 30.0
        and long.first_point_at(0.75) == 40.0
        and long.first_at(1.1) is None
    )


def test_intervals_by_hand() -> None:
    assert student_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-3)
    low, high = student_interval([float(number % 2) for number in range(61)])  # t(60) = 2.0003
    half = 2.0003 * math.sqrt(30 * 31 / 61 / 60) / math.sqrt(61)
    assert (high - low) / 2 == pytest.approx(half, abs=1e-4)
    assert correlation_interval(0.642, 200) == pytest.approx((0.5525, 0.7169), abs=1e-4)  # tanh(0.7616 +- 1.96 / sqrt(197))
    assert all(map(math.isnan, (*correlation_interval(1.0, 50), *correlation_interval(0.5, 3))))


def test_auroc_within_a_problem_and_over_all_pairs() -> None:
    """Problem a is easy and b hard; V of the prompt alone orders the problems, the last V orders the responses."""
    responses = [
        ("a", True, (0.8, 0.9)),
        ("a", True, (0.8, 0.7)),
        ("a", False, (0.8, 0.8)),
        ("b", True, (0.2, 0.6)),
        ("b", False, (0.2, 0.1)),
    ]
    found = Separation.of([Trajectory(prompt, right, values, per_token=True) for prompt, right, values in responses])
    assert (found.num_problems, found.num_responses) == (2, 5)
    assert found.within[0] == 0.5 and found.within[-1] == pytest.approx(2 / 3), "2 of 3 pairs"
    assert found.pooled[0] == pytest.approx((0.5 + 1 + 0.5 + 1 + 0 + 0.5) / 6) and found.pooled[-1] == pytest.approx(4 / 6)
    assert POSITIONS[0] == 0.0 and POSITIONS[-1] == 1.0
    assert math.isnan(Separation.of([Trajectory("a", right=True, values=(0.5,), per_token=True)]).within[0])


def test_rounding_of_one_prompts_value_ranks_nothing() -> None:
    """A critic that reads the prompt alone computes V in several micro-batches, whose last bits differ."""
    noises = ((True, 1e-7), (False, 0.0), (True, 2e-7))
    copies = [Trajectory("a", right, (0.5 + noise,), per_token=False) for right, noise in noises]
    assert set(Separation.of(copies).within) == {0.5}


def test_a_run_without_validation_has_its_time_and_tokens(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", "sppo", 1, {0: 0.4, 3: 0.5}, seconds=20.0, benchmarks=())
    (run,) = read_runs([str(folder)])
    found = Summary.of(run)
    assert (found.last_step, found.minutes, found.tokens) == (3, 1.0, 3000) and math.isnan(found.best)


def test_variants_of_a_method_share_its_colour() -> None:
    found = looks([("small", "sppo"), ("GRPO", "grpo"), ("SPPO", "sppo"), ("mine", "other"), ("yours", "another")])
    assert list(found) == ["SPPO", "small", "GRPO", "mine", "yours"]
    assert found["SPPO"].color == found["small"].color != found["GRPO"].color and found["SPPO"].line == "-" != found["small"].line
    assert len({look.color for look in found.values()}) == 4
