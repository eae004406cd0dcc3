r"""The quickstart's task: chains of additions and subtractions, answered step by step.

    prompt    Compute 17+8-6+5.
    response  17+8=25
              25-6=19
              19+5=24
              \boxed{24}

or, without working it out, \boxed{24} alone.

Every running total lies in [0, 29]. Problems differ in difficulty by the number of operations and by
their digits, so a critic that reads the prompt alone has something to learn.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

MAX_TOTAL = 29  # small, so that two CPU cores can teach a random model the sums in about a minute


@dataclass(frozen=True)
class Difficulty:
    """What problems of a data set look like."""

    operations: tuple[int, ...]  # number of operations, drawn uniformly
    two_digit_share: float  # probability that a problem's operands after the first have two digits each, not one


@dataclass(frozen=True)
class Problem:
    operands: tuple[int, ...]
    signs: tuple[int, ...]  # +1 or -1 before each operand but the first

    @property
    def prompt(self) -> str:
        return f"Compute {self.operands[0]}{''.join(map(_term, self.signs, self.operands[1:]))}.\n"

    @property
    def answer(self) -> str:
        return str(self.totals()[-1])

    @property
    def direct_response(self) -> str:
        """The answer alone: right, but beyond what a small model can compute in one go."""
        return f"\\boxed{{{self.answer}}}"

    @property
    def response(self) -> str:
        """The worked solution, one operation a step."""
        totals = self.totals()
        steps = [
            f"{before}{_term(sign, operand)}={after}\n"
            for before, sign, operand, after in zip(totals, self.signs, self.operands[1:], totals[1:], strict=False)
        ]
        return "".join(steps) + f"\\boxed{{{totals[-1]}}}"

    def totals(self) -> tuple[int, ...]:
        """Running totals, the first operand included: 17, 25, 19, 24 for ``17+8-6+5``."""
        totals = [self.operands[0]]
        for sign, operand in zip(self.signs, self.operands[1:], strict=True):
            totals.append(totals[-1] + sign * operand)
        return tuple(totals)


def _term(sign: int, operand: int) -> str:
    return f"{'+' if sign > 0 else '-'}{operand}"


def draw_problem(rng: random.Random, difficulty: Difficulty) -> Problem:
    total = rng.randint(0, MAX_TOTAL)
    operands, signs = [total], []
    low, high = (10, MAX_TOTAL) if rng.random() < difficulty.two_digit_share else (1, 9)
    for _ in range(rng.choice(difficulty.operations)):
        # Never empty: MAX_TOTAL >= 2 * low - 1, so there is room either above or below the total.
        sign, room = rng.choice([(sign, room) for sign, room in ((1, MAX_TOTAL - total), (-1, total)) if room >= low])
        operand = rng.randint(low, min(high, room))
        total += sign * operand
        operands.append(operand)
        signs.append(sign)
    return Problem(tuple(operands), tuple(signs))


def draw_distinct(rng: random.Random, difficulty: Difficulty, count: int, taken: set[Problem]) -> Sequence[Problem]:
    """``count`` problems that are not in ``taken``; they are added to it, so that later data sets stay disjoint."""
    problems = []
    while len(problems) < count:
        problem = draw_problem(rng, difficulty)
        if problem not in taken:
            taken.add(problem)
            problems.append(problem)
    return problems
