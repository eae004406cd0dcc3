"""The values that pass between the stages of a step: frozen, complete when they exist, the same on every rank.

Rollouts of a step are small beside the models (512 responses of 8k tokens are 16 MB of int32), so every rank holds all
of them on the host and takes its share when it builds micro-batches; no stage scatters or gathers dictionaries.
Shape legend: see :mod:`megatron_sppo.ragged`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from megatron_sppo.ragged import Ragged


@dataclass(frozen=True)
class Prompts:
    """P prompts of one step, in data order."""

    ids: tuple[str, ...]  # [P] stable name of the row: "<file stem>:<row number>"
    texts: tuple[str, ...]  # [P] rendered text, as tokenised
    golds: tuple[str, ...]  # [P] ground truth
    sources: tuple[str, ...]  # [P] `data_source`, or the file's stem
    tokens: Ragged  # [P] int64 token ids
    messages: tuple[tuple[tuple[str, str], ...], ...] = ()  # [P] (role, content) before any template; () where nobody needs it

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class SamplingPlan:
    """What the engine is asked for: ``num_samples`` responses per prompt, and perhaps a greedy one after them."""

    num_samples: int
    temperature: float  # 0 = greedy
    top_p: float
    top_k: int  # -1 = off
    max_response_tokens: int
    stop_token_ids: tuple[int, ...]
    seed: int  # with prompt and sample index it fixes every response, whatever the engine layout
    greedy_baseline: bool = False  # one more response per prompt at temperature 0, the last of its prompt

    @property
    def responses_per_prompt(self) -> int:
        return self.num_samples + self.greedy_baseline


@dataclass(frozen=True)
class Rollouts:
    """B = P x responses per prompt; those of one prompt are adjacent."""

    prompts: Prompts
    prompt_index_B: Tensor  # [B] int64 into prompts
    response_tokens: Ragged  # [B] int64; ends with the stop token unless truncated
    engine_logprobs: Ragged  # [B] float32 log-prob of each sampled token after temperature, from the engine
    truncated_B: Tensor  # [B] bool: the length limit was reached without a stop token
    texts: tuple[str, ...]  # [B] decoded responses, special tokens dropped

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def prompt_tokens(self) -> Ragged:
        """[B] the prompt of each response."""
        return self.prompts.tokens.select(self.prompt_index_B.tolist())

    def select(self, indices: Sequence[int]) -> Rollouts:
        """The responses at ``indices``, in that order; the prompts stay as they are."""
        return Rollouts(
            prompts=self.prompts,
            prompt_index_B=self.prompt_index_B[list(indices)],
            response_tokens=self.response_tokens.select(indices),
            engine_logprobs=self.engine_logprobs.select(indices),
            truncated_B=self.truncated_B[list(indices)],
            texts=tuple(self.texts[index] for index in indices),
        )

    def to_prompts(self, first: int, prompts: Prompts) -> Rollouts:
        """The responses to ``prompts`` alone, which are these ones' prompts from place ``first`` on."""
        index_B = self.prompt_index_B - first
        inside = ((index_B >= 0) & (index_B < len(prompts))).nonzero()[:, 0].tolist()
        return replace(self.select(inside), prompts=prompts, prompt_index_B=index_B[inside])


def join_prompts(parts: Sequence[Prompts]) -> Prompts:
    """One after the other."""
    return Prompts(
        ids=tuple(name for part in parts for name in part.ids),
        texts=tuple(text for part in parts for text in part.texts),
        golds=tuple(gold for part in parts for gold in part.golds),
        sources=tuple(source for part in parts for source in part.sources),
        tokens=Ragged.joined([part.tokens for part in parts]),
        messages=tuple(message for part in parts for message in part.messages),
    )


def join_rollouts(parts: Sequence[Rollouts], prompts: Prompts, order: Sequence[int]) -> Rollouts:
    """One value of responses that came in parts, one per prompt: place ``order[n]`` of all of them is that of prompt n."""
    texts = [text for part in parts for text in part.texts]
    return Rollouts(
        prompts=prompts,
        prompt_index_B=torch.arange(len(prompts)),
        response_tokens=Ragged.joined([part.response_tokens for part in parts]).select(order),
        engine_logprobs=Ragged.joined([part.engine_logprobs for part in parts]).select(order),
        truncated_B=torch.cat([part.truncated_B for part in parts])[list(order)],
        texts=tuple(texts[place] for place in order),
    )


@dataclass(frozen=True)
class Outcomes:
    """What became of a step's B responses: all that credit assignment may look at."""

    rollouts: Rollouts
    rewards_B: Tensor  # [B] float32
    greedy_rewards_B: Tensor  # [B] float32 reward of the greedy response to the same prompt; 0 where none was asked for
    values: Ragged  # [B] float32 V before this step's critic update, one or one per token; rows of 0 without a critic
    old_logprobs: Ragged  # [B] trainer log-probs under the policy that sampled
    reference_logprobs: Ragged  # [B] initial policy; equal to old_logprobs where no KL is asked for


@dataclass(frozen=True)
class CriticBatch:
    """One step's targets for the critic: one value per row where it reads the prompt alone (eq. 2), else one per token."""

    prompt_tokens: Ragged  # [B]
    response_tokens: Ragged  # [B]
    targets: Ragged  # [B] float32 what V is to become
    values: Ragged  # [B] float32 V before this step's update


@dataclass(frozen=True)
class ActorBatch:
    """One step's input to the policy update (eq. 3)."""

    prompt_tokens: Ragged  # [B]
    response_tokens: Ragged  # [B]
    advantages: Ragged  # [B] float32 per token (SPPO: the same at every token of a response)
    old_logprobs: Ragged  # [B] trainer log-probs under the policy that sampled
    engine_logprobs: Ragged  # [B]
    reference_logprobs: Ragged  # [B] initial policy; equal to old_logprobs where no KL is asked for
