"""The results as Markdown, ready to paste: percentages with 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from megatron_sppo.evaluation.comparison import Comparison
from megatron_sppo.evaluation.estimators import Estimate
from megatron_sppo.evaluation.scoring import Result

MINUS = "\u2212"


def results_table(results: Sequence[Result], means: Mapping[str, Estimate]) -> str:
    """One line per result. The first grader's avg, pass and maj; every other grader's avg. Last the mean over benchmarks."""
    first, *others = results[0].scores
    k = results[0].num_samples
    heads = [f"avg@{k}", *(f"avg@{k} by {name}" for name in others), f"pass@{k}", f"maj@{k}"]
    lines = [row(["benchmark", "problems", *heads, "no box", "truncated", "tokens"]), rule(len(heads) + 5)]
    for result in results:
        score = result.scores[first]
        cells = [score.avg, *(result.scores[name].avg for name in others), score.pass_at[k], score.maj]
        shares = [f"{100 * result.no_box:.1f}", f"{100 * result.truncated:.1f}", f"{result.mean_tokens:.0f}"]
        lines.append(row([result.name, str(result.num_problems), *map(percent, cells), *shares]))
    if means:
        averages = [percent(means[first]), *(percent(means[name]) for name in others)]
        lines.append(row(["mean of benchmarks", "", *averages, "", "", "", "", ""]))
    return "\n".join(lines)


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    lines = [row(["benchmark", "grader", "problems", "baseline", "difference", "p"]), rule(6)]
    for line in comparisons:
        cells = [line.benchmark, line.grader, str(line.num_problems), f"{100 * line.baseline:.1f}"]
        lines.append(row([*cells, percent(line.difference, signed=True), probability(line.p_value)]))
    return "\n".join(lines)


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def rule(columns: int) -> str:
    return row(["---"] + ["---:"] * (columns - 1))


def percent(found: Estimate, signed: bool = False) -> str:
    """``52.3 (48.1 to 56.4)``."""
    value, low, high = (number(100 * part, signed) for part in (found.value, found.low, found.high))
    return f"{value} ({low} to {high})"


def number(value: float, signed: bool) -> str:
    text = f"{value:+.1f}" if signed else f"{value:.1f}"
    return text.replace("-", MINUS)


def probability(p_value: float) -> str:
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"
