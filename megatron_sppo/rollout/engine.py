"""What the rest of the program may ask of a rollout engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor

from megatron_sppo.batch import Prompts, Rollouts, SamplingPlan
from megatron_sppo.ragged import Ragged
from megatron_sppo.rollout.orders import Answer

HFTensors = Iterable[tuple[str, Tensor]]  # (HF name, full tensor); the same stream on every rank
Decode = Callable[[list[int]], str]
OnProgress = Callable[[int, int], None]  # (finished, total) responses of this rank's engine
OnFinished = Callable[[Prompts, Answer], None]  # a response as soon as it is there, on one rank of the engine that sampled it


class RolloutEngine(Protocol):
    """Every method is collective over the world."""

    def generate(
        self,
        prompts: Prompts,
        plan: SamplingPlan,
        decode: Decode,
        on_progress: OnProgress | None = None,
        on_finished: OnFinished | None = None,
    ) -> Rollouts:
        """``plan.responses_per_prompt`` responses per prompt; the same global value on every rank.

        ``on_finished`` hears of every response while others are sampled; engines of other ranks have none (AssertionError).
        """
        ...

    def score(self, sequences: Ragged) -> Ragged:
        """Log-probs at temperature 1 of tokens 1.. of each sequence given those before: rows of length - 1.

        A sequence must be shorter than ``max_prompt_tokens + max_response_tokens``: one more token is generated and dropped.
        """
        ...

    def load_weights(self, tensors: HFTensors) -> None:
        """Replace every weight; cached prefixes of the old policy are forgotten."""
        ...

    def verify_weights(self, tensors: HFTensors) -> None:
        """Raise :class:`~megatron_sppo.errors.WeightMismatch` on every rank unless the engine holds exactly these tensors."""
        ...

    def awake(self, until_push: bool = False) -> AbstractContextManager[None]:
        """The engine's device memory is there while inside; given back after where the config says so.

        ``until_push``: nothing is asked of the engine after, before its weights are pushed anew, so it need not keep them.
        """
        ...

    def close(self) -> None:
        """Give everything back; the engine is unusable after."""
        ...
