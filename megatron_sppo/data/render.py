"""From a row's messages or text to the exact string that is tokenised; RL, validation and SFT share this path."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from megatron_sppo.config.schema import DataConfig
from megatron_sppo.data.rows import ChatMessage, Prompt, Row, SupervisedRow
from megatron_sppo.data.tokenizer import Tokenizer
from megatron_sppo.errors import UserError

log = logging.getLogger(__name__)


def tokenize_prompts(
    rows: Sequence[Row | SupervisedRow], tokenizer: Tokenizer, config: DataConfig
) -> tuple[list[str], list[list[int]]]:
    """[P] rendered texts and [P] their tokens; no row is empty.

    A chat template has written BOS already; plain text gets it where the tokenizer declares one.
    """
    texts = render_texts(rows, tokenizer, config)
    tokens = tokenizer.encode_batch(texts, add_bos=not uses_chat_template(tokenizer, config))
    empty = next((row.id for row, ids in zip(rows, tokens, strict=True) if not ids), None)
    if empty is not None:
        raise UserError(f"Row {empty} has a prompt without any token; fill it in or drop the row.")
    return texts, tokens


def render_texts(rows: Sequence[Row | SupervisedRow], tokenizer: Tokenizer, config: DataConfig) -> list[str]:
    """[P] prompt texts, through the chat template or as they are."""
    if uses_chat_template(tokenizer, config):
        return [render_chat(row.messages_or_text, tokenizer, config, row.id) for row in rows]
    if config.system_prompt:
        raise UserError(
            f"data.system_prompt={config.system_prompt!r} needs a chat template, and there is none in use; "
            "clear it, or use data.chat_template=auto with a tokenizer that has one."
        )
    if config.chat_template == "auto":
        log.warning("data.chat_template=auto: the tokenizer has no chat template, prompts are plain text")
    return [render_plain(row.messages_or_text, row.id) + config.prompt_suffix for row in rows]


def uses_chat_template(tokenizer: Tokenizer, config: DataConfig) -> bool:
    return config.chat_template == "auto" and tokenizer.has_chat_template


def render_chat(prompt: Prompt, tokenizer: Tokenizer, config: DataConfig, row_id: str) -> str:
    messages = (ChatMessage("user", prompt),) if isinstance(prompt, str) else prompt
    if config.system_prompt and any(message.role == "system" for message in messages):
        raise UserError(
            f"data.system_prompt={config.system_prompt!r}, but row {row_id} has a system message of its own; "
            "clear one of the two."
        )
    return tokenizer.render_chat(
        [message.as_dict() for message in with_suffix(messages, config.prompt_suffix)], config.system_prompt
    )


def with_suffix(messages: tuple[ChatMessage, ...], suffix: str) -> tuple[ChatMessage, ...]:
    """``suffix`` appended to the last message, which is the one to answer."""
    last = messages[-1]
    return (*messages[:-1], ChatMessage(last.role, last.content + suffix))


def render_plain(prompt: Prompt, row_id: str) -> str:
    if isinstance(prompt, str):
        return prompt
    if len(prompt) > 1:
        raise UserError(
            f"Row {row_id} has {len(prompt)} messages and no chat template is in use to join them; "
            "use data.chat_template=auto with a tokenizer that has one, or write each prompt as one message."
        )
    return prompt[0].content
