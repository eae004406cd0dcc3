"""``megatron-sppo eval``: sample what is missing, grade everything that is on disk, write scores and tables."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from megatron_sppo import __version__
from megatron_sppo.checkpoint.export import ensure_exported
from megatron_sppo.config.bounds import EVAL, check_bounds
from megatron_sppo.config.schema import EvalConfig, RewardConfig
from megatron_sppo.errors import UserError
from megatron_sppo.evaluation.arguments import words_of
from megatron_sppo.evaluation.comparison import (
    RESULTS,
    Comparison,
    averages_of,
    check_results_folder,
    compare,
    is_results_folder,
    problems_fingerprint,
    read_averages,
)
from megatron_sppo.evaluation.estimators import Estimate, mean_over_benchmarks
from megatron_sppo.evaluation.problems import Problems, load_problems
from megatron_sppo.evaluation.sampling import Subject, needs_export, read_subject, sample_missing, sampling_settings
from megatron_sppo.evaluation.scoring import GradedProblem, Result, averages, grade_problems, results_of
from megatron_sppo.evaluation.store import write_whole
from megatron_sppo.evaluation.table import comparison_table, results_table
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.collectives import broadcast_object
from megatron_sppo.rewards.checked import CheckedReward
from megatron_sppo.rewards.load import load_accuracy

DEFAULT_GRADERS = ("math", "math_reasoning360")
BASELINE_FOLDER = "baseline"


@dataclass(frozen=True)
class Prepared:
    """Checked input: no weights have been read yet."""

    sets: tuple[Problems, ...]
    graders: Mapping[str, CheckedReward]
    subjects: tuple[Subject, ...]  # the model, then the baseline if that is a model too


def prepare(config: EvalConfig, world_size: int) -> Prepared:
    """Read and check everything but weights. Raises UserError in one sentence."""
    check_bounds(config, EVAL)
    if world_size % config.tp:
        raise UserError(f"--tp {config.tp} does not divide the {world_size} ranks; choose a divisor, or another --nproc")
    sets = load_problems(config.benchmarks, config.data, config.overlap, config.limit)
    graders = {name: load_accuracy(RewardConfig(name=name), "--graders") for name in config.graders or DEFAULT_GRADERS}
    output = Path(config.output)
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file; name a folder")
    subjects = [read_subject(config.model, "--model", sets, config, output)]
    if config.baseline and is_results_folder(config.baseline):
        check_results_folder(config.baseline, sets, sampling_settings(config))
    elif config.baseline:
        subjects.append(read_subject(config.baseline, "--baseline", sets, config, output / BASELINE_FOLDER))
    return Prepared(sets, graders, tuple(subjects))


def main(config: EvalConfig) -> None:
    """Collective over the ranks of the launch; rank 0 grades and writes."""
    rank, world_size = platform.start_distributed()
    platform.quiet_upstream()
    logging.basicConfig(level=logging.WARNING if rank == 0 else logging.ERROR, format="%(message)s")
    for path in (config.model, config.baseline):
        if broadcast_object(needs_export(path)):
            ensure_exported(path, config.tp)
    prepared = prepare(config, world_size)
    sample_missing(prepared.subjects, config)
    dist.barrier(group=platform.host_group())
    dist.destroy_process_group()
    if rank == 0:
        print(report(config, prepared), flush=True)


def report(config: EvalConfig, prepared: Prepared) -> str:
    """Grade and write: `<benchmark>.jsonl`, `results.json`, `table.md`. Returns the table."""
    output = Path(config.output)
    graded = graded_of(prepared.subjects[0], prepared.graders)
    results = [line for problems in prepared.sets for line in results_of(problems, graded[problems.name])]
    means = benchmark_means(graded, tuple(prepared.graders))
    comparisons = compared(config, prepared, graded)
    for name, found in graded.items():
        write_whole(output / f"{name}.jsonl", "".join(json.dumps(problem.row(), ensure_ascii=False) + "\n" for problem in found))
    content = {
        "model": config.model,
        "command": ["megatron-sppo", "eval", *words_of(config)],
        "version": __version__,
        "settings": {**sampling_settings(config), "limit": config.limit, "graders": list(prepared.graders)},
        "problems": {problems.name: problems_fingerprint(problems) for problems in prepared.sets},
        "results": [asdict(result) for result in results],
        "mean": {name: asdict(found) for name, found in means.items()},
        "comparisons": [asdict(comparison) for comparison in comparisons],
    }
    write_whole(output / RESULTS, json.dumps(content, indent=2) + "\n")
    text = markdown(config, tuple(prepared.graders), results, means, comparisons)
    write_whole(output / "table.md", text)
    return text


def graded_of(subject: Subject, graders: Mapping[str, CheckedReward]) -> dict[str, list[GradedProblem]]:
    return {
        task.problems.name: grade_problems(task.problems, task.store.read(task.prompts.ids), graders) for task in subject.tasks
    }


def benchmark_means(graded: Mapping[str, Sequence[GradedProblem]], graders: Sequence[str]) -> dict[str, Estimate]:
    """Grader -> the unweighted mean over benchmarks; {} for a single one."""
    if len(graded) < 2:
        return {}
    return {
        name: mean_over_benchmarks([averages(problem.rewards[name] for problem in found) for found in graded.values()])
        for name in graders
    }


def compared(config: EvalConfig, prepared: Prepared, graded: Mapping[str, Sequence[GradedProblem]]) -> list[Comparison]:
    """Each benchmark against the baseline, and all problems together where there are several benchmarks."""
    if not config.baseline:
        return []
    model = {name: averages_of(found) for name, found in graded.items()}
    if len(prepared.subjects) == 2:
        baseline = {name: averages_of(found) for name, found in graded_of(prepared.subjects[1], prepared.graders).items()}
    else:
        baseline = {name: read_averages(config.baseline, name) for name in model}
    lines = [line for name in model for line in compare(name, model[name], baseline[name])]
    if not lines:
        raise UserError(f"--baseline {config.baseline} was graded by none of {', '.join(prepared.graders)}; add --graders")
    if len(model) > 1:
        lines += compare("all problems", joined(model), joined(baseline))
    return lines


def joined(benchmarks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {problem: found for per_problem in benchmarks.values() for problem, found in per_problem.items()}


def markdown(
    config: EvalConfig,
    graders: Sequence[str],
    results: Sequence[Result],
    means: Mapping[str, Estimate],
    comparisons: Sequence[Comparison],
) -> str:
    """The whole report: what was measured how, the table, the comparison."""
    protocol = (
        f"{config.samples} samples at temperature {config.temperature}, top_p {config.top_p}, "
        f"at most {config.max_tokens} tokens, seed {config.seed}"
        + (f", first {config.limit} problems of each benchmark" if config.limit else "")
    )
    parts = [
        f"**{config.model}**: {protocol}; graded by {graders[0]}.",
        results_table(results, means),
        "Percentages with 95 % intervals (bootstrap over problems); no box and truncated are shares of responses.",
    ]
    if comparisons:
        parts += [
            f"Difference to **{config.baseline}** in avg@k, paired by problem (bootstrap interval, randomisation test):",
            comparison_table(comparisons),
        ]
    return "\n\n".join(parts) + "\n"
