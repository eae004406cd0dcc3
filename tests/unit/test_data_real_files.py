"""The public data sets, where they lie beside the repository: counts, ground truths, lengths. No problem text is kept here."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_sppo.config.schema import DataConfig, RewardConfig
from megatron_sppo.data.prompts import PromptStream, render_prompts
from megatron_sppo.data.rows import ChatMessage, Row, read_rows
from megatron_sppo.data.tokenizer import load_tokenizer
from megatron_sppo.rewards.boxed import parse_number
from megatron_sppo.rewards.load import load_accuracy
from megatron_sppo.rewards.protocol import Sample

from .tiny_tokenizers import R1_TEMPLATE, write_bpe

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
DAPO = "dapo-math-17k_dedup.parquet"
NUM_ROWS = {
    DAPO: 17_398,
    "math__aime_repeated_8x_240.parquet": 240,
    "math__aime2025_2025.parquet": 30,
    "math__amc23_2025.parquet": 40,
    "math__math_500.parquet": 500,
    "math__minerva_math_2025_processed.parquet": 272,
}
NUM_NUMERIC_GOLDS = {
    DAPO: 17_398,
    "math__aime_repeated_8x_240.parquet": 240,
    "math__aime2025_2025.parquet": 29,  # one is 336^\circ
    "math__amc23_2025.parquet": 40,
}
SUFFIX = "Please output the final answer within \\boxed{}."

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not beside the repository")


def rows_of(name: str) -> tuple[Row, ...]:
    return read_rows([str(DATA / name)], "data.train")


@pytest.mark.parametrize("name", NUM_ROWS)
def test_every_row_is_one_user_message_that_asks_for_a_box(name: str) -> None:
    rows = rows_of(name)
    assert len(rows) == len({row.id for row in rows}) == NUM_ROWS[name]
    for row in rows:
        (message,) = row.messages_or_text
        assert isinstance(message, ChatMessage) and message.role == "user" and message.content.endswith(SUFFIX)
        assert row.gold and row.source


@pytest.mark.parametrize("name", NUM_ROWS)
@pytest.mark.parametrize("reward_name", ["boxed_exact", "boxed_numeric"])
def test_each_gold_in_a_box_is_right(name: str, reward_name: str) -> None:
    reward = load_accuracy(RewardConfig(name=reward_name))
    graded = [row for row in rows_of(name) if row.gold.count("{") == row.gold.count("}")]  # Minerva's cut golds fit in no box
    samples = [
        Sample("", f"<think>\\boxed{{0}}</think>\n\\boxed{{{row.gold}}}", row.gold, row.source, truncated=False) for row in graded
    ]
    assert sum(map(float, reward(samples))) == len(samples)


@pytest.mark.parametrize("name", NUM_NUMERIC_GOLDS)
def test_numeric_golds_are_right_in_other_spellings_and_wrong_when_off_by_one(name: str) -> None:
    reward = load_accuracy(RewardConfig(name="boxed_numeric"))
    values = {row.gold: parse_number(row.gold) for row in rows_of(name)}
    golds = [row.gold for row in rows_of(name) if values[row.gold] is not None]
    assert len(golds) == NUM_NUMERIC_GOLDS[name]
    for shift, grade in ((0, 1.0), (1, 0.0)):
        answers = [values[gold] + shift for gold in golds]
        samples = [
            Sample("", f"\\boxed{{{answer}}}", gold, "", truncated=False) for answer, gold in zip(answers, golds, strict=True)
        ]
        assert {float(verdict) for verdict in reward(samples)} == {grade}


def test_dapo_through_the_chat_template(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(write_bpe(tmp_path, template=R1_TEMPLATE, declares_bos=True)))
    rows = rows_of(DAPO)
    prompt_set = render_prompts(rows, tokenizer, DataConfig(), max_prompt_tokens=1024)
    assert 0 < prompt_set.num_filtered < 300
    assert len(prompt_set) + prompt_set.num_filtered == NUM_ROWS[DAPO]
    assert int(prompt_set.prompts.tokens.lengths.max()) <= 1024
    for row, text in zip(rows[:100], prompt_set.prompts.texts[:100], strict=True):
        assert text == f"<|begin|><|user|>{row.messages_or_text[0].content}<|assistant|><think>\n"
    stream = PromptStream(prompt_set, 512, seed=1, shuffle=True)
    batches = [stream.next_batch() for _ in range(len(prompt_set) // 512)]
    assert len({row_id for batch in batches for row_id in batch.ids}) == 512 * len(batches)
