"""Text <-> token ids: HF fast tokenizers and plain SentencePiece models behind one protocol. Local files only, no remote code.

Special tokens are added in one place. A rendered chat template already carries its own (BOS included), so it is encoded
with ``add_bos=False``; plain text is encoded with ``add_bos=True``, which puts the tokenizer's BOS first only where the
tokenizer declares one. Nothing is ever appended: a prompt must not end with EOS.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Protocol

import sentencepiece
from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from megatron_sppo.errors import UserError

log = logging.getLogger(__name__)

Message = Mapping[str, str]  # {"role": ..., "content": ...}

BOS_PROBE = "a"


class Tokenizer(Protocol):
    eos_token_id: int
    vocab_size: int  # ids are below this; a model's embedding may be padded beyond it
    has_chat_template: bool

    def encode(self, text: str, add_bos: bool = False) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str], add_bos: bool = False) -> list[list[int]]: ...

    def decode(self, tokens: Sequence[int], skip_special: bool = True) -> str: ...

    def render_chat(self, messages: Sequence[Message], system: str = "") -> str:
        """Prompt text up to where the assistant starts; R1's template goes on to pre-fill ``<think>`` and a newline."""
        ...


class HFTokenizer:
    """An HF fast tokenizer."""

    def __init__(self, hf: PreTrainedTokenizerBase, path: Path, knob: str) -> None:
        if hf.eos_token_id is None:
            raise UserError(
                f"{knob}={str(path)!r}: the tokenizer names no end-of-sequence token; set `eos_token` in tokenizer_config.json."
            )
        self._hf = hf
        self.eos_token_id = int(hf.eos_token_id)
        self.vocab_size = len(hf)
        self.has_chat_template = bool(hf.chat_template)
        self._bos = declared_bos(hf)

    def encode(self, text: str, add_bos: bool = False) -> list[int]:
        return self.encode_batch([text], add_bos)[0]

    def encode_batch(self, texts: Sequence[str], add_bos: bool = False) -> list[list[int]]:
        if not texts:
            return []
        # verbose=False: HF's warning about its own model_max_length; our limits are max_prompt_tokens and max_tokens.
        rows = self._hf(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        bos = self._bos if add_bos else []
        return [bos + row for row in rows]

    def decode(self, tokens: Sequence[int], skip_special: bool = True) -> str:
        return str(self._hf.decode(list(tokens), skip_special_tokens=skip_special, clean_up_tokenization_spaces=False))

    def render_chat(self, messages: Sequence[Message], system: str = "") -> str:
        assert self.has_chat_template
        conversation = [dict(message) for message in with_system(messages, system)]
        try:
            return str(self._hf.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))
        except TemplateError as error:
            roles = "/".join(message["role"] for message in conversation)
            raise UserError(
                f"The tokenizer's chat template refuses a conversation of {roles} ({error}); "
                "mend the prompt, clear `data.system_prompt` or set data.chat_template=none."
            ) from error


class SentencePieceTokenizer:
    """A bare SentencePiece model; it has no chat template and declares no BOS."""

    has_chat_template = False

    def __init__(self, model: sentencepiece.SentencePieceProcessor, path: Path, knob: str) -> None:
        if model.eos_id() < 0:
            raise UserError(
                f"{knob}={str(path)!r}: the SentencePiece model has no end-of-sequence piece; train it with eos_id >= 0."
            )
        self._model = model
        self.eos_token_id = int(model.eos_id())
        self.vocab_size = int(model.vocab_size())

    def encode(self, text: str, add_bos: bool = False) -> list[int]:
        return list(self._model.encode(text))

    def encode_batch(self, texts: Sequence[str], add_bos: bool = False) -> list[list[int]]:
        return list(self._model.encode(list(texts), num_threads=1)) if texts else []

    def decode(self, tokens: Sequence[int], skip_special: bool = True) -> str:
        # A model whose embedding is padded can sample an id beyond the pieces; it reads as the unknown piece.
        tokens = [token if token < self.vocab_size else self._model.unk_id() for token in tokens]
        if skip_special:
            return str(self._model.decode(tokens))  # control pieces decode to nothing
        runs = [(control, list(run)) for control, run in groupby(tokens, self._model.is_control)]
        return "".join(
            "".join(map(self._model.id_to_piece, run)) if control else self._model.decode(run) for control, run in runs
        )

    def render_chat(self, messages: Sequence[Message], system: str = "") -> str:
        raise AssertionError("a SentencePiece model has no chat template; ask has_chat_template first")


def load_tokenizer(path: str, knob: str = "actor.path") -> Tokenizer:
    """The tokenizer of an HF folder, of a folder with one ``*.model`` file, or of a ``*.model`` file.

    ``tokenizer.json`` is read as it is. ``AutoTokenizer`` would rebuild it from ``tokenizer_class``, and DeepSeek-R1's
    distills, byte-level BPEs that call themselves LlamaTokenizerFast, can come out with other tokens and no error
    (huggingface/transformers#45488).
    """
    place = Path(path)
    if not path or not place.exists():
        raise UserError(f"{knob}={path!r} does not exist; give a local HF folder or a SentencePiece *.model file.")
    if place.is_file():
        return load_sentencepiece(place, knob)
    if (place / "tokenizer.json").is_file():
        return HFTokenizer(load_hf(PreTrainedTokenizerFast, place, knob), place, knob)
    if (place / "tokenizer_config.json").is_file():
        return HFTokenizer(load_hf(AutoTokenizer, place, knob), place, knob)
    models = sorted(place.glob("*.model"))
    if len(models) != 1:
        raise UserError(
            f"{knob}={path!r} holds no tokenizer that can be told apart ({len(models)} *.model files); "
            "put tokenizer.json or one SentencePiece *.model file there."
        )
    return load_sentencepiece(models[0], knob)


def load_hf(kind: type[AutoTokenizer | PreTrainedTokenizerFast], place: Path, knob: str) -> PreTrainedTokenizerBase:
    try:
        return kind.from_pretrained(str(place), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{knob}={str(place)!r}: the tokenizer cannot be read ({reason}); save it again with `save_pretrained`."
        ) from error


def load_sentencepiece(file: Path, knob: str) -> SentencePieceTokenizer:
    model = sentencepiece.SentencePieceProcessor()
    try:
        model.Load(str(file))
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{knob}={str(file)!r} is not a SentencePiece model; give a *.model file that sentencepiece trained."
        ) from error
    log.info("tokenizer: SentencePiece model %s, %d pieces", file.name, model.vocab_size())
    return SentencePieceTokenizer(model, file, knob)


def declared_bos(hf: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer itself puts before a text, ``[bos]`` or nothing, learned by asking it.

    Its flag ``add_bos_token`` is no witness: transformers 5 drops it where tokenizer.json brings a post-processor.
    """
    plain = hf(BOS_PROBE, add_special_tokens=False)["input_ids"]
    special = hf(BOS_PROBE)["input_ids"]
    for start in range(len(special) - len(plain) + 1):
        if special[start : start + len(plain)] == plain:
            return list(special[:start])
    raise AssertionError(f"special tokens change the text's own tokens: {plain} within {special}")


def with_system(messages: Sequence[Message], system: str) -> list[Message]:
    """``messages`` behind a system message, if ``system`` is not empty."""
    return [{"role": "system", "content": system}, *messages] if system else list(messages)
