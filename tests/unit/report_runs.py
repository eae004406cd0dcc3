"""Run folders of made-up runs, written by what writes real ones: the resolved config, RunLog and a validation's own metrics."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_sppo.config.load import dump_yaml, load_config
from megatron_sppo.config.schema import Config
from megatron_sppo.evaluation.validation import Validation
from megatron_sppo.monitor.run_log import MainRunLog


def validation(score: float, benchmark: str = "arithmetic") -> Validation:
    return Validation(
        benchmark=benchmark,
        num_samples=8,
        accuracy=score,
        low=score - 0.02,
        high=score + 0.02,
        pass_rate=min(1.0, score + 0.2),
        no_box=0.0,
        truncated=0.0,
        mean_length=20.0,
        samples=(),
    )


def write_run(
    folder: Path,
    algorithm: str,
    seed: int,
    scores: Mapping[int, float],
    *,
    seconds: float = 2.0,
    tokens: int | None = 1000,
    benchmarks: Iterable[str] = ("arithmetic",),
    credit: Mapping[str, list[Any]] | None = None,
) -> Path:
    """``scores``: step -> validation score; every step takes ``seconds`` and generates ``tokens``."""
    overrides = [f"algorithm.name={algorithm}", f"seed={seed}", "actor.path=model", "prompts_per_step=4"]
    config = load_config(Config, [], overrides)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(dump_yaml(config))
    last = max(scores)
    with MainRunLog(config.logging, folder, last, 0, asdict(config)) as log:
        for step in range(last + 1):
            if step:
                generated = {} if tokens is None else {"rollout/tokens": tokens}
                log.train(step, {"reward/mean": 0.5, "response/length_mean": 25.0, "time/step": seconds, **generated})
                if credit is not None:
                    log.calibration(step, credit)
            if step in scores:
                log.validation(step, [validation(scores[step], name) for name in benchmarks])
    return folder


SPEED = {"sppo": 2.0, "grpo": 10.0, "ppo": 3.0, "ppo_bce": 3.0}  # seconds per step
GAIN = {"sppo": 0.5, "grpo": 0.45, "ppo": 0.2, "ppo_bce": 0.25}


def write_comparison_runs(root: Path) -> list[Path]:
    """Four methods, three seeds each, five validations; two of them with a critic probe."""
    folders = []
    for algorithm, seconds in SPEED.items():
        for seed in (1, 2, 3):
            noise = random.Random(f"{algorithm} {seed}")
            learned = {step: GAIN[algorithm] * (1 - math.exp(-step / 12)) for step in range(0, 41, 10)}
            scores = {step: 0.4 + gain + noise.gauss(0, 0.01) for step, gain in learned.items()}
            tokens = 800 if algorithm == "grpo" else 100
            folder = root / algorithm / f"seed_{seed}"
            folders.append(write_run(folder, algorithm, seed, scores, seconds=seconds, tokens=tokens))
    write_probe(root / "ppo" / "seed_1", token_level=True)
    write_probe(root / "sppo" / "seed_1", token_level=False)
    return folders


def write_probe(folder: Path, *, token_level: bool, num_prompts: int = 60, samples: int = 16, seed: int = 0) -> None:
    """A critic whose V moves towards the outcome in the last tenth of a response, or one that reads the prompt alone."""
    noise = random.Random(seed)
    trajectories, prompts = [], []
    for number in range(num_prompts):
        rate = noise.betavariate(0.6, 0.5)
        value = 1 / (1 + math.exp(-(2.4 * rate - 0.7 + noise.gauss(0, 0.45))))
        rewards = [float(noise.random() < rate) for _ in range(samples)]
        prompts.append({"prompt": f"p{number}", "value": value, "successes": int(sum(rewards)), "samples": samples})
        for sample, reward in enumerate(rewards):
            length = noise.randint(40, 300) if token_level else 1
            walk, values = 0.0, []
            for token in range(length):
                walk = 0.97 * walk + noise.gauss(0, 0.06)
                tail = max(0.0, (token / max(1, length - 1) - 0.9) * 10)
                values.append(1 / (1 + math.exp(-(4 * value - 2 + walk + 4 * tail * (reward - 0.5)))) if token_level else value)
            kind = "token" if token_level else "prompt"
            row = {"prompt": f"p{number}", "sample": sample, "reward": reward, "values": values, "kind": kind}
            trajectories.append(row)
    probe = folder / "critic_probe"
    probe.mkdir(exist_ok=True)
    for name, rows in (("trajectories", trajectories), ("prompts", prompts)):
        (probe / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
