"""Raw rows -> prepared rows: bare statements, canonical golds, no damaged golds, no duplicates, everything dropped counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from megatron_sppo.data.files import Record
from megatron_sppo.data.prepare.golds import canonical_gold, is_float_corrupted, raw_gold
from megatron_sppo.data.prepare.sets import MathSet
from megatron_sppo.data.prepare.source import SourceFile, read_source
from megatron_sppo.data.prepare.statement import ask_for_box, bare_statement, duplicate_key
from megatron_sppo.data.rows import prompt_of
from megatron_sppo.errors import UserError


@dataclass(frozen=True)
class RawRow:
    file: str
    row: int  # number in the whole input, from 0
    index: str  # the publisher's own name of the row, "" where there is none
    statement: str
    gold: str


@dataclass(frozen=True)
class PreparedRow:
    raw: RawRow
    answer: str  # canonical, repaired where there was a repair
    repaired: bool

    def as_dict(self, set_name: str, number: int) -> dict[str, Any]:
        """The schema of a prepared jsonl line; ``id`` is also what `megatron_sppo.data.rows` calls the row."""
        return {
            "id": f"{set_name}:{number}",
            "prompt": [{"role": "user", "content": ask_for_box(self.raw.statement)}],
            "answer": self.answer,
            "data_source": set_name,
            "original_answer": self.raw.gold,
            "provenance": {
                "file": self.raw.file,
                "row": self.raw.row,
                "index": self.raw.index,
                "repaired": self.repaired,
            },
        }


@dataclass(frozen=True)
class Dropped:
    """Rows left out, by reason."""

    no_gold: int = 0
    float_corrupted: int = 0
    duplicate: int = 0  # same statement and same answer as an earlier row
    conflicting: int = 0  # same statement with different answers: all of them
    overlap: int = 0  # shares its 13-grams with a chosen set

    @property
    def total(self) -> int:
        return self.no_gold + self.float_corrupted + self.duplicate + self.conflicting + self.overlap


def read_raw_rows(files: Iterable[SourceFile]) -> tuple[list[RawRow], int]:
    """All rows that have a gold, and the number of those that have none."""
    rows, number, no_gold = [], 0, 0
    for file in files:
        for place, columns in read_source(file):
            gold = raw_gold(columns)
            if gold is None or not str(gold).strip():
                no_gold += 1
            else:
                rows.append(RawRow(file.name, number, index_of(columns), statement_of(columns, place), str(gold)))
            number += 1
    if not rows:
        raise UserError("--input holds no row with a problem and an answer; give the file that has both")
    return rows, no_gold


def statement_of(columns: dict[str, Any], place: str) -> str:
    prompt = prompt_of(Record(place, place, "", columns), "--input")
    if isinstance(prompt, str):
        return bare_statement(prompt)
    if len(prompt) != 1 or prompt[0].role != "user":
        roles = "/".join(message.role for message in prompt)
        raise UserError(f"--input: {place} is a conversation of {roles}; prepare takes one user message per problem")
    return bare_statement(prompt[0].content)


def index_of(columns: dict[str, Any]) -> str:
    extra = columns.get("extra_info")
    candidates = [extra.get("index") if isinstance(extra, dict) else None, columns.get("unique_id"), columns.get("id")]
    return next((str(value) for value in candidates if value is not None), "")


def prepare_rows(raw: Iterable[RawRow], kind: MathSet, repaired: dict[int, str]) -> tuple[list[PreparedRow], Dropped]:
    """Rows in input order, the first of each statement. ``repaired``: input row -> better gold."""
    sound, corrupted = [], 0
    for row in raw:
        gold = repaired.get(row.row, row.gold)
        if kind.float_golds and is_float_corrupted(gold):
            corrupted += 1
        else:
            sound.append(PreparedRow(row, canonical_gold(gold), gold.strip() != row.gold.strip()))
    copies: defaultdict[str, list[PreparedRow]] = defaultdict(list)
    for candidate in sound:
        copies[duplicate_key(candidate.raw.statement)].append(candidate)
    conflicting = [same for same in copies.values() if len({row.answer for row in same}) > 1]
    kept = [same[0] for same in copies.values() if all(row.answer == same[0].answer for row in same)]
    num_conflicting = sum(map(len, conflicting))
    return kept, Dropped(
        float_corrupted=corrupted, conflicting=num_conflicting, duplicate=len(sound) - num_conflicting - len(kept)
    )
