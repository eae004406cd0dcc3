"""Grade a step's rollouts with the work spread over the ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_sppo.batch import Rollouts
from megatron_sppo.parallel.collectives import gather_rows
from megatron_sppo.rewards.protocol import Reward, Sample


def grade_rollouts(reward: Reward, rollouts: Rollouts) -> Tensor:
    """[B] rewards on every rank: rank r grades responses r, r + W, ... Collective over the world."""
    mine = range(dist.get_rank(), len(rollouts), dist.get_world_size())
    grades = reward([_sample(rollouts, index) for index in mine])
    rows = {index: torch.tensor([grade]) for index, grade in zip(mine, grades, strict=True)}
    return gather_rows(rows, torch.ones(len(rollouts), dtype=torch.int64), contribute=True).values


def _sample(rollouts: Rollouts, index: int) -> Sample:
    prompt = int(rollouts.prompt_index_B[index])
    prompts = rollouts.prompts
    return Sample(
        prompt=prompts.texts[prompt],
        response=rollouts.texts[index],
        gold=prompts.golds[prompt],
        source=prompts.sources[prompt],
        truncated=bool(rollouts.truncated_B[index]),
    )
