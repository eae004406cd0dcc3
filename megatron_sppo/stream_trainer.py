"""The step of ``rollout.stream=true``: each mini-batch of the actor is trained as soon as enough responses have arrived."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from megatron_sppo import metrics
from megatron_sppo.batch import Outcomes, Rollouts, join_rollouts
from megatron_sppo.config.arithmetic import num_reused
from megatron_sppo.monitor.clock import StepClock
from megatron_sppo.ragged import Ragged
from megatron_sppo.rewards.spread import Graded, grade_rollouts
from megatron_sppo.rollout.remote_engine import RemoteEngine
from megatron_sppo.trainer import Trainer, calibration_columns, mismatch, rollout_metrics


@dataclass(frozen=True)
class _Arrived:
    """One mini-batch, in order of arrival."""

    indices: list[int]  # of its prompts in the step
    rollouts: Rollouts
    graded: Graded
    old_logprobs: Ragged
    actor_metrics: dict[str, metrics.Metric]


class StreamTrainer(Trainer):
    """docs/placement.md says what differs: the order of responses, and the proximal policy of each mini-batch."""

    def step(self, step: int) -> dict[str, float]:
        """One step of eq. 1-3, with rollout, reward, old log-probs and actor update a mini-batch at a time."""
        parts, learns, clock = self.parts, step > self.config.critic.warmup_steps, self.new_clock()
        with clock.phase("curriculum"):
            drawn = parts.sampler.draw(step)
        engine = parts.engine
        assert isinstance(engine, RemoteEngine), "checked before: config.placement.check_placement"
        batches = engine.stream(drawn.prompts, parts.algorithm.sampling(step), self.config.actor.mini_batch_size)
        with clock.phase("value"):  # the first responses are being sampled
            values = parts.critic.values(drawn.prompts.tokens, Ragged.empty_rows(len(drawn.prompts)))  # before this step's update
        with parts.actor.engine.training():  # with ``offload`` there once, not for each mini-batch
            arrived = [
                self._train_on(rollouts, indices, values, clock, learns) for indices, rollouts in clock.each("rollout", batches)
            ]
        order = torch.tensor([index for part in arrived for index in part.indices]).argsort().tolist()
        rollouts = join_rollouts([part.rollouts for part in arrived], drawn.prompts, order)
        verdicts = [verdict for part in arrived for verdict in part.graded.verdicts]
        graded = Graded(tuple(verdicts[place] for place in order))
        old_logprobs = Ragged.joined([part.old_logprobs for part in arrived]).select(order)
        reused = len(rollouts) if learns and self.config.actor.reuse_first_forward else 0
        with clock.phase("advantage"):
            credit = parts.algorithm.assign_credit(_outcomes(rollouts, graded, values, old_logprobs))
        with clock.phase("critic_update"):
            critic_metrics = parts.critic.update(credit.critic, parts.algorithm.critic_loss, seed=step)
        push_metrics: dict[str, float] = {}
        if learns:
            with clock.phase("reshard"):
                push_metrics = parts.sync.push(step)
        self.log.calibration(step, calibration_columns(drawn, rollouts, values, graded.rewards, credit.actor.advantages))
        return {
            **drawn.metrics,
            **graded.metrics(),
            "rollout/tokens": int(rollouts.response_tokens.lengths.sum()),
            **rollout_metrics(rollouts, graded.rewards, values, credit.actor.advantages),
            **metrics.values(critic_metrics),
            **metrics.values(
                metrics.merge([mismatch(rollouts, old_logprobs, reused), *(part.actor_metrics for part in arrived)])
            ),
            "data/epoch": parts.prompts.epoch,
            **push_metrics,
            "staleness/mini_batches_mean": (len(arrived) - 1) / 2 * learns,
            "staleness/mini_batches_max": (len(arrived) - 1) * learns,
            **self.clock_metrics(clock, rollouts, reused),
        }

    def _train_on(self, rollouts: Rollouts, indices: list[int], values: Ragged, clock: StepClock, learns: bool) -> _Arrived:
        """The actor's optimizer step on what has just arrived; the proximal policy is the present one."""
        parts = self.parts
        with clock.phase("reward"):
            graded = grade_rollouts(parts.reward, rollouts)
        with clock.phase("old_logprobs"):
            reused = num_reused(self.config.actor, len(rollouts)) if learns else 0  # each is the first of its update
            old_logprobs = parts.actor.old_logprobs(rollouts.prompt_tokens, rollouts.response_tokens, reused)
        credit = parts.algorithm.assign_credit(_outcomes(rollouts, graded, values.select(indices), old_logprobs))
        actor_metrics: dict[str, metrics.Metric] = {}
        if learns:
            with clock.phase("actor_update"):
                actor_metrics = parts.actor.update(credit.actor, parts.algorithm.actor_loss, seed=0)  # of later epochs: none
        return _Arrived(indices, rollouts, graded, old_logprobs, actor_metrics)


def _outcomes(rollouts: Rollouts, graded: Graded, values: Ragged, old_logprobs: Ragged) -> Outcomes:
    """Without greedy responses and without a reference: config.placement and config.algorithms refuse both."""
    return Outcomes(rollouts, graded.rewards, torch.zeros(len(rollouts)), values, old_logprobs, old_logprobs)
