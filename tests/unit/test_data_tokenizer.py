"""Tokenizers are trained on the spot; nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from megatron_sppo.data.tokenizer import load_tokenizer
from megatron_sppo.errors import UserError

from .tiny_tokenizers import BOS, EOS, R1_TEMPLATE, TEXTS, write_bpe, write_sentencepiece


@pytest.mark.parametrize("text", [TEXTS[0], TEXTS[1], "café ∑ 😀  two  spaces\n"])
def test_byte_level_bpe_round_trips(tmp_path: Path, text: str) -> None:
    tokenizer = load_tokenizer(str(write_bpe(tmp_path)))
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == tokenizer.decode([*tokens, tokenizer.vocab_size + 5]) == text
    assert all(0 <= token < tokenizer.vocab_size for token in tokens)
    assert tokenizer.encode_batch([text, text[:3]]) == [tokens, tokenizer.encode(text[:3])]


def test_decode_hides_or_shows_special_tokens(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(write_bpe(tmp_path)))
    tokens = [*tokenizer.encode("12"), tokenizer.eos_token_id]
    assert tokenizer.decode(tokens) == "12"
    assert tokenizer.decode(tokens, skip_special=False) == "12" + EOS


def test_bos_is_added_once_and_only_where_declared(tmp_path: Path) -> None:
    plain = load_tokenizer(str(write_bpe(tmp_path / "plain")))
    declares = load_tokenizer(str(write_bpe(tmp_path / "declares", template=R1_TEMPLATE, declares_bos=True)))
    assert plain.encode("12", add_bos=True) == plain.encode("12")
    assert declares.encode("12", add_bos=True) == [0, *declares.encode("12")]
    rendered = declares.render_chat([{"role": "user", "content": "12"}])
    assert declares.encode(rendered).count(0) == 1


def test_folders_without_tokenizer_json(tmp_path: Path) -> None:
    """Qwen2's vocab.json + merges.txt, and Llama's SentencePiece model with a tokenizer_config.json."""
    bpe = write_bpe(tmp_path / "bpe")
    model = json.loads((bpe / "tokenizer.json").read_text())["model"]
    (bpe / "tokenizer.json").unlink()
    (bpe / "vocab.json").write_text(json.dumps(model["vocab"]))
    (bpe / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]))
    (bpe / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer", "eos_token": EOS}))
    tokenizer = load_tokenizer(str(bpe))
    assert tokenizer.decode(tokenizer.encode(TEXTS[0])) == TEXTS[0]

    llama = write_sentencepiece(tmp_path / "llama").parent
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    (llama / "tokenizer_config.json").write_text(json.dumps(config))
    bare = load_tokenizer(str(llama / "tokenizer.model"))
    assert load_tokenizer(str(llama)).encode(TEXTS[0]) == bare.encode(TEXTS[0])
    assert load_tokenizer(str(llama)).encode(TEXTS[0], add_bos=True) == [1, *bare.encode(TEXTS[0])]


def test_chat_template_opens_the_assistants_turn(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(write_bpe(tmp_path, template=R1_TEMPLATE)))
    assert tokenizer.has_chat_template
    rendered = tokenizer.render_chat([{"role": "user", "content": "1 + 1?"}], system="Be brief.")
    assert rendered == f"{BOS}Be brief.<|user|>1 + 1?<|assistant|><think>\n"


def test_tokenizer_json_wins_over_a_wrong_class_name(tmp_path: Path) -> None:
    """R1-Distill-Qwen: a byte-level BPE under a Qwen2 config that names Llama's tokenizer class."""
    folder = write_bpe(tmp_path, template=R1_TEMPLATE, declares_bos=True, tokenizer_class="LlamaTokenizerFast")
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer = load_tokenizer(str(folder))
    for text in TEXTS[:2]:
        assert tokenizer.encode(text) == raw.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text, add_bos=True) == raw.encode(text).ids


def test_template_that_refuses_a_role_is_the_users_to_mend(tmp_path: Path) -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{{ messages[0].content }}"
    tokenizer = load_tokenizer(str(write_bpe(tmp_path, template=template)))
    with pytest.raises(UserError, match="system/user.*no system role.*data.system_prompt"):
        tokenizer.render_chat([{"role": "user", "content": "hi"}], system="Be brief.")


def test_sentencepiece_from_a_file_and_from_its_folder(tmp_path: Path) -> None:
    model = write_sentencepiece(tmp_path)
    for path in (model, model.parent):
        tokenizer = load_tokenizer(str(path))
        tokens = tokenizer.encode(TEXTS[0])
        assert tokenizer.decode(tokens) == TEXTS[0]
        assert tokenizer.encode_batch([TEXTS[0]], add_bos=True) == [tokens]
        assert not tokenizer.has_chat_template
        assert max(tokens) < tokenizer.vocab_size
        eos = tokenizer.eos_token_id
        assert tokenizer.decode([*tokens, eos]) == TEXTS[0]
        assert tokenizer.decode([*tokens, eos], skip_special=False) == TEXTS[0] + "</s>"
        assert "\u2047" in tokenizer.decode([*tokens, tokenizer.vocab_size + 5])


def test_a_path_without_a_tokenizer_names_the_knob(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.path='/nowhere/model' does not exist"):
        load_tokenizer("/nowhere/model", knob="model.path")
    with pytest.raises(UserError, match=r"actor\.path=.*put tokenizer.json"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "broken.model").write_bytes(b"not a model")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        load_tokenizer(str(tmp_path))
