"""What passes between the ranks that train and those that roll out: a closed set of orders and their results, as parcels."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

import torch

from megatron_sppo.batch import Prompts, Rollouts, SamplingPlan
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


def read_rollouts_result(parcel: Parcel, prompts: Prompts, num_samples: int) -> Rollouts:
    """For the ``prompts`` that were asked for."""
    tokens, lengths, logprobs, truncated_B, letters, text_lengths = parcel.tensors
    return Rollouts(
        prompts=prompts,
        prompt_index_B=torch.arange(len(prompts)).repeat_interleave(num_samples),
        response_tokens=Ragged(tokens, lengths),
        engine_logprobs=Ragged(logprobs, lengths),
        truncated_B=truncated_B,
        texts=texts_of_ragged(Ragged(letters, text_lengths)),
    )
