"""Tokenised prompts of a run and the stream of them, one batch per rollout step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from megatron_sppo.batch import Prompts
from megatron_sppo.config.schema import DataConfig
from megatron_sppo.data.order import BatchCursor, EpochOrder, fingerprint
from megatron_sppo.data.render import tokenize_prompts
from megatron_sppo.data.rows import Row
from megatron_sppo.data.tokenizer import Tokenizer
from megatron_sppo.errors import UserError
from megatron_sppo.ragged import Ragged

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromptSet:
    """All usable prompts, in file order, and what became of the others."""

    prompts: Prompts  # [P]
    num_filtered: int  # too long and left out
    num_truncated: int  # too long and cut on the left

    def __len__(self) -> int:
        return len(self.prompts)

    def first_rendered(self) -> str:
        """The first prompt as the model sees it, special tokens shown."""
        return self.prompts.texts[0]

    def head(self, limit: int) -> PromptSet:
        """The first ``limit`` prompts; all for 0."""
        if limit <= 0 or limit >= len(self):
            return self
        return PromptSet(select_prompts(self.prompts, range(limit)), self.num_filtered, self.num_truncated)

    def fingerprint(self) -> str:
        ids = (row_id.encode() for row_id in self.prompts.ids)
        tokens = (row.numpy().tobytes() for row in self.prompts.tokens.rows())
        return fingerprint([*ids, *tokens])


def select_prompts(prompts: Prompts, indices: Sequence[int]) -> Prompts:
    """The prompts at ``indices``, in that order."""
    return Prompts(
        ids=tuple(prompts.ids[i] for i in indices),
        texts=tuple(prompts.texts[i] for i in indices),
        golds=tuple(prompts.golds[i] for i in indices),
        sources=tuple(prompts.sources[i] for i in indices),
        tokens=prompts.tokens.select(indices),
        messages=tuple(prompts.messages[i] for i in indices) if prompts.messages else (),
    )


def render_prompts(
    rows: Sequence[Row], tokenizer: Tokenizer, data_config: DataConfig, max_prompt_tokens: int, name: str = "prompts"
) -> PromptSet:
    """Rendered and tokenised prompts of at most ``max_prompt_tokens``; raises :class:`UserError` if none is left."""
    texts, tokens = tokenize_prompts(rows, tokenizer, data_config)
    long = {index for index, ids in enumerate(tokens) if len(ids) > max_prompt_tokens}
    truncate = data_config.overlong == "truncate_left"
    if truncate:
        for index in long:
            tokens[index] = tokens[index][-max_prompt_tokens:]
            texts[index] = tokenizer.decode(tokens[index], skip_special=False)
    kept = [index for index in range(len(rows)) if truncate or index not in long]
    if not kept:
        shortest = min((len(ids) for ids in tokens), default=0)
        raise UserError(
            f"rollout.max_prompt_tokens={max_prompt_tokens} leaves none of {len(rows)} prompts "
            f"(the shortest has {shortest} tokens); raise it or set data.overlong=truncate_left."
        )
    prompts = Prompts(
        ids=tuple(rows[i].id for i in kept),
        texts=tuple(texts[i] for i in kept),
        golds=tuple(rows[i].gold for i in kept),
        sources=tuple(rows[i].source for i in kept),
        tokens=Ragged.from_rows([tokens[i] for i in kept], torch.int64),
        messages=tuple(dialogue_of(rows[i]) for i in kept),
    )
    prompt_set = PromptSet(prompts, num_filtered=len(rows) - len(kept), num_truncated=len(long) if truncate else 0)
    announce(prompt_set, max_prompt_tokens, name)
    return prompt_set


def dialogue_of(row: Row) -> tuple[tuple[str, str], ...]:
    """(role, content) of the row as the data has it; a plain text is the user's."""
    prompt = row.messages_or_text
    return (("user", prompt),) if isinstance(prompt, str) else tuple((message.role, message.content) for message in prompt)


def announce(prompt_set: PromptSet, max_prompt_tokens: int, name: str) -> None:
    lengths = prompt_set.prompts.tokens.lengths
    log.info(
        "%s: %d kept (mean %.0f tokens, longest %d); of those over %d tokens %d left out, %d cut on the left",
        *(name, len(prompt_set), lengths.double().mean().item(), int(lengths.max())),
        *(max_prompt_tokens, prompt_set.num_filtered, prompt_set.num_truncated),
    )


class PromptStream:
    """Endless batches of prompts; the same on every rank, resumable at any point. ``knob`` names the batch size in errors."""

    def __init__(self, prompt_set: PromptSet, batch_size: int, seed: int, shuffle: bool, knob: str = "prompts_per_step") -> None:
        order = EpochOrder(len(prompt_set), batch_size, seed, shuffle)
        self._prompts = prompt_set.prompts
        self._cursor = BatchCursor(order, knob, prompt_set.fingerprint())

    @property
    def epoch(self) -> float:
        """Epochs done, with the fraction of the present one."""
        return self._cursor.epoch

    def all(self) -> Prompts:
        """Every prompt, in file order."""
        return self._prompts

    def next_batch(self) -> Prompts:
        return select_prompts(self._prompts, self._cursor.next_indices())

    def state_dict(self) -> dict[str, Any]:
        """The cursor: small and JSON-able."""
        return self._cursor.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken; :class:`UserError` if it belongs to other data."""
        self._cursor.load_state_dict(state)
