"""When a step's rollouts are sampled: as the step begins, or one step ahead while the step before trains (docs/placement.md)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any

from megatron_sppo.batch import Prompts, Rollouts, SamplingPlan
from megatron_sppo.data.curriculum import Drawn
from megatron_sppo.monitor.clock import StepClock
from megatron_sppo.ragged import Ragged
from megatron_sppo.rollout.engine import Decode, OnFinished, OnProgress, RolloutEngine
from megatron_sppo.rollout.remote_engine import RemoteEngine

Draw = Callable[[int], Drawn]  # a step's prompts; collective
Plan = Callable[[int], SamplingPlan]  # of a step


@dataclass(frozen=True)
class Sampled:
    """A step's prompts and their rollouts, the same on every rank that trains."""

    drawn: Drawn
    rollouts: Rollouts
    policy_step: int  # the step whose update made the policy that sampled; 0 = the initial policy


class InTurn:
    """A step samples its own rollouts, then trains on them."""

    def __init__(self, engine: RolloutEngine, draw: Draw, plan: Plan, decode: Decode, pushes: Callable[[int], bool]) -> None:
        """``pushes``: whether a step ends with a push of the policy."""
        self._engine, self.draw, self._plan, self._decode, self._pushes = engine, draw, plan, decode, pushes
        self._waiting: Sampled | None = None  # for the next step

    def take(self, step: int, clock: StepClock, on_progress: OnProgress | None, on_finished: OnFinished | None = None) -> Sampled:
        """The rollouts to train on. vLLM must hold the policy of the step before."""
        if self._waiting is not None:
            sampled, self._waiting = self._waiting, None
            return sampled
        with clock.phase("curriculum"):
            drawn = self.draw(step)
        return Sampled(drawn, self._sample(step, drawn.prompts, clock, on_progress, on_finished), step - 1)

    def _sample(
        self, step: int, prompts: Prompts, clock: StepClock, on_progress: OnProgress | None, on_finished: OnFinished | None
    ) -> Rollouts:
        with ExitStack() as then:
            with clock.phase("wake"):
                then.enter_context(self._engine.awake(until_push=self._pushes(step)))
            with clock.phase("rollout"):
                rollouts = self._engine.generate(prompts, self._plan(step), self._decode, on_progress, on_finished)
            with clock.phase("sleep"):
                then.close()
        return rollouts

    def settle(self, clock: StepClock) -> None:
        """Wait until nothing is under way, so that vLLM's weights may change."""

    def tensors(self) -> dict[str, Any]:
        """What a checkpoint must hold of rollouts that wait for their step; for ``torch.save``."""
        return {} if self._waiting is None else to_plain(self._waiting)

    def load_tensors(self, state: dict[str, Any]) -> None:
        """Back to where :meth:`tensors` was called; ``{}`` where nothing waited."""
        self._waiting = from_plain(state) if state else None


class Elsewhere(InTurn):
    """A step's own rollouts are sampled by other ranks; meanwhile these compute the values that the prompts are enough for."""

    def __init__(
        self,
        engine: RemoteEngine,
        draw: Draw,
        plan: Plan,
        decode: Decode,
        pushes: Callable[[int], bool],
        begin_values: Callable[[Ragged], None] | None,
    ) -> None:
        """``begin_values``: :meth:`megatron_sppo.critic.ValuesAhead.begin`; None: they need the responses, or there are none."""
        super().__init__(engine, draw, plan, decode, pushes)
        self._remote, self._begin_values = engine, begin_values

    def _sample(
        self, step: int, prompts: Prompts, clock: StepClock, on_progress: OnProgress | None, on_finished: OnFinished | None
    ) -> Rollouts:
        assert on_finished is None, "the responses are on other ranks until all are there"
        with clock.phase("rollout"):
            self._remote.submit(prompts, self._plan(step))
        if self._begin_values is not None:
            with clock.phase("value"):
                self._begin_values(prompts.tokens)
        with clock.phase("rollout"):
            return self._remote.collect()


class OneAhead(InTurn):
    """While a step trains, the next one is sampled by the policy as it was before."""

    def __init__(
        self, engine: RemoteEngine, draw: Draw, plan: Plan, decode: Decode, pushes: Callable[[int], bool], last_step: int
    ) -> None:
        super().__init__(engine, draw, plan, decode, pushes)
        self._remote, self._last_step = engine, last_step
        self._under_way: tuple[int, Drawn] | None = None  # (step, its prompts)

    def take(self, step: int, clock: StepClock, on_progress: OnProgress | None, on_finished: OnFinished | None = None) -> Sampled:
        """Those that the step before has begun; the run's first step samples its own. Begins the next step's."""
        sampled = super().take(step, clock, on_progress, on_finished)
        if step < self._last_step:
            with clock.phase("curriculum"):
                drawn = self.draw(step + 1)
            self._remote.submit(drawn.prompts, self._plan(step + 1))
            self._under_way = step + 1, drawn
        return sampled

    def settle(self, clock: StepClock) -> None:
        if self._under_way is None:
            return
        (step, drawn), self._under_way = self._under_way, None
        with clock.phase("rollout_wait"):
            self._waiting = Sampled(drawn, self._remote.collect(), policy_step=step - 2)


def to_plain(sampled: Sampled) -> dict[str, Any]:
    """Tensors, texts and numbers in dicts and tuples alone: ``torch.load(weights_only=True)`` reads it back."""
    rollouts, drawn = sampled.rollouts, sampled.drawn
    return {
        "prompts": {**_fields(drawn.prompts), "tokens": _fields(drawn.prompts.tokens)},
        "drawn": {"probability_P": drawn.probability_P, "metrics": drawn.metrics},
        "rollouts": {
            "prompt_index_B": rollouts.prompt_index_B,
            "response_tokens": _fields(rollouts.response_tokens),
            "engine_logprobs": _fields(rollouts.engine_logprobs),
            "truncated_B": rollouts.truncated_B,
            "texts": rollouts.texts,
        },
        "policy_step": sampled.policy_step,
    }


def from_plain(state: dict[str, Any]) -> Sampled:
    prompts = Prompts(**{**state["prompts"], "tokens": Ragged(**state["prompts"]["tokens"])})
    held = state["rollouts"]
    ragged = {name: Ragged(**held[name]) for name in ("response_tokens", "engine_logprobs")}
    return Sampled(Drawn(prompts, **state["drawn"]), Rollouts(**{**held, **ragged, "prompts": prompts}), state["policy_step"])


def _fields(value: Prompts | Ragged) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}
