"""``critic_probe/`` of a run folder: what a critic says of prompts and along responses, and what came of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from megatron_sppo.errors import UserError
from megatron_sppo.monitor.jsonl import read_jsonl

T = TypeVar("T")


@dataclass(frozen=True)
class Trajectory:
    """V along one response: before its first token, ..., before its last; of a critic that reads the prompt alone one V."""

    prompt: str
    right: bool
    values: tuple[float, ...]
    per_token: bool

    def at(self, position: float) -> float:
        """V at a relative position: 0 = of the prompt alone, 1 = before the last token."""
        return self.values[round(position * (len(self.values) - 1))]


@dataclass(frozen=True)
class ProbedPrompt:
    """V of a prompt and how often the policy solved it."""

    prompt: str
    value: float
    successes: int
    samples: int

    @property
    def rate(self) -> float:
        return self.successes / self.samples


def read_trajectories(run_dir: Path) -> tuple[Trajectory, ...]:
    """Of ``critic_probe/trajectories.jsonl``; none where there is no such file."""
    return _read(run_dir / "critic_probe" / "trajectories.jsonl", _trajectory)


def read_prompts(run_dir: Path) -> tuple[ProbedPrompt, ...]:
    """Of ``critic_probe/prompts.jsonl``; none where there is no such file."""
    return _read(run_dir / "critic_probe" / "prompts.jsonl", _prompt)


def _read(path: Path, parse: Callable[[Mapping[str, Any]], T]) -> tuple[T, ...]:
    found = []
    for number, row in enumerate(read_jsonl(path), start=1):
        try:
            found.append(parse(row))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} line {number} is not a row of a critic probe ({error!r}): write the file anew") from error
    return tuple(found)


def _trajectory(row: Mapping[str, Any]) -> Trajectory:
    values = tuple(_finite(value) for value in row["values"])
    if not values or row["kind"] not in {"token", "prompt"}:
        raise ValueError("values is empty, or kind is neither token nor prompt")
    return Trajectory(str(row["prompt"]), float(row["reward"]) > 0.5, values, row["kind"] == "token")


def _prompt(row: Mapping[str, Any]) -> ProbedPrompt:
    found = ProbedPrompt(str(row["prompt"]), _finite(row["value"]), int(row["successes"]), int(row["samples"]))
    if not 0 <= found.successes <= found.samples or not found.samples:
        raise ValueError("successes are not between 0 and samples")
    return found


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("a value is not finite")
    return number
