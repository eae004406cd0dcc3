"""A learned reward: any HF sequence classifier, its score brought into [0, 1] so that SPPO's critic can predict it.

Every rank holds the whole classifier and grades its share of the responses. On a GPU the weights wait in host memory and are
on the device only while they grade. Weights come from safetensors alone; no code from the folder is run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from megatron_sppo.config.rewards import RewardModelConfig
from megatron_sppo.errors import UserError
from megatron_sppo.parallel import platform
from megatron_sppo.rewards.protocol import Sample, Verdict

log = logging.getLogger(__name__)
KNOB = "reward.model"


class RewardModel:
    """Reads (prompt, response) through its own chat template; the gold is not shown to it.

    Everything that can be the user's mistake is raised when it is made; weights are read at the first grading.
    """

    def __init__(self, config: RewardModelConfig) -> None:
        self.config = config
        self.num_labels = check_folder(config)
        self.tokenizer = load_tokenizer(config.path)

    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        rows = [self.tokens_of(sample) for sample in samples]
        long = sum(len(row) > self.config.max_tokens for row in rows)
        if long:
            log.warning("%s.max_tokens=%d: %d of %d texts lost tokens on the left", KNOB, self.config.max_tokens, long, len(rows))
        scores = self.scores([row[-self.config.max_tokens :] for row in rows])
        return [
            Verdict(float(reward), reason="scored" if len(row) <= self.config.max_tokens else "cut on the left")
            for reward, row in zip(self.scaled(scores), rows, strict=True)
        ]

    def tokens_of(self, sample: Sample) -> list[int]:
        """The dialogue in the classifier's template, or prompt and response one after the other where it has none."""
        response = sample.response.rpartition("</think>")[2].strip() if self.config.answer_only else sample.response
        tokenizer = self.tokenizer
        if not tokenizer.chat_template:
            return list(tokenizer(sample.prompt + response, verbose=False)["input_ids"])
        messages = sample.messages or (("user", sample.prompt),)
        dialogue = [{"role": role, "content": content} for role, content in (*messages, ("assistant", response))]
        try:
            text = tokenizer.apply_chat_template(dialogue, tokenize=False)
        except TemplateError as error:
            raise UserError(f"{KNOB}.path={self.config.path} has a chat template that refuses the dialogue ({error}).") from error
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    @torch.inference_mode()
    def scores(self, rows: Sequence[list[int]]) -> Tensor:
        """[S, labels] float32 logits. They do not depend on which rows share a batch, up to rounding."""
        logits = torch.empty(len(rows), self.num_labels)
        if not rows:
            return logits
        with on_device(load_classifier(self.config)) as model:
            for batch in batches([len(row) for row in rows], self.config.batch_tokens):
                logits[batch] = score_batch(model, [rows[index] for index in batch]).float().cpu()
        return logits

    def scaled(self, logits: Tensor) -> Tensor:
        """[S] in [0, 1] from [S, labels]."""
        config = self.config
        if config.scale == "label":
            return logits.softmax(-1)[:, config.label]
        score = logits[:, 0]
        return score.sigmoid() if config.scale == "sigmoid" else ((score - config.low) / (config.high - config.low)).clamp(0, 1)


def check_folder(config: RewardModelConfig) -> int:
    """The number of labels; UserError for what cannot work."""
    folder = Path(config.path)
    if not config.path or not (folder / "config.json").is_file():
        raise UserError(f"{KNOB}.path={config.path!r} has no config.json; point it at the HF folder of a sequence classifier.")
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    kinds = found.get("architectures") or ["nothing"]
    if not kinds[0].endswith("ForSequenceClassification"):
        raise UserError(f"{KNOB}.path={config.path} holds {kinds[0]}; choose a ...ForSequenceClassification model.")
    labels = len(found.get("id2label") or {0: "", 1: ""})
    if config.scale == "label" and not 0 <= config.label < labels:
        raise UserError(f"{KNOB}.label={config.label} is none of the {labels} classes; choose 0 to {labels - 1}.")
    if config.scale != "label" and labels != 1:
        raise UserError(f"{KNOB}.scale={config.scale} reads one score but {config.path} has {labels} classes; use scale=label.")
    if config.scale == "linear" and config.low >= config.high:
        raise UserError(f"{KNOB}.low={config.low} is not below {KNOB}.high={config.high}; swap or change them.")
    return labels


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{KNOB}.path={path} has no readable tokenizer ({type(error).__name__}); add its files.") from error


@cache
def load_classifier(config: RewardModelConfig) -> Any:
    """In host memory, once per process and setting."""
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            config.path,
            dtype=platform.resolve_dtype(config.dtype),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except OSError as error:
        raise UserError(f"{KNOB}.path={config.path} has no safetensors weights; convert them (pickles are not read).") from error
    return model.eval().requires_grad_(False)


@contextmanager
def on_device(model: Any) -> Iterator[Any]:
    """The model on this rank's device while inside."""
    try:
        yield model.to(platform.device())
    finally:
        model.to("cpu")


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, each of at most ``budget`` padded tokens or one row."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def score_batch(model: Any, rows: Sequence[list[int]]) -> Tensor:
    """[S, labels]. HF finds a row's last token as the last one that is not padding, so padding must occur in no row."""
    used = set().union(*rows)
    padding = next(token for token in count() if token not in used)
    assert padding < model.config.get_text_config().vocab_size, "a batch uses every token of the vocabulary"
    model.config.pad_token_id = model.config.get_text_config().pad_token_id = padding
    width = max(len(row) for row in rows)
    tokens = torch.full((len(rows), width), padding)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = torch.tensor(row)
    tokens = tokens.to(model.device)
    return model(input_ids=tokens, attention_mask=(tokens != padding).long(), use_cache=False).logits
