"""Grade a step's rollouts with the work spread over the ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_sppo.batch import Prompts, Rollouts
from megatron_sppo.metrics import Mean, merge, values
from megatron_sppo.parallel.collectives import gather_objects
from megatron_sppo.rewards.protocol import Reward, Sample, Verdict

MAX_ANSWER_CHARACTERS = 1000  # an answer travels between ranks and into samples.jsonl
MAX_REASONS = 20


@dataclass(frozen=True)
class Graded:
    """A step's verdicts, the same on every rank."""

    verdicts: tuple[Verdict, ...]  # [B]

    @cached_property
    def rewards(self) -> Tensor:
        """[B] float32."""
        return torch.tensor([verdict.reward for verdict in self.verdicts])

    def metrics(self) -> dict[str, float]:
        """Means of the parts, and the share of each reason; rare reasons beyond the 20 most frequent are one."""
        parts = values(merge([{f"reward/{name}": Mean(value, 1) for name, value in v.parts.items()} for v in self.verdicts]))
        reasons = Counter(verdict.reason for verdict in self.verdicts if verdict.reason)
        frequent = dict(reasons.most_common(MAX_REASONS))
        rest = reasons.total() - sum(frequent.values())
        counted = {**frequent, "other": rest} if rest else frequent
        shares = {f"reward/reason/{reason.replace(' ', '_')}": count / len(self.verdicts) for reason, count in counted.items()}
        return {"reward/mean": float(self.rewards.mean()), **parts, **shares}


def grade_rollouts(reward: Reward, rollouts: Rollouts) -> Graded:
    """Every response's verdict on every rank: rank r grades responses r, r + W, ... Collective over the world."""
    mine = range(dist.get_rank(), len(rollouts), dist.get_world_size())
    found = reward([sample_of(rollouts, index) for index in mine])
    by_rank = gather_objects([portable(verdict) for verdict in found])
    return Graded(interleaved(by_rank))


def interleaved(by_rank: Sequence[Sequence[Verdict]]) -> tuple[Verdict, ...]:
    """Rank r's n-th verdict is that of response n * W + r."""
    total = sum(map(len, by_rank))
    return tuple(by_rank[index % len(by_rank)][index // len(by_rank)] for index in range(total))


def portable(found: float | Verdict) -> Verdict:
    """Small enough to travel between ranks."""
    verdict = found if isinstance(found, Verdict) else Verdict(float(found))
    answer = None if verdict.answer is None else verdict.answer[:MAX_ANSWER_CHARACTERS]
    return Verdict(verdict.reward, answer, verdict.reason, dict(verdict.parts))


def sample_of(rollouts: Rollouts, index: int) -> Sample:
    return sample_from(
        rollouts.prompts,
        int(rollouts.prompt_index_B[index]),
        rollouts.texts[index],
        int(rollouts.response_tokens.lengths[index]),
        bool(rollouts.truncated_B[index]),
    )


def sample_from(prompts: Prompts, prompt: int, text: str, num_tokens: int, truncated: bool) -> Sample:
    """``prompt``: its index."""
    return Sample(
        prompt=prompts.texts[prompt],
        response=text,
        gold=prompts.golds[prompt],
        source=prompts.sources[prompt],
        truncated=truncated,
        num_tokens=num_tokens,
        messages=prompts.messages[prompt] if prompts.messages else (),
    )
