"""The comparison of algorithms: its configs, and that it goes on where it was stopped."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from megatron_sppo.config.arithmetic import check, mini_batch_size
from megatron_sppo.config.load import load_config
from megatron_sppo.config.schema import Config

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "compare_algorithms"
METHODS = ("sppo", "grpo", "ppo", "ppo_bce", "rloo", "remax")


def config(method: str) -> Config:
    return load_config(
        Config, [FOLDER / f"{method}.yaml"], ["actor.path=a", "critic.path=c", "data.train=[t]", "data.validation=[v]"]
    )


def test_there_is_a_file_for_each_method() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*METHODS, "base"}


@pytest.mark.parametrize("method", METHODS)
def test_methods_differ_in_nothing_that_is_not_theirs(method: str) -> None:
    ours, reference = config(method), config("sppo")
    assert check(ours, 1, "cpu") == []
    assert ours.algorithm.name == method
    assert (ours.prompts_per_step, ours.actor.optimizer, ours.rollout) == (128, reference.actor.optimizer, reference.rollout)
    num_responses = ours.prompts_per_step * ours.algorithm.num_samples
    assert num_responses // mini_batch_size(ours.actor, num_responses) == 2, "optimizer steps per step"
    assert (ours.algorithm.clip_low, ours.algorithm.clip_high, ours.algorithm.aggregation) == (0.2, 0.2, "token-mean")
    assert ours.critic.optimizer.lr == reference.critic.optimizer.lr or method in {"grpo", "rloo", "remax"}
    assert ours.steps % ours.validation.every == 0, "the last step is measured"


def left(out: Path, *more: str) -> list[str]:
    words = ["--out", str(out), "--methods", "sppo", "grpo", "--seeds", "1", "2", "--dry-run", "logging.tensorboard=true", *more]
    done = subprocess.run([sys.executable, FOLDER / "compare.py", *words], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    everything = left(tmp_path)
    assert len(everything) == 2 * (2 + 2) + 1 and " report " in everything[-1]
    assert sum(" train " in line and "logging.tensorboard=true" in line for line in everything) == 4
    (tmp_path / "grpo" / "seed_1").mkdir(parents=True)
    (tmp_path / "grpo" / "seed_1" / "train_summary.json").touch()
    assert [line for line in everything if line not in left(tmp_path)] == [everything[3]] and "grpo.yaml" in everything[3]


def test_trl_runs_from_the_warm_start_that_the_others_have(tmp_path: Path) -> None:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").touch()
    ours, trl = left(tmp_path)[:-1], left(tmp_path, "--trl", str(tmp_path / "venv"))
    added = [line for line in trl[:-1] if line not in ours]
    assert len(added) == 2 and all("trl_grpo.py" in line and "logging.tensorboard" not in line for line in added)
    for seed, line in enumerate(added, start=1):
        warm = tmp_path / "warm_start" / f"seed_{seed}"
        assert f"--model {warm}/hf " in line and f"--assets {warm}/assets " in line
    assert trl[-1].count("TRL GRPO=") == 2


def program() -> Any:
    """compare.py as a module."""
    spec = importlib.util.spec_from_file_location("compare", FOLDER / "compare.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["compare"] = module
    spec.loader.exec_module(module)
    return module


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_runs_share_the_cores_and_wait_for_what_they_need(tmp_path: Path) -> None:
    """Two workers: what depends on the first job begins after it, on one core, and is not held up by a job that sleeps."""
    compare = program()
    say = f"import os, time; open(r'{tmp_path}/order', 'a').write('%s %s\\n' % ({{!r}}, sorted(os.sched_getaffinity(0))))"
    first = compare.Job("first", python(say.format("first")), tmp_path / "1")
    after = compare.Job("after", python(say.format("after")), tmp_path / "2", first)
    slow = compare.Job("slow, seed 1", python("import time; time.sleep(2); " + say.format("slow")), tmp_path / "3")
    compare.run_all([first, after, slow], 2, tmp_path / "logs")
    lines = (tmp_path / "order").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["first", "after", "slow"]
    assert all(line.count(",") == 0 for line in lines), "a core each"
    assert (tmp_path / "logs" / "slow_seed_1.log").exists()


def test_a_run_that_fails_ends_the_others_and_names_its_log(tmp_path: Path) -> None:
    compare = program()
    fails = compare.Job("fails", python("print('why'); raise SystemExit(3)"), tmp_path / "1")
    endless = compare.Job("endless", python("import time; time.sleep(600)"), tmp_path / "2")
    began = time.monotonic()
    with pytest.raises(SystemExit, match=r"fails failed with exit status 3: see .*fails\.log"):
        compare.run_all([endless, fails], 2, tmp_path / "logs")
    assert time.monotonic() - began < 60 and (tmp_path / "logs" / "fails.log").read_text() == "why\n"
