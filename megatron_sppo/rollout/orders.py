"""What passes between the ranks that train and those that roll out: a closed set of orders and their results, as parcels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch

from megatron_sppo.batch import Prompts, Rollouts, SamplingPlan
from megatron_sppo.data.prompts import select_prompts
from megatron_sppo.parallel.parcel import Parcel, ragged_of_texts, texts_of_ragged
from megatron_sppo.ragged import Ragged

Order = Literal["generate", "stream", "score", "load", "verify", "push", "close"]


def sampling_order(order: Order, prompts: Prompts, plan: SamplingPlan) -> Parcel:
    """Tokens and names of the prompts are all that sampling needs."""
    names = ragged_of_texts(prompts.ids)
    tensors = (prompts.tokens.values, prompts.tokens.lengths, names.values, names.lengths)
    return Parcel({"order": order, "plan": asdict(plan)}, tensors)


def read_sampling_order(parcel: Parcel) -> tuple[Prompts, SamplingPlan]:
    values, lengths, letters, name_lengths = parcel.tensors
    ids, nothing = texts_of_ragged(Ragged(letters, name_lengths)), ("",) * len(lengths)
    plan = parcel.note["plan"]
    return (
        Prompts(ids, texts=nothing, golds=nothing, sources=nothing, tokens=Ragged(values, lengths)),
        SamplingPlan(**{**plan, "stop_token_ids": tuple(plan["stop_token_ids"])}),
    )


def rollouts_result(rollouts: Rollouts, seconds: float) -> Parcel:
    """``seconds``: how long sampling took."""
    tokens, letters = rollouts.response_tokens, ragged_of_texts(rollouts.texts)
    logprobs = rollouts.engine_logprobs.values
    tensors = (tokens.values, tokens.lengths, logprobs, rollouts.truncated_B, letters.values, letters.lengths)
    return Parcel({"seconds": seconds}, tensors)


def read_rollouts_result(parcel: Parcel, prompts: Prompts, responses_per_prompt: int) -> Rollouts:
    """For the ``prompts`` that were asked for."""
    tokens, lengths, logprobs, truncated_B, letters, text_lengths = parcel.tensors
    return Rollouts(
        prompts=prompts,
        prompt_index_B=torch.arange(len(prompts)).repeat_interleave(responses_per_prompt),
        response_tokens=Ragged(tokens, lengths),
        engine_logprobs=Ragged(logprobs, lengths),
        truncated_B=truncated_B,
        texts=texts_of_ragged(Ragged(letters, text_lengths)),
    )


@dataclass(frozen=True)
class Answer:
    """One response of an engine. As bytes, on its way to other ranks: a line of JSON, then tokens and log-probs."""

    index: int  # of the response in its step
    tokens: Sequence[int]
    logprobs: Sequence[float]
    is_truncated: bool
    text: str

    def to_bytes(self) -> bytes:
        head = json.dumps([self.index, len(self.tokens), self.is_truncated, self.text]).encode()
        return b"\n".join((head, np.asarray(self.tokens, np.int64).tobytes() + np.asarray(self.logprobs, np.float32).tobytes()))

    @classmethod
    def from_bytes(cls, value: bytes) -> Answer:
        head, numbers = value.split(b"\n", 1)
        index, count, is_truncated, text = json.loads(head)
        tokens, logprobs = np.frombuffer(numbers, np.int64, count), np.frombuffer(numbers, np.float32, count, 8 * count)
        return cls(index, tokens.tolist(), logprobs.tolist(), is_truncated, text)


def answers_result(answers: Sequence[Answer]) -> Parcel:
    """Some of a step's responses, in this order."""
    tokens = Ragged.from_rows([answer.tokens for answer in answers], torch.int64)
    logprobs = Ragged.from_rows([answer.logprobs for answer in answers], torch.float32)
    letters = ragged_of_texts([answer.text for answer in answers])
    truncated_B = torch.tensor([answer.is_truncated for answer in answers])
    indices_B = torch.tensor([answer.index for answer in answers])
    return Parcel({}, (indices_B, tokens.values, tokens.lengths, logprobs.values, truncated_B, letters.values, letters.lengths))


def read_answers_result(parcel: Parcel, prompts: Prompts) -> tuple[list[int], Rollouts]:
    """(index of each response in the step, the responses with their own prompts); one sample per prompt."""
    indices_B, *rest = parcel.tensors
    indices = indices_B.tolist()
    return indices, read_rollouts_result(Parcel({}, tuple(rest)), select_prompts(prompts, indices), responses_per_prompt=1)
