"""Make everything the quickstart needs from a seed: the task's data, a tokenizer trained on it, and two random models.

    python examples/quickstart/make_assets.py --output runs/quickstart/assets --seed 1

    warm_start.jsonl   {"prompt", "response"}   worked examples for `megatron-sppo sft`
    train.jsonl        {"prompt", "answer"}     problems for `megatron-sppo train`
    arithmetic.jsonl   {"prompt", "answer"}     held-out problems
    model/             the policy: Qwen2 architecture, random weights, HF format with its tokenizer
    critic/            the critic's backbone: smaller, the same tokenizer

No problem is in two files. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
from transformers.utils import logging as transformers_logging

from task import Difficulty, Problem, draw_distinct

END_TOKEN, PAD_TOKEN = "<|end|>", "<|pad|>"
MAX_VOCABULARY = 320  # 256 bytes, two special tokens, and the few words of the task
CONTEXT = 256
MAX_RESPONSE_TOKENS = 64  # the longest worked solution with its end token; `rollout.max_response_tokens` of the quickstart


INITIALIZER_RANGE = 0.06  # about 1 / sqrt(hidden): models this narrow learn from it in half the steps that 0.02 takes


@dataclass(frozen=True)
class Sizes:
    """How many problems of each kind. The quickstart's defaults; tests use fewer."""

    warm_start: int = 8_000
    train: int = 10_000
    validation: int = 256


@dataclass(frozen=True)
class ModelShape:
    """Heads have 32 channels, the smallest size vLLM's CPU attention takes; two KV heads, so that TP 2 splits them."""

    hidden: int
    layers: int
    feed_forward: int


# Each operation is a chance to err, and one with two digits a greater one, for the warm start shows few of them: success goes
# from nearly always to nearly never over the prompts, and a critic can tell which is which by reading them.
TASK = Difficulty(operations=(2, 3, 4, 5), two_digit_share=0.35)
WARM_START = replace(TASK, two_digit_share=0.04)
# Half of the examples answer at once. A small model can only guess then, and the warm-started policy does so as often; that
# working it out pays is for SPPO to find, as reasoning models do on their base models' mixed habits.
DIRECT_SHARE = 0.5
POLICY = ModelShape(hidden=192, layers=4, feed_forward=640)  # 2.0 M parameters
CRITIC = ModelShape(hidden=128, layers=3, feed_forward=384)  # 0.7 M parameters


def make_assets(output: Path, seed: int, sizes: Sizes) -> None:
    """Write all files under ``output``."""
    output.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    taken: set[Problem] = set()
    validation = draw_distinct(rng, TASK, sizes.validation, taken)
    train = draw_distinct(rng, TASK, sizes.train, taken)
    warm_start = draw_distinct(rng, WARM_START, sizes.warm_start, taken)
    write_rows(output / "warm_start.jsonl", (worked_example(rng, p) for p in warm_start))
    for name, problems in (("train", train), ("arithmetic", validation)):
        write_rows(output / f"{name}.jsonl", ({"prompt": p.prompt, "answer": p.answer} for p in problems))

    tokenizer = train_tokenizer([text for p in warm_start[:2000] for text in (p.prompt, p.response)])
    for name, shape, offset in (("model", POLICY, 0), ("critic", CRITIC, 1)):
        save_random_model(output / name, shape, tokenizer, seed + offset)


def worked_example(rng: random.Random, problem: Problem) -> dict[str, str]:
    """Step by step, or the answer at once; both are right."""
    direct = rng.random() < DIRECT_SHARE
    return {"prompt": problem.prompt, "response": problem.direct_response if direct else problem.response}


def write_rows(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def train_tokenizer(texts: Sequence[str]) -> Qwen2Tokenizer:
    """A byte-level BPE with Qwen2's pre-tokenizer, in which every digit is a token of its own.

    transformers reads the tokenizer of any folder with a Qwen2 model as `Qwen2Tokenizer`, so it is trained as one.
    """
    special = {"eos_token": END_TOKEN, "pad_token": PAD_TOKEN, "unk_token": None}
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = Qwen2Tokenizer(**special).backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY,
        special_tokens=[PAD_TOKEN, END_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    learnt = json.loads(bpe.to_str())["model"]
    return Qwen2Tokenizer(vocab=learnt["vocab"], merges=[tuple(merge) for merge in learnt["merges"]], **special)


def save_random_model(folder: Path, shape: ModelShape, tokenizer: Qwen2Tokenizer, seed: int) -> None:
    """A Qwen2 causal LM with HF's own initialisation scheme, fp32."""
    config = Qwen2Config(
        vocab_size=len(tokenizer) + len(tokenizer) % 2,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // 32,
        num_key_value_heads=2,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=CONTEXT,
        initializer_range=INITIALIZER_RANGE,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        dtype="float32",
    )
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.model_max_length = CONTEXT
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=1, help="seed of problems and weights")
    arguments = parser.parse_args()
    transformers_logging.disable_progress_bar()
    make_assets(arguments.output, arguments.seed, Sizes())
    print(f"wrote data, tokenizer, model and critic to {arguments.output}")


if __name__ == "__main__":
    main()
