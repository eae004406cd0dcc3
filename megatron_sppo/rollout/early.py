"""What an engine does with a response that is to be graded while others are still sampled."""

from __future__ import annotations

from megatron_sppo.batch import Prompts, SamplingPlan
from megatron_sppo.rewards.early import EarlyGrading
from megatron_sppo.rewards.spread import sample_from
from megatron_sppo.rollout.engine import OnFinished
from megatron_sppo.rollout.orders import Answer


def hands_over_to(early: EarlyGrading, plan: SamplingPlan) -> OnFinished:
    def hand_over(prompts: Prompts, answer: Answer) -> None:
        prompt = answer.index // plan.responses_per_prompt
        early.submit(answer.index, sample_from(prompts, prompt, answer.text, len(answer.tokens), answer.is_truncated))

    return hand_over
