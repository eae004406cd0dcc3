"""Held-out accuracy during training, by the estimators of `megatron-sppo eval`, and samples that a person can read."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_sppo.batch import Prompts, Rollouts, SamplingPlan, join_prompts
from megatron_sppo.config.schema import RolloutConfig, ValidationConfig
from megatron_sppo.evaluation.answers import extracted
from megatron_sppo.evaluation.estimators import estimate, pass_at_k, per_problem_mean
from megatron_sppo.monitor.samples import Sample
from megatron_sppo.rewards.early import EarlyGrading
from megatron_sppo.rewards.protocol import Reward
from megatron_sppo.rewards.spread import Graded, grade_rollouts
from megatron_sppo.rollout.early import hands_over_to
from megatron_sppo.rollout.engine import Decode, OnProgress, RolloutEngine


@dataclass(frozen=True)
class Benchmark:
    name: str
    prompts: Prompts


@dataclass(frozen=True)
class Validation:
    """One benchmark's result."""

    benchmark: str
    num_samples: int
    accuracy: float
    low: float  # 95 % interval over problems
    high: float
    pass_rate: float  # unbiased pass@k with k = num_samples: some sample of the problem is right
    no_box: float  # share of responses without a boxed answer
    truncated: float
    mean_length: float  # tokens
    samples: tuple[Sample, ...]

    def metrics(self) -> dict[str, float]:
        at = f"validation/{self.benchmark}"
        measure = f"{at}/avg@{self.num_samples}"
        return {
            measure: self.accuracy,
            f"{measure}_low": self.low,
            f"{measure}_high": self.high,
            f"{at}/pass@{self.num_samples}": self.pass_rate,
            f"{at}/no_box": self.no_box,
            f"{at}/truncated": self.truncated,
            f"{at}/length_mean": self.mean_length,
        }


class Validator:
    """Samples every benchmark with fixed seeds, so that two validations differ by the policy alone.

    All of them at once: an engine that is asked for one benchmark after the other waits for the longest response of each.
    """

    def __init__(
        self,
        benchmarks: tuple[Benchmark, ...],
        reward: Reward,
        config: ValidationConfig,
        rollout: RolloutConfig,
        seed: int,
        while_sampling: bool = False,
    ) -> None:
        """``while_sampling``: grade a response as soon as it is there, not when all are."""
        self.benchmarks, self.reward, self.config, self.while_sampling = benchmarks, reward, config, while_sampling
        self.plan = SamplingPlan(
            num_samples=config.samples,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=-1,
            max_response_tokens=rollout.max_response_tokens,
            stop_token_ids=rollout.stop_token_ids,
            seed=-1 - seed,  # training steps have non-negative plan seeds
        )

    def run(self, step: int, engine: RolloutEngine, decode: Decode, on_progress: OnProgress | None = None) -> list[Validation]:
        """Collective; the same result on every rank."""
        if not self.benchmarks:
            return []
        rollouts, graded = self._sample(engine, decode, on_progress)
        results, first = [], 0
        for benchmark in self.benchmarks:
            responses = rollouts.to_prompts(first, benchmark.prompts)
            start = first * self.plan.responses_per_prompt
            results.append(self._result(step, benchmark, responses, Graded(graded.verdicts[start : start + len(responses)])))
            first += len(benchmark.prompts)
        return results

    def _sample(self, engine: RolloutEngine, decode: Decode, on_progress: OnProgress | None) -> tuple[Rollouts, Graded]:
        """Of all benchmarks."""
        prompts = join_prompts([benchmark.prompts for benchmark in self.benchmarks])
        if not self.while_sampling:
            rollouts = engine.generate(prompts, self.plan, decode, on_progress)
            return rollouts, grade_rollouts(self.reward, rollouts)
        early = EarlyGrading(self.reward)
        rollouts = engine.generate(prompts, self.plan, decode, on_progress, hands_over_to(early, self.plan))
        return rollouts, early.finish()[0]

    def _result(self, step: int, benchmark: Benchmark, rollouts: Rollouts, graded: Graded) -> Validation:
        rewards_B = graded.rewards
        accuracy = estimate(per_problem_mean(rewards_B, rollouts.prompt_index_B, len(benchmark.prompts)))
        num_samples = self.config.samples
        correct_P = (rewards_B > 0.5).view(-1, num_samples).sum(1).tolist()  # samples of one prompt are adjacent
        shown = range(0, len(rollouts), max(1, len(rollouts) // max(1, self.config.dump_samples)))
        prompts = rollouts.prompts
        samples = [
            Sample(
                step=step,
                benchmark=benchmark.name,
                prompt_id=prompts.ids[p],
                prompt=prompts.texts[p],
                response=rollouts.texts[i],
                gold=prompts.golds[p],
                answer=graded.verdicts[i].answer,
                reward=graded.verdicts[i].reward,
                reason=graded.verdicts[i].reason,
                num_tokens=int(rollouts.response_tokens.lengths[i]),
                truncated=bool(rollouts.truncated_B[i]),
            )
            for i in list(shown)[: self.config.dump_samples]
            for p in [int(rollouts.prompt_index_B[i])]
        ]
        return Validation(
            benchmark=benchmark.name,
            num_samples=num_samples,
            accuracy=accuracy.value,
            low=accuracy.low,
            high=accuracy.high,
            pass_rate=sum(pass_at_k(c, num_samples, num_samples) for c in correct_P) / len(correct_P),
            no_box=sum(extracted(text) is None for text in rollouts.texts) / len(rollouts),
            truncated=float(rollouts.truncated_B.double().mean()),
            mean_length=float(rollouts.response_tokens.lengths.double().mean()),
            samples=tuple(samples),
        )
