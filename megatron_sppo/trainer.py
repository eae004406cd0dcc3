"""The step, in the paper's order, and the loop around it. Nothing here knows which algorithm runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from megatron_sppo import metrics
from megatron_sppo.actor import Actor, mismatch_metrics
from megatron_sppo.algorithms.base import Algorithm
from megatron_sppo.batch import Outcomes, Rollouts
from megatron_sppo.checkpoint.checkpointer import Checkpointer
from megatron_sppo.checkpoint.stop_file import StopFile
from megatron_sppo.config.algorithms import CriticForm
from megatron_sppo.config.arithmetic import num_reused
from megatron_sppo.config.schema import Config
from megatron_sppo.critic import ValueModel
from megatron_sppo.data.curriculum import Drawn
from megatron_sppo.data.prompts import PromptStream
from megatron_sppo.errors import UserError
from megatron_sppo.evaluation.validation import Validation, Validator
from megatron_sppo.experience import Collector
from megatron_sppo.models.flops import Work, rates
from megatron_sppo.monitor.clock import StepClock
from megatron_sppo.monitor.profiler import Profiler, named_range
from megatron_sppo.monitor.run_log import RunLog
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.device_memory import PhasePeak
from megatron_sppo.ragged import Ragged
from megatron_sppo.reshard.weight_sync import WeightSync
from megatron_sppo.rewards.protocol import Reward
from megatron_sppo.rollout.engine import Decode, RolloutEngine
from megatron_sppo.rollout.remote_engine import RemoteEngine
from megatron_sppo.rollout.sampler import InTurn


@dataclass(frozen=True)
class Parts:
    """What a trainer is made of; see :mod:`megatron_sppo.build`."""

    config: Config
    algorithm: Algorithm
    actor: Actor
    critic: ValueModel
    engine: RolloutEngine
    sampler: InTurn
    collector: Collector
    sync: WeightSync
    prompts: PromptStream
    decode: Decode
    reward: Reward
    validator: Validator
    checkpointer: Checkpointer
    stop: StopFile


class Trainer:
    def __init__(self, parts: Parts, log: RunLog) -> None:
        self.parts, self.log, self.config = parts, log, parts.config
        self.profiler = Profiler(self.config.profile, Path(self.config.run_dir), dist.get_rank(), platform.is_gpu())
        self.best_accuracy = -1.0
        self.stopped_after = 0  # the step before the last that a stop file ended the run with

    def fit(self, first_step: int) -> list[Validation]:
        """Train from ``first_step`` to the end; returns the last validation. vLLM must hold the policy's weights."""
        validation = self.config.validation
        last: list[Validation] = []
        if first_step == 1 and validation.before_training:
            last = self.validate(0)
        for step in range(first_step, self.config.steps + 1):
            with self.profiler.step(step):
                found = self.step(step)
            self.log.train(step, found)
            due = validation.every and (step % validation.every == 0 or step == self.config.steps)
            is_best = False
            if due:
                last = self.validate(step)
                is_best = self._is_best(last)
            stops = step < self.config.steps and self.parts.stop.is_there()
            self._checkpoint(step, is_best, stops)
            if stops:
                self.stopped_after = step
                break
        return last

    def step(self, step: int) -> dict[str, float]:
        """One step: rollout and reward, value, old log-probs, advantage, critic update, actor update, reshard."""
        parts = self.parts
        clock = self.new_clock()
        learns = step > self.config.critic.warmup_steps
        got = parts.collector.collect(step, clock, self.log.progress("rollout"))
        rollouts, rewards_B = got.rollouts, got.rewards_B
        with clock.phase("value"):
            values = parts.critic.values(rollouts.prompt_tokens, rollouts.response_tokens)  # before this step's update
        reused = num_reused(self.config.actor, len(rollouts)) if learns else 0
        with clock.phase("old_logprobs"):
            old_logprobs = parts.actor.old_logprobs(rollouts.prompt_tokens, rollouts.response_tokens, reused)
        with clock.phase("reference_logprobs"):
            reference = self._reference_logprobs(rollouts, old_logprobs)
        with clock.phase("advantage"):
            outcomes = Outcomes(rollouts, rewards_B, got.greedy_rewards_B, values, old_logprobs, reference)
            credit = parts.algorithm.assign_credit(outcomes)
        with clock.phase("critic_update"):
            critic_metrics = parts.critic.update(credit.critic, parts.algorithm.critic_loss, seed=step)
        actor_metrics: dict[str, metrics.Metric] = {}
        push_metrics: dict[str, float] = {}
        if learns:
            with clock.phase("actor_update"):
                actor_metrics = parts.actor.update(credit.actor, parts.algorithm.actor_loss, seed=step)
        parts.sampler.settle(clock)  # an engine's weights never change in the middle of a response
        if learns:
            with clock.phase("reshard"):
                push_metrics = parts.sync.push(step)
        self.log.calibration(step, calibration_columns(got.drawn, rollouts, values, rewards_B, credit.actor.advantages))
        return {
            **got.metrics,
            **rollout_metrics(rollouts, rewards_B, values, credit.actor.advantages),
            **metrics.values(critic_metrics),
            **metrics.values(metrics.merge([mismatch(rollouts, old_logprobs, reused), actor_metrics])),
            "data/epoch": parts.prompts.epoch,
            **push_metrics,
            **self._staleness(step, got.policy_step),
            **self.clock_metrics(clock, rollouts, reused),
        }

    def new_clock(self) -> StepClock:
        """Of a step; what engines have sampled between steps, for a validation, is not the step's."""
        if isinstance(self.parts.engine, RemoteEngine):
            self.parts.engine.take_busy_seconds()
        return StepClock(self.log.phase, platform.synchronize, partial(named_range, on_gpu=platform.is_gpu()), PhasePeak())

    def _staleness(self, step: int, policy_step: int) -> dict[str, float]:
        """Actor updates between the policy that sampled and the one that ``step`` updates; all responses of a step are alike."""
        if not self.config.rollout.max_staleness:
            return {}
        warmup = self.config.critic.warmup_steps
        updates = max(0, step - 1 - warmup) - max(0, policy_step - warmup)
        return {"staleness/mean": updates, "staleness/max": updates}

    def clock_metrics(self, clock: StepClock, rollouts: Rollouts, reused: int) -> dict[str, float]:
        """Seconds and throughput; where ranks train or roll out, also who waited for whom."""
        actor = self.parts.actor.work(rollouts.prompt_tokens, rollouts.response_tokens)
        before = range(reused, len(rollouts))  # whose log-probs were computed before the update
        old = self.parts.actor.work(rollouts.prompt_tokens.select(before), rollouts.response_tokens.select(before))
        critic = self.parts.critic.work(rollouts.prompt_tokens, rollouts.response_tokens)
        found = clock.metrics(actor.tokens)
        found.update(self._phase_rates(found, actor, old, critic))
        if isinstance(self.parts.engine, RemoteEngine):
            found["perf/train_idle"] = clock.share("rollout", "rollout_wait")
            found["perf/rollout_idle"] = 1 - self.parts.engine.take_busy_seconds() / found["time/step"]
        return found

    def _phase_rates(self, clock: Mapping[str, float], actor: Work, old: Work, critic: Work) -> dict[str, float]:
        """Tokens and model FLOPs per second of each phase that a model computes in, from a forward pass's work in each model."""
        ranks, peak = dist.get_world_size(), platform.peak_flops()
        work = {
            "value": critic,
            "old_logprobs": old,
            "reference_logprobs": actor if self.parts.algorithm.needs_reference else Work(0, 0.0),
            "critic_update": critic.training(self.config.critic.epochs),
            "actor_update": actor.training(self.config.actor.epochs),
        }
        found: dict[str, float] = {}
        for phase, done in work.items():
            seconds = clock.get(f"time/{phase}", 0.0)
            if done.tokens and seconds:
                found |= {f"perf/{phase}/{name}": value for name, value in rates(done, seconds, ranks, peak).items()}
        return found

    def _reference_logprobs(self, rollouts: Rollouts, old_logprobs: Ragged) -> Ragged:
        if not self.parts.algorithm.needs_reference:
            return old_logprobs
        return self.parts.actor.reference_logprobs(rollouts.prompt_tokens, rollouts.response_tokens)

    def validate(self, step: int) -> list[Validation]:
        """Every benchmark under the present policy."""
        with self.parts.engine.awake():
            results = self.parts.validator.run(step, self.parts.engine, self.parts.decode, self.log.progress("validation"))
        self.log.validation(step, results)
        return results

    def _is_best(self, results: list[Validation]) -> bool:
        if not results:
            return False
        mean = sum(result.accuracy for result in results) / len(results)
        better = mean > self.best_accuracy
        self.best_accuracy = max(mean, self.best_accuracy)
        return better

    def _checkpoint(self, step: int, is_best: bool, stops: bool) -> None:
        checkpointer, config = self.parts.checkpointer, self.config.checkpoint
        checkpointer.maybe_finalize()
        due = stops or step == self.config.steps or (config.every and step % config.every == 0)
        if due or (is_best and config.keep_best):
            self.log.phase("checkpoint")
            checkpointer.save(step, self.state_dict(), is_best, self.parts.sampler.tensors())

    def state_dict(self) -> dict[str, Any]:
        """What the next step needs beside the models: JSON-able."""
        return {
            "prompts": self.parts.prompts.state_dict(),
            "best_accuracy": self.best_accuracy,
            "critic": describe_critic(self.parts.algorithm.critic),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """UserError where the checkpoint's critic means something else than this run's."""
        name, ours = self.config.algorithm.name, describe_critic(self.parts.algorithm.critic)
        theirs = state.get("critic", ours)
        if theirs != ours:
            raise UserError(
                f"algorithm.name={name} wants {ours} but the checkpoint has {theirs}: "
                "set algorithm.name to what the run began with, or checkpoint.resume=never"
            )
        self.parts.prompts.load_state_dict(state["prompts"])
        self.best_accuracy = float(state["best_accuracy"])
        self.parts.sampler.load_tensors(state.get("rollouts", {}))


def describe_critic(form: CriticForm | None) -> str:
    """In words, for a checkpoint to be recognised by."""
    return "no critic" if form is None else f"a critic that reads the {form.reads} and gives a {form.output}"


def rollout_metrics(rollouts: Rollouts, rewards_B: Tensor, values: Ragged, advantages: Ragged) -> dict[str, float]:
    """What a step's rollouts say before anything is updated."""
    advantages_B = advantages.row_means()
    return {
        **value_metrics(rewards_B, values),
        "advantage/mean": float(advantages_B.mean()),
        "advantage/std": float(advantages_B.std(correction=0)),
        **metrics.length_summary(rollouts.response_tokens.lengths, rollouts.truncated_B),
    }


def prompt_values(values: Ragged) -> Tensor:
    """[B] V at each prompt's last token; empty without a critic."""
    return values.values[values.starts] if len(values.values) else values.values


def value_metrics(rewards_B: Tensor, values: Ragged) -> dict[str, float]:
    """How well V at the end of the prompt predicted the reward; nothing without a critic."""
    values_B = prompt_values(values)
    if not len(values_B):
        return {}
    return {
        "critic/target_clamped": float(((rewards_B < 0) | (rewards_B > 1)).double().mean()),
        "critic/value_mean": float(values_B.mean()),
        **metrics.calibration(values_B, rewards_B),
    }


def calibration_columns(
    drawn: Drawn, rollouts: Rollouts, values: Ragged, rewards_B: Tensor, advantages: Ragged
) -> dict[str, Sequence[str | float | None]]:
    """What V said, what came of it and what was made of that, per response; with the probability of its prompt to be drawn."""
    values_B = prompt_values(values)
    return {
        "prompt": [rollouts.prompts.ids[index] for index in rollouts.prompt_index_B.tolist()],
        "probability": drawn.probability_P[rollouts.prompt_index_B].tolist(),
        "value": values_B.tolist() if len(values_B) else [None] * len(rollouts),  # None: no critic
        "reward": rewards_B.tolist(),
        "advantage": advantages.row_means().tolist(),  # mean over the response's tokens
    }


def mismatch(rollouts: Rollouts, old_logprobs: Ragged, reused: int) -> dict[str, metrics.Metric]:
    """Of the responses whose log-probs were computed before the update; that of the first ``reused`` is the update's to tell."""
    known = range(reused, len(rollouts))
    return mismatch_metrics(old_logprobs.select(known).values, rollouts.engine_logprobs.select(known).values)
