"""The report of a synthetic run: every plot is there, the page stands alone, and gaps are said aloud."""

from __future__ import annotations

import base64
import json
import math
import random
import re
from pathlib import Path

import pytest

from megatron_sppo.analysis.drawing import moving_mean
from megatron_sppo.analysis.intervals import wilson_interval
from megatron_sppo.analysis.plots import PLOTS
from megatron_sppo.analysis.report import write_report
from megatron_sppo.analysis.run_files import Accuracy, read_run
from megatron_sppo.errors import UserError
from megatron_sppo.monitor.jsonl import JsonlFile

PNG = b"\x89PNG\r\n\x1a\n"


def train_metrics(progress: float, noise: random.Random) -> dict[str, float]:
    """A step of a run that learns; ``progress`` from 0 to 1."""
    reward = min(1.0, max(0.0, 0.3 + 0.5 * progress + noise.gauss(0, 0.04)))
    seconds = {
        "rollout": 6,
        "reward": 0.05,
        "value": 0.3,
        "old_logprobs": 1,
        "critic_update": 0.9,
        "actor_update": 3,
        "reshard": 0.4,
    }
    seconds = {f"time/{name}": value * noise.uniform(0.9, 1.1) for name, value in seconds.items()}
    return {
        "reward/mean": reward,
        "critic/value_mean": 0.5 - 0.2 * math.exp(-8 * progress) + 0.25 * progress,
        "critic/bce": 0.69 - 0.2 * progress + noise.gauss(0, 0.01),
        "critic/brier": 0.25 - 0.08 * progress + noise.gauss(0, 0.005),
        "critic/auroc": 0.5 + 0.3 * progress + noise.gauss(0, 0.03),
        "critic/explained_variance": -0.1 + 0.4 * progress + noise.gauss(0, 0.03),
        "critic/grad_norm": 0.5 + noise.random(),
        "actor/clip_fraction_low": 0.002 + 0.001 * noise.random(),
        "actor/clip_fraction_high": 0.004 + 0.002 * noise.random(),
        "actor/entropy": 0.6 - 0.3 * progress,
        "actor/kl_rollout": 1e-4 * (1 + noise.random()),
        "actor/grad_norm": 0.3 + 0.2 * noise.random(),
        "response/length_mean": 60 + 20 * progress + noise.gauss(0, 2),
        "response/length_max": 128.0,
        "response/truncated": 0.03 * (1 - progress),
        "mismatch/logprob_abs_mean": 3e-7 * (1 + noise.random()),
        "mismatch/logprob_abs_max": 4e-6 * (1 + noise.random()),
        "mismatch/kl": 1e-9 * noise.gauss(0, 1),
        **seconds,
        "time/step": sum(seconds.values()) + 0.5 + (20 if progress == 0 else 0),
        "perf/tokens_per_second": 3000.0,
    }


def write_run(run_dir: Path, num_steps: int, calibration: bool = True) -> None:
    noise = random.Random(0)
    with JsonlFile(run_dir / "metrics.jsonl", 0) as metrics:
        for step in range(num_steps + 1):
            progress = max(0, step - 1) / max(1, num_steps - 1)
            if step:
                metrics.append({"step": step, "kind": "train", **train_metrics(progress, noise)})
            if step % 10 == 0:
                for name, base in (("arith", 0.31), ("hard", 0.12)):
                    key, mean = f"validation/{name}/avg@8", base + 0.4 * progress
                    metrics.append(
                        {"step": step, "kind": "validation", key: mean, f"{key}_low": mean - 0.04, f"{key}_high": mean + 0.04}
                    )
    if calibration:
        with JsonlFile(run_dir / "calibration.jsonl", 0) as rows:
            for step in range(1, num_steps + 1):
                for _ in range(16):
                    solvable = noise.betavariate(1.5, 1.5)
                    value = 0.5 + (solvable - 0.5) * step / num_steps
                    rows.append({"step": step, "value": value, "reward": float(noise.random() < solvable)})
        summary = {"accuracy_before": 0.31, "accuracy_after": [0.71, 0.67, 0.75], "seconds_rl": 512.5, "steps": num_steps}
        (run_dir / "summary.json").write_text(json.dumps(summary))


def test_a_full_run_gives_every_plot_in_one_file(tmp_path: Path) -> None:
    write_run(tmp_path, 60)
    report = write_report(tmp_path, "Quick <start>")
    page = report.read_text()
    expected = {f"{plot.name}.png" for plot in PLOTS} - {"loss.png"}
    assert {path.name for path in (tmp_path / "plots").iterdir()} == expected
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(images) == len(expected) and all(base64.b64decode(image).startswith(PNG) for image in images)
    assert "Quick &lt;start&gt;" in page and "http" not in page and "src=" not in page.replace('src="data:', "")
    assert "31.0 % (27.0 to 35.0), step 0" in page and "71.0 % (67.0 to 75.0), step 60" in page and "+40.0 points" in page
    assert "seconds rl" in page and "512.5" in page
    assert "Not drawn, because the run has no such metrics: Supervised loss." in page


def test_a_run_of_one_step_and_few_metrics_is_drawn_too(tmp_path: Path) -> None:
    with JsonlFile(tmp_path / "metrics.jsonl", 0) as metrics:
        metrics.append({"step": 1, "kind": "train", "reward/mean": 0.5, "critic/auroc": math.nan, "time/step": 1.0})
    write_report(tmp_path, "short")
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"reward.png", "time.png"}


def test_a_plot_of_an_earlier_report_does_not_stay(tmp_path: Path) -> None:
    write_run(tmp_path, 10, calibration=False)
    write_report(tmp_path, "first")
    assert (tmp_path / "plots" / "calibration.png").exists(), "a point per step where there are no per-response rows"
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "kind": "train", "sft/loss": 2.0}\n')
    write_report(tmp_path, "second")
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"loss.png"}


def test_reading_a_run_back(tmp_path: Path) -> None:
    rows = [
        {
            "step": 0,
            "kind": "validation",
            "validation/a/avg@2": 0.5,
            "validation/a/avg@2_low": 0.4,
            "validation/a/avg@2_high": 0.6,
        },
        {"step": 1, "kind": "train", "reward/mean": 0.25, "critic/auroc": None},
        {"step": 2, "kind": "train", "reward/mean": 0.75, "critic/auroc": 0.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = read_run(tmp_path)
    assert run.series["reward/mean"].values == (0.25, 0.75) and run.series["critic/auroc"].steps == (2,)
    assert run.validations == {"a avg@2": (Accuracy(0, 0.5, 0.4, 0.6),)}
    assert run.calibration.steps == () and run.summary == {}


def test_no_run_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.jsonl does not exist"):
        write_report(tmp_path / "gone", "x")
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="is empty"):
        write_report(tmp_path, "x")


def test_moving_mean_looks_back_only() -> None:
    assert moving_mean((1.0, 3.0, 5.0, 0.0), 2) == [1.0, 2.0, 4.0, 2.5]


def test_wilson_interval_against_published_values() -> None:
    assert wilson_interval(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    low, high = wilson_interval(0.0, 10)
    assert low == 0.0 and high == pytest.approx(0.2775, abs=1e-4)
    assert wilson_interval(1.0, 3)[1] == 1.0
