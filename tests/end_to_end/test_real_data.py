"""Two SPPO steps on DAPO-17k and validation on AIME and AMC: a random model earns nothing, all else must be right."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from megatron_sppo.monitor.jsonl import read_jsonl
from tests.end_to_end.runs import TinyModel, rows, train, write_config

TRAIN = "dapo-math-17k_dedup"
BENCHMARKS = {"math__aime_repeated_8x_240": 240, "math__aime2025_2025": 30, "math__amc23_2025": 40}  # name -> problems
MAX_PROMPT, MAX_RESPONSE, LIMIT, SAMPLES = 400, 16, 3, 2
BOXED = "Please output the final answer within \\boxed{}."
# As Qwen's, without its default system message.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Problem = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    folder: Path
    output: str
    rendered: dict[str, list[str]]  # file -> its prompts through transformers' own chat template
    num_tokens: dict[str, list[int]]
    golds: dict[str, list[str]]


@pytest.fixture(scope="module")
def run(shared_data: Path, tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("real")
    model = root / "model"
    shutil.copytree(tiny_model("qwen2"), model)
    (model / "chat_template.jinja").write_text(TEMPLATE)
    tokenizer = AutoTokenizer.from_pretrained(model)
    files = {name: shared_data / f"{name}.parquet" for name in (TRAIN, *BENCHMARKS)}
    problems: dict[str, list[Problem]] = {name: pq.read_table(file).to_pylist() for name, file in files.items()}
    rendered = {name: [rendering(tokenizer.apply_chat_template)(row) for row in found] for name, found in problems.items()}
    overrides = (
        f"actor.path={model}",
        f"data.train=[{files[TRAIN]}]",
        f"data.validation=[{','.join(str(files[name]) for name in BENCHMARKS)}]",
        f"rollout.max_prompt_tokens={MAX_PROMPT}",
        f"rollout.max_response_tokens={MAX_RESPONSE}",
        "rollout.temperature=0.6",
        "reward.name=boxed_numeric",
        "validation.before_training=true",
        "validation.every=2",
        f"validation.limit={LIMIT}",
        f"validation.samples={SAMPLES}",
        "actor.tp=2",
        "critic.prior=0.25",
    )
    output = train(write_config(root, tiny_model), root / "run", *overrides)
    num_tokens = {name: [len(ids) for ids in tokenizer(found)["input_ids"]] for name, found in rendered.items()}
    golds = {name: [row["reward_model"]["ground_truth"] for row in found] for name, found in problems.items()}
    return Run(root / "run", output, rendered, num_tokens, golds)


def rendering(apply: Callable[..., str]) -> Callable[[Problem], str]:
    return lambda row: apply(row["prompt"], tokenize=False, add_generation_prompt=True)


def kept(run: Run, name: str) -> list[int]:
    return [index for index, length in enumerate(run.num_tokens[name]) if length <= MAX_PROMPT]


def test_the_first_prompt_is_shown_as_the_model_reads_it(run: Run) -> None:
    shown = re.search(r"first prompt as the model reads it:\n---\n(.*?)\n---\n", run.output, re.DOTALL)
    assert shown is not None
    prompt = run.rendered[TRAIN][kept(run, TRAIN)[0]].rstrip("\n")
    assert shown[1].rstrip("\n") == prompt
    assert prompt.startswith("<|im_start|>user\n") and prompt.endswith(f"{BOXED}<|im_end|>\n<|im_start|>assistant")


def test_every_prompt_asks_for_a_box(run: Run) -> None:
    for name, prompts in run.rendered.items():
        assert all(prompt.endswith(f"{BOXED}<|im_end|>\n<|im_start|>assistant\n") for prompt in prompts), name


def test_counts_of_kept_and_left_out_prompts(run: Run) -> None:
    counts = r"(\d+) kept \(mean (\d+) tokens, longest (\d+)\); of those over 400 tokens (\d+) left out"
    announced = re.findall(counts, run.output)
    expected = []
    for lengths in run.num_tokens.values():
        short = [length for length in lengths if length <= MAX_PROMPT]
        expected.append((len(short), f"{sum(short) / len(short):.0f}", max(short), len(lengths) - len(short)))
    assert [(int(n), mean, int(longest), int(left_out)) for n, mean, longest, left_out in announced] == expected
    assert [len(run.num_tokens[name]) for name in (TRAIN, *BENCHMARKS)] == [17398, *BENCHMARKS.values()]
    assert 0 < expected[0][3] < 17398, "the limit must leave some out and some in"


def test_metrics_of_the_two_steps(run: Run) -> None:
    steps = rows(run.folder, "train")
    assert list(steps) == [1, 2]
    for step, metrics in steps.items():
        assert {
            *("reward/mean", "critic/value_mean", "critic/bce", "critic/brier", "critic/auroc", "critic/explained_variance"),
            *("advantage/mean", "advantage/std", "actor/kl_rollout", "actor/clip_fraction_low", "actor/clip_fraction_high"),
            *("actor/entropy", "actor/grad_norm", "critic/grad_norm", "response/length_mean", "response/truncated"),
            *("mismatch/logprob_abs_mean", "mismatch/logprob_abs_max", "mismatch/kl", "time/step", "time/rollout"),
            *("perf/tokens_per_second", "perf/host_peak_gib", "perf/device_peak_gib", "data/epoch"),
        } <= metrics.keys()
        assert metrics["reward/mean"] == 0.0, "16 random bytes hold no box"
        assert 1 <= metrics["response/length_mean"] <= metrics["response/length_max"] <= MAX_RESPONSE
        assert 0 < metrics["actor/entropy"] <= math.log(271)
        assert metrics["mismatch/logprob_abs_max"] < 1e-3
        assert metrics["data/epoch"] == pytest.approx(8 * step / len(kept(run, TRAIN)))
        assert metrics["advantage/mean"] == pytest.approx(-metrics["critic/value_mean"], abs=1e-6)
    assert steps[1]["critic/value_mean"] == pytest.approx(0.25, abs=1e-6), "the prior"
    assert steps[1]["critic/brier"] == pytest.approx(0.0625, abs=1e-6)
    assert steps[2]["critic/value_mean"] < 0.25, "failures lower V"


def test_validation_has_each_benchmark_with_its_interval(run: Run) -> None:
    validations = rows(run.folder, "validation")
    assert list(validations) == [0, 2]
    for metrics in validations.values():
        for name in BENCHMARKS:
            measure = f"validation/{name}/avg@{SAMPLES}"
            assert metrics[f"{measure}_low"] <= metrics[measure] <= metrics[f"{measure}_high"] <= 1
            assert metrics[measure] == 0.0
            assert 1 <= metrics[f"validation/{name}/length_mean"] <= MAX_RESPONSE
    summary = json.loads((run.folder / "train_summary.json").read_text())
    assert summary["steps"] == 2 and set(summary["validation"]) == set(BENCHMARKS)


def test_samples_show_prompt_response_and_gold(run: Run) -> None:
    samples = read_jsonl(run.folder / "samples.jsonl")
    for step in (0, 2):
        for name in BENCHMARKS:
            shown = [sample for sample in samples if (sample["step"], sample["benchmark"]) == (step, name)]
            first = kept(run, name)[:LIMIT]
            assert len(shown) == 4
            for sample in shown:
                index = int(sample["prompt_id"].rpartition(":")[2])
                assert index in first and sample["prompt"] == run.rendered[name][index]
                assert sample["gold"] == run.golds[name][index] != ""
                assert sample["reward"] == 0.0 and isinstance(sample["response"], str)
                assert 1 <= sample["num_tokens"] <= MAX_RESPONSE and sample["truncated"] in (True, False)
