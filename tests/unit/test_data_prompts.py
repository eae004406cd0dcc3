from __future__ import annotations

import json
import logging

import pytest
import torch

from megatron_sppo.config.schema import DataConfig, SFTDataConfig
from megatron_sppo.data.prompts import PromptStream, render_prompts
from megatron_sppo.data.rows import ChatMessage, Row, SupervisedRow
from megatron_sppo.data.sft import SFTStream, tokenize_examples
from megatron_sppo.data.tokenizer import Tokenizer, load_tokenizer
from megatron_sppo.errors import UserError

from .tiny_tokenizers import BOS, R1_TEMPLATE, write_bpe, write_sentencepiece

ROWS = [Row(f"sums:{i}", "What is " + "12 + " * i + "34 ?", str(34 + 12 * i), "sums") for i in range(8)]


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(str(write_bpe(tmp_path_factory.mktemp("chat"), template=R1_TEMPLATE, declares_bos=True)))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(str(write_sentencepiece(tmp_path_factory.mktemp("plain"))))


def test_chat_prompts_are_rendered_with_system_and_suffix(chat: Tokenizer) -> None:
    config = DataConfig(system_prompt="Be brief.", prompt_suffix=" Box it.")
    prompt_set = render_prompts(ROWS[:1], chat, config, 100)
    assert prompt_set.first_rendered() == f"{BOS}Be brief.<|user|>What is 34 ? Box it.<|assistant|><think>\n"
    prompts = prompt_set.prompts
    assert prompts.tokens.values.tolist() == chat.encode(prompts.texts[0])
    assert prompts.tokens.values.tolist().count(0) == 1  # BOS, once
    assert (prompts.ids, prompts.golds, prompts.sources) == (("sums:0",), ("34",), ("sums",))


def test_text_and_one_user_message_render_alike(chat: Tokenizer) -> None:
    text = ROWS[3]
    message = Row(text.id, (ChatMessage("user", str(text.messages_or_text)),), text.gold, text.source)
    for template in ("auto", "none"):
        config = DataConfig(chat_template=template, prompt_suffix="!")
        assert (
            render_prompts([text], chat, config, 100).prompts.texts == render_prompts([message], chat, config, 100).prompts.texts
        )


def test_plain_text_gets_the_declared_bos_alone(chat: Tokenizer, plain: Tokenizer) -> None:
    config = DataConfig(chat_template="none")
    assert render_prompts(ROWS[:1], chat, config, 100).prompts.tokens.values.tolist() == [0, *chat.encode("What is 34 ?")]
    assert render_prompts(ROWS[:1], plain, config, 100).prompts.tokens.values.tolist() == plain.encode("What is 34 ?")


def test_a_tokenizer_without_a_template_is_announced(plain: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert render_prompts(ROWS[:1], plain, DataConfig(), 100).first_rendered() == "What is 34 ?"
    assert "no chat template" in caplog.text


def test_overlong_prompts_are_filtered_or_cut_on_the_left(chat: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    lengths = render_prompts(ROWS, chat, DataConfig(), 1000).prompts.tokens.lengths.tolist()
    limit = sorted(lengths)[3]
    num_long = sum(length > limit for length in lengths)
    assert 0 < num_long < len(ROWS)
    with caplog.at_level(logging.INFO):
        filtered = render_prompts(ROWS, chat, DataConfig(), limit)
    assert (len(filtered), filtered.num_filtered, filtered.num_truncated) == (len(ROWS) - num_long, num_long, 0)
    assert f"over {limit} tokens {num_long} left out" in caplog.text
    cut = render_prompts(ROWS, chat, DataConfig(overlong="truncate_left"), limit)
    assert (len(cut), cut.num_filtered, cut.num_truncated) == (len(ROWS), 0, num_long)
    assert (
        cut.prompts.tokens.rows()[-1].tolist()
        == chat.encode(render_prompts(ROWS, chat, DataConfig(), 1000).prompts.texts[-1])[-limit:]
    )
    assert cut.prompts.texts[-1] == chat.decode(cut.prompts.tokens.rows()[-1].tolist(), skip_special=False)
    assert cut.prompts.texts[-1].endswith("34 ?<|assistant|><think>\n")


def test_impossible_prompts_name_the_knob(chat: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"rollout\.max_prompt_tokens=3 leaves none of 8 prompts \(the shortest has \d+ tokens\)"):
        render_prompts(ROWS, chat, DataConfig(), 3)
    with pytest.raises(UserError, match=r"data\.system_prompt='S' needs a chat template"):
        render_prompts(ROWS, chat, DataConfig(chat_template="none", system_prompt="S"), 100)
    two = Row("x:0", (ChatMessage("system", "S"), ChatMessage("user", "1 + 1?")), "2", "x")
    with pytest.raises(UserError, match="Row x:0 has 2 messages and no chat template"):
        render_prompts([two], chat, DataConfig(chat_template="none"), 100)
    with pytest.raises(UserError, match=r"data\.system_prompt='T', but row x:0 has a system message"):
        render_prompts([two], chat, DataConfig(system_prompt="T"), 100)


def test_the_stream_resumes_and_knows_its_data(chat: Tokenizer) -> None:
    prompt_set = render_prompts(ROWS, chat, DataConfig(), 1000)
    stream = PromptStream(prompt_set, 3, seed=1, shuffle=True)
    stream.next_batch()
    state = json.loads(json.dumps(stream.state_dict()))
    again = PromptStream(prompt_set, 3, seed=1, shuffle=True)
    again.load_state_dict(state)
    for _ in range(7):
        one, two = stream.next_batch(), again.next_batch()
        assert one.ids == two.ids and torch.equal(one.tokens.values, two.tokens.values)
        assert [chat.decode(row.tolist(), skip_special=False) for row in one.tokens.rows()] == list(one.texts)
    other = PromptStream(render_prompts(ROWS, chat, DataConfig(prompt_suffix="!"), 1000), 3, seed=1, shuffle=True)
    with pytest.raises(UserError, match="fingerprint"):
        other.load_state_dict(state)
    with pytest.raises(UserError, match="prompts_per_step=9 cannot be filled from 8"):
        PromptStream(prompt_set, 9, seed=1, shuffle=True)


def test_head_limits_a_benchmark(chat: Tokenizer) -> None:
    prompt_set = render_prompts(ROWS, chat, DataConfig(), 1000)
    assert prompt_set.head(2).prompts.ids == ("sums:0", "sums:1")
    assert prompt_set.head(0) is prompt_set


EXAMPLES = [SupervisedRow(f"sft:{i}", f"What is {i} + 1 ?", "The answer is " + "1 " * i) for i in range(6)]


def test_sft_prompts_look_as_in_rl_and_responses_end_with_eos(chat: Tokenizer) -> None:
    examples = tokenize_examples(EXAMPLES, chat, SFTDataConfig())
    rl_rows = [Row(row.id, row.messages_or_text, "", "") for row in EXAMPLES]
    assert torch.equal(examples.prompt_tokens.values, render_prompts(rl_rows, chat, DataConfig(), 1000).prompts.tokens.values)
    for tokens, row in zip(examples.response_tokens.rows(), EXAMPLES, strict=True):
        assert tokens[-1] == chat.eos_token_id and tokens.tolist().count(chat.eos_token_id) == 1
        assert chat.decode(tokens.tolist()) == row.response
    assert examples.num_dropped == 0


def test_a_response_that_spells_out_eos_ends_once(chat: Tokenizer) -> None:
    spelt = SupervisedRow("a:0", "1", "2" + chat.decode([chat.eos_token_id], skip_special=False))
    assert tokenize_examples([spelt], chat, SFTDataConfig()).response_tokens.values.tolist() == [
        *chat.encode("2"),
        chat.eos_token_id,
    ]


def test_overlong_examples_are_dropped_and_counted(plain: Tokenizer) -> None:
    full = tokenize_examples(EXAMPLES, plain, SFTDataConfig())
    totals = (full.prompt_tokens.lengths + full.response_tokens.lengths).tolist()
    limit = sorted(totals)[2]
    kept = tokenize_examples(EXAMPLES, plain, SFTDataConfig(max_tokens=limit))
    assert len(kept) == sum(total <= limit for total in totals)
    assert kept.num_dropped == len(EXAMPLES) - len(kept) > 0
    with pytest.raises(UserError, match=r"data\.max_tokens=1 leaves none of 6 examples"):
        tokenize_examples(EXAMPLES, plain, SFTDataConfig(max_tokens=1))


def test_the_sft_stream_resumes(plain: Tokenizer) -> None:
    examples = tokenize_examples(EXAMPLES, plain, SFTDataConfig())
    stream = SFTStream(examples, 4, seed=1, shuffle=True)
    stream.next_batch()
    again = SFTStream(examples, 4, seed=1, shuffle=True)
    again.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    for _ in range(4):
        one, two = stream.next_batch(), again.next_batch()
        assert torch.equal(one.prompt_tokens.values, two.prompt_tokens.values)
        assert torch.equal(one.response_tokens.values, two.response_tokens.values)
    with pytest.raises(UserError, match="batch_size=7 cannot be filled"):
        SFTStream(examples, 7, seed=1, shuffle=True)
