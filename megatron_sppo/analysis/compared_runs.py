"""Several runs for one report: which method each is, its seed, and its score against steps, seconds and tokens."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations
from pathlib import Path
from typing import Any

import yaml

from megatron_sppo.analysis.curves import Curve
from megatron_sppo.analysis.methods import NAMES
from megatron_sppo.analysis.run_files import Run, read_run
from megatron_sppo.errors import UserError


@dataclass(frozen=True)
class ComparedRun:
    name: str  # its path below the folder that all runs share
    folder: Path
    method: str  # SPPO, or what the user calls it
    algorithm: str  # algorithm.name
    seed: int
    responses_per_step: int | None  # None where the config does not fix it
    run: Run

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """With their k: ``("aime24 avg@16", ...)``."""
        return tuple(sorted(self.run.validations))

    def scores(self) -> dict[int, float]:
        """Step -> mean of avg@k over the benchmarks, of the steps after which all of them were measured."""
        measured = [{point.step: point.mean for point in points} for points in self.run.validations.values()]
        steps = set.intersection(*map(set, measured)) if measured else set()
        return {step: sum(found[step] for found in measured) / len(measured) for step in sorted(steps)}

    def seconds(self) -> list[float] | None:
        """Of training until the end of step 0, 1, ...: the sum of ``time/step``, without validation, checkpoints and start-up."""
        return self._summed({} if (found := self.run.series.get("time/step")) is None else _by_step(found))

    def tokens(self) -> list[float] | None:
        """Response tokens generated until the end of step 0, 1, ...: every sample, greedy and thrown-away ones too.

        Runs from before ``rollout/tokens`` was written: mean length x number of responses, where that is all there were.
        """
        if (found := self.run.series.get("rollout/tokens")) is not None:
            return self._summed(_by_step(found))
        lengths = self.run.series.get("response/length_mean")
        if lengths is None or self.responses_per_step is None:
            return None
        return self._summed({step: mean * self.responses_per_step for step, mean in _by_step(lengths).items()})

    def _summed(self, per_step: Mapping[int, float]) -> list[float] | None:
        """None where there is none, or a step before the last one or the last validation is missing."""
        last = max([*per_step, *self.scores()], default=0)
        if not per_step or any(step not in per_step for step in range(1, last + 1)):
            return None
        return list(accumulate((per_step[step] for step in range(1, last + 1)), initial=0.0))

    def curve(self, axis: Sequence[float] | None = None) -> Curve:
        """Score against the step, or against ``axis[step]``."""
        scores = self.scores()
        places = [float(step) if axis is None else axis[step] for step in scores]
        return Curve(tuple(scores), tuple(places), tuple(scores.values()))


def _by_step(series: Any) -> dict[int, float]:
    return dict(zip(series.steps, series.values, strict=True))


def read_runs(given: Sequence[str]) -> tuple[ComparedRun, ...]:
    """Of ``RUN`` or ``LABEL=RUN``; UserError for what is no run, or twice the same."""
    pairs = [_label_and_folder(word) for word in given]
    folders = [folder.resolve() for _, folder in pairs]
    for (_, first), (_, second) in combinations(pairs, 2):
        if first.resolve() == second.resolve():
            raise UserError(f"{second} is given twice: leave one of them out, or its seed would count double")
    shared = Path(os.path.commonpath(folders)) if len(folders) > 1 else folders[0].parent
    names = [str(folder.relative_to(shared)) for folder in folders]
    runs = tuple(_read(label, folder, name) for (label, folder), name in zip(pairs, names, strict=True))
    for left, right in combinations(runs, 2):
        if (left.method, left.seed) == (right.method, right.seed):
            raise UserError(
                f"{left.folder} and {right.folder} are both {left.method} with seed={left.seed}: "
                "leave one out, or name its method, as in 'my variant'=RUN"
            )
    return runs


def _label_and_folder(word: str) -> tuple[str, Path]:
    label, equals, folder = word.partition("=")
    if not equals or Path(word).exists():
        return "", Path(word)
    if not label.strip() or not folder:
        raise UserError(f"{word!r} names no method or no run: write LABEL=RUN or just RUN")
    return label.strip(), Path(folder)


def _read(label: str, folder: Path, name: str) -> ComparedRun:
    run, config = read_run(folder), _config(folder / "config.yaml")
    algorithm, seed = _section(config, "algorithm"), config.get("seed")
    if "name" not in algorithm or not isinstance(seed, int):
        raise UserError(f"{folder / 'config.yaml'} has no algorithm.name or no seed: give a run_dir of `megatron-sppo train`")
    kind = str(algorithm["name"])
    return ComparedRun(name, folder, label or NAMES.get(kind, kind), kind, seed, _responses(config, algorithm, kind), run)


def _responses(config: Mapping[str, Any], algorithm: Mapping[str, Any], kind: str) -> int | None:
    prompts, samples = config.get("prompts_per_step"), algorithm.get("num_samples", 1)
    has_more = kind == "remax" or algorithm.get("dynamic_sampling_rounds", 0)  # greedy ones, further rounds
    return prompts * samples if isinstance(prompts, int) and isinstance(samples, int) and not has_more else None


def _config(path: Path) -> Mapping[str, Any]:
    """As the run wrote it; an older run may lack knobs that a config has today, so it is not built anew."""
    if not path.is_file():
        raise UserError(f"{path} does not exist, so method and seed are unknown: give a run_dir of `megatron-sppo train`")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: was it edited by hand?") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no config: was it edited by hand?")
    return content


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Summary:
    """A run in one row."""

    last_step: int
    first: float
    best: float
    last: float
    minutes: float
    tokens: float

    @classmethod
    def of(cls, compared: ComparedRun) -> Summary:
        scores = compared.scores()
        values = list(scores.values()) or [math.nan]
        seconds, tokens = compared.seconds() or [math.nan], compared.tokens() or [math.nan]
        last_step = max((step for series in compared.run.series.values() for step in series.steps), default=0)
        return cls(last_step, values[0], max(values), values[-1], seconds[-1] / 60, tokens[-1])
