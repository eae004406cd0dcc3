"""NeMo-Run recipes: a function per example, which returns the `run.Script` that every node runs, and the machines it wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import nemo_run as run

Words = Sequence[str]  # key=value overrides


def _example(name: str, words: Words, code: str) -> run.Script:
    """``code`` is the folder of this repository on the machine that runs it."""
    return run.Script(path=f"{code}/examples/{name}.sh", args=list(words), entrypoint="bash")


def quickstart(words: Words, code: str) -> run.Script:
    return _example("quickstart", words, code)


def sppo_r1_1_5b(words: Words, code: str) -> run.Script:
    return _example("sppo_r1_1_5b", words, code)


def sppo_r1_7b(words: Words, code: str) -> run.Script:
    return _example("sppo_r1_7b", words, code)


def sppo_r1_7b_small_critic(words: Words, code: str) -> run.Script:
    return _example("sppo_r1_7b_small_critic", words, code)


def grpo_r1_1_5b(words: Words, code: str) -> run.Script:
    return _example("grpo_r1_1_5b", words, code)


def grpo_r1_7b(words: Words, code: str) -> run.Script:
    return _example("grpo_r1_7b", words, code)


def ppo_r1_1_5b(words: Words, code: str) -> run.Script:
    return _example("ppo_r1_1_5b", words, code)


def ppo_r1_7b(words: Words, code: str) -> run.Script:
    return _example("ppo_r1_7b", words, code)


def rloo_r1_1_5b(words: Words, code: str) -> run.Script:
    return _example("rloo_r1_1_5b", words, code)


def rloo_r1_7b(words: Words, code: str) -> run.Script:
    return _example("rloo_r1_7b", words, code)


def remax_r1_1_5b(words: Words, code: str) -> run.Script:
    return _example("remax_r1_1_5b", words, code)


def remax_r1_7b(words: Words, code: str) -> run.Script:
    return _example("remax_r1_7b", words, code)


def sppo_qwen3_8b(words: Words, code: str) -> run.Script:
    return _example("sppo_qwen3_8b", words, code)


def sppo_qwen25_32b(words: Words, code: str) -> run.Script:
    return _example("sppo_qwen25_32b", words, code)


@dataclass(frozen=True)
class Recipe:
    script: Callable[[Words, str], run.Script]
    nodes: int
    gpus_per_node: int


RECIPES = {
    "quickstart": Recipe(quickstart, 1, 0),
    "sppo_r1_1_5b": Recipe(sppo_r1_1_5b, 1, 4),
    "sppo_r1_7b": Recipe(sppo_r1_7b, 1, 4),
    "sppo_r1_7b_small_critic": Recipe(sppo_r1_7b_small_critic, 1, 4),
    "grpo_r1_1_5b": Recipe(grpo_r1_1_5b, 1, 4),
    "grpo_r1_7b": Recipe(grpo_r1_7b, 1, 4),
    "ppo_r1_1_5b": Recipe(ppo_r1_1_5b, 1, 4),
    "ppo_r1_7b": Recipe(ppo_r1_7b, 1, 4),
    "rloo_r1_1_5b": Recipe(rloo_r1_1_5b, 1, 4),
    "rloo_r1_7b": Recipe(rloo_r1_7b, 1, 4),
    "remax_r1_1_5b": Recipe(remax_r1_1_5b, 1, 4),
    "remax_r1_7b": Recipe(remax_r1_7b, 1, 4),
    "sppo_qwen3_8b": Recipe(sppo_qwen3_8b, 4, 8),
    "sppo_qwen25_32b": Recipe(sppo_qwen25_32b, 8, 8),
}
