"""Rewards made of rewards: weighted sums, and a choice by data source."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from megatron_sppo.errors import UserError
from megatron_sppo.rewards.protocol import Reward, Sample, Verdict

TERM = re.compile(
    r"\s*(?P<sign>[+-])?\s*(?:(?P<weight>[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*\*\s*)?(?P<name>[A-Za-z_][\w.:]*)\s*"
)


@dataclass(frozen=True)
class Term:
    weight: float
    name: str


def parse_terms(knob: str, expression: str) -> tuple[Term, ...]:
    """``0.9*math + 0.1*format`` as its terms; UserError that names ``knob`` for anything else."""
    terms: list[Term] = []
    at = 0
    while at < len(expression) or not terms:
        match = TERM.match(expression, at)
        if match is None or (terms and match["sign"] is None):
            raise UserError(
                f"{knob}={expression!r} cannot be read from {expression[at:]!r} on; write one reward or 0.9*math + 0.1*format."
            )
        weight = float(match["weight"] or 1.0)
        terms.append(Term(-weight if match["sign"] == "-" else weight, match["name"]))
        at = match.end()
    names = [term.name for term in terms]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{knob}={expression!r} names {twice} twice; give it one weight.")
    return tuple(terms)


@dataclass(frozen=True)
class WeightedSum:
    """The sum of its terms' rewards; answer and reason are those of the term with the largest weight."""

    terms: Sequence[Term]
    rewards: Sequence[Reward]

    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        columns = [reward(samples) for reward in self.rewards]
        heaviest = self.terms.index(heaviest_term(self.terms))
        return [self._sum(row, row[heaviest]) for row in zip(*columns, strict=True)]

    def _sum(self, row: Sequence[float | Verdict], speaker: float | Verdict) -> Verdict:
        parts = {term.name: float(value) for term, value in zip(self.terms, row, strict=True)}
        total = sum(term.weight * parts[term.name] for term in self.terms)
        said = speaker if isinstance(speaker, Verdict) else Verdict(speaker)
        return Verdict(total, said.answer, said.reason, {**said.parts, **parts})


def heaviest_term(terms: Sequence[Term]) -> Term:
    """The first of those with the largest weight: what the sum is mainly about."""
    return max(terms, key=lambda term: term.weight)


@dataclass(frozen=True)
class BySource:
    """Each sample goes to the reward of the first pattern that its ``source`` matches, else to ``otherwise``."""

    patterns: Sequence[str]  # shell patterns: `taco*`
    rewards: Sequence[Reward]
    otherwise: Reward

    def __call__(self, samples: Sequence[Sample]) -> list[float | Verdict]:
        verdicts: list[float | Verdict] = [0.0] * len(samples)
        for number, reward in enumerate([*self.rewards, self.otherwise]):
            mine = [index for index, sample in enumerate(samples) if self._choice(sample.source) == number]
            if not mine:
                continue
            for index, verdict in zip(mine, reward([samples[index] for index in mine]), strict=True):
                verdicts[index] = verdict
        return verdicts

    def _choice(self, source: str) -> int:
        matches = (number for number, pattern in enumerate(self.patterns) if fnmatchcase(source, pattern))
        return next(matches, len(self.rewards))
