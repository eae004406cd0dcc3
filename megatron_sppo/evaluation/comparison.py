"""Two models on the same problems: the paired difference, its interval and its p-value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_sppo.errors import UserError
from megatron_sppo.evaluation.estimators import Estimate, estimate, sign_flip_p_value
from megatron_sppo.evaluation.problems import Problems
from megatron_sppo.evaluation.scoring import GradedProblem, tensor
from megatron_sppo.monitor.jsonl import read_jsonl

RESULTS = "results.json"
PROTOCOL = ("temperature", "top_p", "max_tokens")  # what must agree for a comparison to mean something

Averages = Mapping[str, Mapping[str, float]]  # problem id -> grader -> mean reward


@dataclass(frozen=True)
class Comparison:
    """One grader, one benchmark (or all of them together)."""

    benchmark: str
    grader: str
    num_problems: int
    baseline: float  # mean over problems
    difference: Estimate  # model - baseline, paired bootstrap over problems
    p_value: float  # paired randomisation test


def averages_of(graded: Sequence[GradedProblem]) -> dict[str, dict[str, float]]:
    return {problem.id: {name: sum(rewards) / len(rewards) for name, rewards in problem.rewards.items()} for problem in graded}


def compare(benchmark: str, model: Averages, baseline: Averages) -> list[Comparison]:
    """A line per grader that both sides know; both hold the same problems."""
    assert model.keys() == baseline.keys(), "the problems were checked before"
    first, first_baseline = next(iter(model.values())), next(iter(baseline.values()))
    lines = []
    for grader in (name for name in first if name in first_baseline):
        baseline_P = tensor(baseline[problem][grader] for problem in model)
        difference_P = tensor(found[grader] for found in model.values()) - baseline_P
        lines.append(
            Comparison(
                benchmark=benchmark,
                grader=grader,
                num_problems=len(model),
                baseline=float(baseline_P.mean()),
                difference=estimate(difference_P),
                p_value=sign_flip_p_value(difference_P),
            )
        )
    return lines


def problems_fingerprint(problems: Problems) -> str:
    """The same statements with the same golds in the same order."""
    digest = hashlib.sha256()
    for row in problems.rows:
        digest.update(repr((row.id, row.messages_or_text, row.gold)).encode())
    return digest.hexdigest()[:16]


def is_results_folder(path: str) -> bool:
    return (Path(path) / RESULTS).is_file()


def check_results_folder(path: str, sets: Sequence[Problems], protocol: Mapping[str, Any]) -> None:
    """UserError unless the earlier evaluation asked the same problems in the same way."""
    found = json.loads((Path(path) / RESULTS).read_text(encoding="utf-8"))
    for name in PROTOCOL:
        if found["settings"][name] != protocol[name]:
            raise UserError(
                f"--baseline {path} was measured with {name}={found['settings'][name]} and this evaluation has {protocol[name]}; "
                "measure both under one protocol"
            )
    for problems in sets:
        if found["problems"].get(problems.name) != problems_fingerprint(problems):
            raise UserError(
                f"--baseline {path} did not measure the same problems of {problems.name}; evaluate the baseline again with the "
                "same --benchmarks and --limit"
            )


def read_averages(path: str, benchmark: str) -> dict[str, dict[str, float]]:
    """Problem id -> grader -> mean reward, from the per-problem file of an earlier evaluation."""
    return {row["id"]: row["avg"] for row in read_jsonl(Path(path) / f"{benchmark}.jsonl")}
