"""Supervised examples for the warm start: prompts rendered as in RL, responses that end with the end-of-sequence token."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from megatron_sppo.config.schema import DataConfig, SFTDataConfig
from megatron_sppo.data.order import BatchCursor, EpochOrder, fingerprint
from megatron_sppo.data.render import tokenize_prompts
from megatron_sppo.data.rows import SupervisedRow
from megatron_sppo.data.tokenizer import Tokenizer
from megatron_sppo.errors import UserError
from megatron_sppo.ragged import Ragged

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SFTExamples:
    """B examples; the loss is on the response tokens alone."""

    prompt_tokens: Ragged  # [B] int64
    response_tokens: Ragged  # [B] int64, ends with EOS
    num_dropped: int  # rows left out because prompt + response were too long

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    def select(self, indices: Sequence[int]) -> SFTExamples:
        """The examples at ``indices``, in that order."""
        return SFTExamples(self.prompt_tokens.select(indices), self.response_tokens.select(indices), self.num_dropped)


def tokenize_examples(rows: Sequence[SupervisedRow], tokenizer: Tokenizer, config: SFTDataConfig) -> SFTExamples:
    """Examples of at most ``config.max_tokens`` tokens; raises :class:`UserError` if none is left."""
    prompt_style = DataConfig(chat_template=config.chat_template)  # the same code path as RL
    _, prompts = tokenize_prompts(rows, tokenizer, prompt_style)
    eos = tokenizer.eos_token_id
    responses = [with_eos(row, eos) for row in tokenizer.encode_batch([row.response for row in rows])]
    kept = [i for i in range(len(rows)) if len(prompts[i]) + len(responses[i]) <= config.max_tokens]
    if not kept:
        raise UserError(f"data.max_tokens={config.max_tokens} leaves none of {len(rows)} examples; raise it.")
    num_dropped = len(rows) - len(kept)
    log.info("examples: %d of %d kept, %d longer than %d tokens", len(kept), len(rows), num_dropped, config.max_tokens)
    return SFTExamples(
        prompt_tokens=Ragged.from_rows([prompts[i] for i in kept], torch.int64),
        response_tokens=Ragged.from_rows([responses[i] for i in kept], torch.int64),
        num_dropped=num_dropped,
    )


def with_eos(tokens: list[int], eos: int) -> list[int]:
    """``tokens`` ending with one EOS, whether or not the text spelt it out."""
    return tokens if tokens[-1:] == [eos] else [*tokens, eos]


class SFTStream:
    """Endless batches of ``batch_size`` examples; the same on every rank, resumable at any point."""

    def __init__(self, examples: SFTExamples, batch_size: int, seed: int, shuffle: bool) -> None:
        order = EpochOrder(len(examples), batch_size, seed, shuffle)
        parts = (row.numpy().tobytes() for ragged in (examples.prompt_tokens, examples.response_tokens) for row in ragged.rows())
        self._examples = examples
        self._cursor = BatchCursor(order, "batch_size", fingerprint(parts))

    @property
    def epoch(self) -> float:
        """Epochs done, with the fraction of the present one."""
        return self._cursor.epoch

    def next_batch(self) -> SFTExamples:
        return self._examples.select(self._cursor.next_indices())

    def state_dict(self) -> dict[str, Any]:
        """The cursor: small and JSON-able."""
        return self._cursor.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken; :class:`UserError` if it belongs to other data."""
        self._cursor.load_state_dict(state)
