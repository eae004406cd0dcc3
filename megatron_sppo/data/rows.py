"""One frozen row per problem, whatever the columns were called.

| column | forms |
|---|---|
| `prompt`, `question` or `problem` | text, or a list of chat messages `{role, content}` |
| `reward_model.ground_truth` (verl, DeepScaleR, DAPO) or `answer` | text or a number |
| `data_source` (optional) | text; the file's stem where it is missing |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megatron_sppo.data.files import Record, read_records
from megatron_sppo.errors import UserError

PROMPT_COLUMNS = ("prompt", "question", "problem")


@dataclass(frozen=True)
class ChatMessage:
    role: str
    content: str

    def as_dict(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}


Prompt = str | tuple[ChatMessage, ...]


@dataclass(frozen=True)
class Row:
    id: str  # "<file stem>:<row number from 0>"
    messages_or_text: Prompt
    gold: str
    source: str


@dataclass(frozen=True)
class SupervisedRow:
    id: str
    messages_or_text: Prompt
    response: str


def read_rows(paths: Sequence[str], knob: str) -> tuple[Row, ...]:
    """Problems with their ground truth; ``knob`` names the setting in errors, e.g. ``data.train``."""
    return tuple(
        Row(record.id, prompt_of(record, knob), gold_of(record, knob), source_of(record)) for record in read_records(paths, knob)
    )


def read_supervised_rows(paths: Sequence[str], knob: str) -> tuple[SupervisedRow, ...]:
    """`prompt` + `response`, or `messages` whose last one is the assistant's (its earlier turns belong to the prompt)."""
    return tuple(supervised_row(record, knob) for record in read_records(paths, knob))


def supervised_row(record: Record, knob: str) -> SupervisedRow:
    if record.columns.get("messages") is None:
        response = text_of(record, "response", knob)
        return SupervisedRow(record.id, prompt_of(record, knob), response)
    messages = messages_of(record, "messages", knob)
    if len(messages) < 2 or messages[-1].role != "assistant":
        raise UserError(
            f"{knob}: {record.place} has `messages` that do not end with an assistant's answer; add it or drop the row."
        )
    return SupervisedRow(record.id, messages[:-1], messages[-1].content)


def prompt_of(record: Record, knob: str) -> Prompt:
    column = next((name for name in PROMPT_COLUMNS if record.columns.get(name) is not None), None)
    if column is None:
        raise missing(record, knob, "`prompt` (or `question`, `problem`)")
    if isinstance(record.columns[column], str):
        return text_of(record, column, knob)
    messages = messages_of(record, column, knob)
    if messages[-1].role == "assistant":
        raise UserError(f"{knob}: {record.place} has a `{column}` that ends with an assistant's message; end it with the user's.")
    return messages


def messages_of(record: Record, column: str, knob: str) -> tuple[ChatMessage, ...]:
    value = record.columns[column]
    if not isinstance(value, list) or not value or not all(is_message(item) for item in value):
        raise UserError(f"{knob}: {record.place} has a `{column}` that is neither text nor a list of {{role, content}} messages.")
    return tuple(ChatMessage(item["role"], item["content"]) for item in value)


def is_message(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("role"), str) and isinstance(item.get("content"), str)


def text_of(record: Record, column: str, knob: str) -> str:
    value = record.columns.get(column)
    if value is None:
        raise missing(record, knob, f"`{column}`")
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{knob}: {record.place} has `{column}`={value!r} where text is needed; fill it in or drop the row.")
    return value


def gold_of(record: Record, knob: str) -> str:
    reward_model = record.columns.get("reward_model")
    value = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
    if value is None:
        value = record.columns.get("answer")
    if value is None:
        raise missing(record, knob, "`reward_model.ground_truth` (or `answer`)")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{knob}: {record.place} has the ground truth {value!r}; it must be text or a number.")
    return str(value)


def source_of(record: Record) -> str:
    source = record.columns.get("data_source")
    return record.stem if source is None else str(source)


def missing(record: Record, knob: str, column: str) -> UserError:
    return UserError(f"{knob}: {record.place} has no {column}; its columns are {sorted(record.columns)}: rename or add one.")
