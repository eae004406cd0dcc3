"""From responses to scores: what each problem earned under each grader, and the estimates over problems."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from megatron_sppo.evaluation.answers import answer_classes, extracted
from megatron_sppo.evaluation.estimators import Estimate, estimate, majority, pass_at_k, pass_ks
from megatron_sppo.evaluation.problems import Problems
from megatron_sppo.evaluation.store import Response
from megatron_sppo.rewards.protocol import Reward, Sample


@dataclass(frozen=True)
class GradedProblem:
    id: str
    source: str
    gold: str
    original_gold: str  # as published; "" where it is the same
    responses: tuple[Response, ...]  # [K]
    answers: tuple[str | None, ...]  # [K] content of the last box; None = no box
    classes: tuple[int | None, ...]  # [K] equal answers have the same number
    rewards: Mapping[str, tuple[float, ...]]  # grader -> [K]
    original_rewards: Mapping[str, tuple[float, ...]]  # the same against `original_gold`; {} where it is ""

    def row(self) -> dict[str, Any]:
        """A line of the per-problem JSONL; the responses themselves are in the samples folder."""
        return {
            "id": self.id,
            "data_source": self.source,
            "gold": self.gold,
            **({"original_gold": self.original_gold} if self.original_gold else {}),
            "avg": {name: sum(rewards) / len(rewards) for name, rewards in self.rewards.items()},
            "majority": {name: majority(self.classes, rewards) for name, rewards in self.rewards.items()},
            "rewards": dict(self.rewards),
            **({"original_rewards": dict(self.original_rewards)} if self.original_rewards else {}),
            "answers": self.answers,
            "classes": self.classes,
            "tokens": [response.tokens for response in self.responses],
            "truncated": [response.truncated for response in self.responses],
        }


@dataclass(frozen=True)
class Score:
    """One grader's verdict on one benchmark."""

    avg: Estimate
    pass_at: Mapping[int, Estimate]
    maj: Estimate


@dataclass(frozen=True)
class Result:
    """One line of the table: a benchmark, a part of it, or it with other golds."""

    name: str
    benchmark: str
    variant: str  # "", "without overlap" or "golds as published"
    num_problems: int
    num_samples: int
    scores: Mapping[str, Score]  # grader -> score
    no_box: float
    truncated: float
    mean_tokens: float


def grade_problems(
    problems: Problems, responses: Sequence[Sequence[Response]], graders: Mapping[str, Reward]
) -> list[GradedProblem]:
    """[P] every response under every grader. The first grader also decides which answers are the same answer."""
    golds = [row.gold for row in problems.rows]
    rewards = {name: grade(reward, golds, responses) for name, reward in graders.items()}
    original = problems.original_golds
    original_rewards = {name: grade(reward, original, responses) for name, reward in graders.items()} if original else {}
    answers = [[extracted(response.text) for response in found] for found in responses]
    classes = answer_classes(answers, next(iter(graders.values())))
    return [
        GradedProblem(
            id=row.id,
            source=row.source,
            gold=row.gold,
            original_gold=original[index] if original else "",
            responses=tuple(responses[index]),
            answers=tuple(answers[index]),
            classes=tuple(classes[index]),
            rewards={name: graded[index] for name, graded in rewards.items()},
            original_rewards={name: graded[index] for name, graded in original_rewards.items()},
        )
        for index, row in enumerate(problems.rows)
    ]


def grade(reward: Reward, golds: Sequence[str], responses: Sequence[Sequence[Response]]) -> list[tuple[float, ...]]:
    """[P][K] in one call of the grader, which may have workers of its own."""
    samples = [
        Sample("", response.text, gold, "", response.truncated)
        for gold, found in zip(golds, responses, strict=True)
        for response in found
    ]
    graded = map(float, reward(samples))
    return [tuple(next(graded) for _ in found) for found in responses]


def results_of(problems: Problems, graded: Sequence[GradedProblem]) -> list[Result]:
    """The benchmark as it is; then without what lies in the training data, and with the golds as published, if these differ."""
    lines = [summarize(problems.name, "", graded)]
    if problems.overlapping:
        clean = [problem for row, problem in enumerate(graded) if row not in problems.overlapping]
        if clean:
            lines.append(summarize(problems.name, "without overlap", clean))
    if problems.original_golds:
        lines.append(summarize(problems.name, "golds as published", graded, original=True))
    return lines


def summarize(benchmark: str, variant: str, graded: Sequence[GradedProblem], original: bool = False) -> Result:
    num_samples = len(graded[0].responses)
    responses = [response for problem in graded for response in problem.responses]
    return Result(
        name=f"{benchmark} ({variant})" if variant else benchmark,
        benchmark=benchmark,
        variant=variant,
        num_problems=len(graded),
        num_samples=num_samples,
        scores={
            name: score(
                [problem.original_rewards[name] if original else problem.rewards[name] for problem in graded],
                [problem.classes for problem in graded],
            )
            for name in graded[0].rewards
        },
        no_box=mean(answer is None for problem in graded for answer in problem.answers),
        truncated=mean(response.truncated for response in responses),
        mean_tokens=mean(response.tokens for response in responses),
    )


def score(rewards: Sequence[Sequence[float]], classes: Sequence[Sequence[int | None]]) -> Score:
    num_samples = len(rewards[0])
    correct = [sum(reward > 0.5 for reward in found) for found in rewards]
    return Score(
        avg=estimate(averages(rewards)),
        pass_at={k: estimate(tensor(pass_at_k(c, num_samples, k) for c in correct)) for k in pass_ks(num_samples)},
        maj=estimate(tensor(majority(votes, found) for votes, found in zip(classes, rewards, strict=True))),
    )


def averages(rewards: Iterable[Sequence[float]]) -> Tensor:
    """[P] mean reward of each problem."""
    return tensor(sum(found) / len(found) for found in rewards)


def tensor(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def mean(values: Iterable[float]) -> float:
    return float(tensor(values).mean())
