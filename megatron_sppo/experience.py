"""What a step trains on: sampled and graded responses. Most algorithms take every sampled one.

A greedy response (ReMax) is a baseline and is not trained on. Dynamic sampling (DAPO, arXiv 2503.14476, sec. 3.2) samples further
prompts until enough of them have responses with different rewards; where the rounds run out, prompts without a difference fill
the batch, so that its size, and with it every mini-batch, stays what the config says. What was not trained on is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_sppo.batch import Rollouts, SamplingPlan, join_prompts
from megatron_sppo.data.curriculum import Drawn
from megatron_sppo.monitor.clock import StepClock
from megatron_sppo.ragged import Ragged
from megatron_sppo.rewards.early import EarlyGrading
from megatron_sppo.rewards.protocol import Reward
from megatron_sppo.rewards.spread import Graded, grade_rollouts
from megatron_sppo.rollout.early import hands_over_to
from megatron_sppo.rollout.engine import OnProgress
from megatron_sppo.rollout.sampler import InTurn, Sampled


@dataclass(frozen=True)
class Experience:
    """The B responses that a step trains on, the same on every rank that trains."""

    drawn: Drawn
    rollouts: Rollouts
    rewards_B: Tensor
    greedy_rewards_B: Tensor  # of the greedy response to the same prompt; 0 where none was asked for
    policy_step: int  # the step whose update made the policy that sampled
    metrics: dict[str, float]


@dataclass(frozen=True)
class _Round:
    """One round of sampling, the greedy responses set apart."""

    drawn: Drawn
    rollouts: Rollouts
    graded: Graded
    greedy_rewards_P: Tensor  # empty where none was asked for
    num_tokens: int  # generated, greedy ones too
    policy_step: int
    metrics: Mapping[str, float]


class Collector:
    """Samples and grades. ``rounds`` > 1 is dynamic sampling."""

    def __init__(
        self,
        sampler: InTurn,
        plan: Callable[[int], SamplingPlan],
        reward: Reward,
        prompts_per_step: int,
        rounds: int,
        while_sampling: bool = False,
    ) -> None:
        """``while_sampling``: grade a response as soon as it is there, not when all are."""
        self._sampler, self._plan, self._reward = sampler, plan, reward
        self._num_prompts, self._rounds, self._while_sampling = prompts_per_step, rounds, while_sampling

    def collect(self, step: int, clock: StepClock, on_progress: OnProgress | None) -> Experience:
        """Collective."""
        plan = self._plan(step)
        rounds = [self._sample(step, plan, clock, on_progress)]
        if not self._rounds:
            return _experience(rounds[0], rounds[0].rollouts, {})
        while len(rounds) < self._rounds and self._informative(rounds, plan).sum() < self._num_prompts:
            rounds.append(self._sample(step, plan, clock, on_progress))
        return self._best(rounds, plan)

    def _sample(self, step: int, plan: SamplingPlan, clock: StepClock, on_progress: OnProgress | None) -> _Round:
        if not self._while_sampling:
            sampled = self._sampler.take(step, clock, on_progress)
            with clock.phase("reward"):
                graded = grade_rollouts(self._reward, sampled.rollouts)
            return _set_apart(sampled, graded, plan, {})
        early = EarlyGrading(self._reward)
        sampled = self._sampler.take(step, clock, on_progress, hands_over_to(early, plan))
        with clock.phase("reward"):
            graded, share = early.finish()
        return _set_apart(sampled, graded, plan, {"perf/reward_graded_early": share})

    def _informative(self, rounds: list[_Round], plan: SamplingPlan) -> Tensor:
        """[P of all rounds] whether a prompt's responses differ in reward."""
        rewards_PN = torch.cat([part.graded.rewards for part in rounds]).view(-1, plan.num_samples)
        return rewards_PN.amax(1) > rewards_PN.amin(1)

    def _best(self, rounds: list[_Round], plan: SamplingPlan) -> Experience:
        informative_P = self._informative(rounds, plan)
        found = int(informative_P.sum())
        kept = sorted(torch.argsort(~informative_P, stable=True)[: self._num_prompts].tolist())  # these first, in their order
        joined = _joined(rounds)
        count = plan.num_samples
        rows = [prompt * count + sample for prompt in kept for sample in range(count)]
        counts = {
            "dynamic_sampling/rounds": len(rounds),
            "dynamic_sampling/informative": found / len(informative_P),
            "dynamic_sampling/filled": max(0, self._num_prompts - found),
            "dynamic_sampling/surplus": max(0, found - self._num_prompts),
        }
        return _experience(joined, joined.rollouts.select(rows), counts, rows)


def _set_apart(sampled: Sampled, graded: Graded, plan: SamplingPlan, metrics: Mapping[str, float]) -> _Round:
    drawn, rollouts, policy_step = sampled.drawn, sampled.rollouts, sampled.policy_step
    per_prompt, num_tokens = plan.responses_per_prompt, int(rollouts.response_tokens.lengths.sum())
    if not plan.greedy_baseline:
        return _Round(drawn, rollouts, graded, torch.empty(0), num_tokens, policy_step, metrics)
    trained = [row for row in range(len(rollouts)) if row % per_prompt < plan.num_samples]
    greedy_rewards_P = graded.rewards[plan.num_samples :: per_prompt]
    kept = Graded(tuple(graded.verdicts[row] for row in trained))
    return _Round(drawn, rollouts.select(trained), kept, greedy_rewards_P, num_tokens, policy_step, metrics)


def _experience(whole: _Round, rollouts: Rollouts, counts: dict[str, float], rows: list[int] | None = None) -> Experience:
    """``rows`` of ``whole`` are trained on, or all; the reward's metrics are over all that were sampled by the policy."""
    rewards_B = whole.graded.rewards if rows is None else whole.graded.rewards[rows]
    greedy = whole.greedy_rewards_P
    found = {"reward/greedy_mean": float(greedy.mean())} if len(greedy) else {}
    return Experience(
        drawn=whole.drawn,
        rollouts=rollouts,
        rewards_B=rewards_B,
        greedy_rewards_B=greedy[rollouts.prompt_index_B] if len(greedy) else torch.zeros(len(rollouts)),
        policy_step=whole.policy_step,
        metrics={
            **whole.drawn.metrics,
            **whole.graded.metrics(),
            **whole.metrics,
            **found,
            **counts,
            "rollout/tokens": whole.num_tokens,
        },
    )


def _joined(rounds: list[_Round]) -> _Round:
    """All rounds as one: their prompts one after the other."""
    if len(rounds) == 1:
        return rounds[0]
    prompts = join_prompts([part.drawn.prompts for part in rounds])
    sizes = torch.tensor([len(part.drawn.prompts) for part in rounds])
    offsets = (sizes.cumsum(0) - sizes).tolist()
    parts = [part.rollouts for part in rounds]
    rollouts = Rollouts(
        prompts=prompts,
        prompt_index_B=torch.cat([part.prompt_index_B + offset for part, offset in zip(parts, offsets, strict=True)]),
        response_tokens=Ragged.joined([part.response_tokens for part in parts]),
        engine_logprobs=Ragged.joined([part.engine_logprobs for part in parts]),
        truncated_B=torch.cat([part.truncated_B for part in parts]),
        texts=tuple(text for part in parts for text in part.texts),
    )
    probability_P = torch.cat([part.drawn.probability_P for part in rounds])
    return _Round(
        drawn=Drawn(prompts, probability_P, rounds[-1].drawn.metrics),
        rollouts=rollouts,
        graded=Graded(tuple(verdict for part in rounds for verdict in part.graded.verdicts)),
        greedy_rewards_P=torch.cat([part.greedy_rewards_P for part in rounds]),
        num_tokens=sum(part.num_tokens for part in rounds),
        policy_step=rounds[0].policy_step,
        metrics=rounds[-1].metrics,
    )
