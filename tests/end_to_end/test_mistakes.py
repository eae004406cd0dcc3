"""Each mistake of a user ends before a model is built, with exit code 2 and one sentence: the knob, its value, the fix.

Here are those that are found in files (models, tokenizers, data, rewards, checkpoints) by `train` and `sft` themselves; what a
config alone gets wrong is in tests/unit/test_wrong_configs.py.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.programs import mistakes
from tests.end_to_end.runs import TinyModel, command, finish, start, write_config
from tests.launch import run_torchrun


@dataclass(frozen=True)
class Mistake:
    overrides: str  # on the command line, apart by spaces; DIR is the folder of `make_folder`
    knob: str
    value: str
    fix: str
    world_size: int = 1
    subcommand: str = "train"


MINUTES = 7
WHOLE_BATCH = "actor.mini_batch_size=0 critic.mini_batch_size=0"
MISTAKES = {
    "misspelt key": Mistake("rollout.temprature=1", "rollout.temprature", "command line", "did you mean rollout.temperature?"),
    "missing model folder": Mistake("actor.path=DIR/gone", "actor.path", "DIR/gone", "point it at an HF model folder"),
    "missing critic folder": Mistake("critic.path=DIR/gone", "critic.path", "DIR/gone", "point it at an HF model folder"),
    "unknown family": Mistake("actor.path=DIR/llama", "actor.path", "'llama'", "supported are qwen2, qwen3"),
    "critic of a smaller vocabulary": Mistake("critic.path=DIR/few_words", "critic.path", "DIR/few_words", "same tokenizer"),
    "missing data file": Mistake("data.train=[DIR/gone.jsonl]", "data.train", "gone.jsonl", "correct the path"),
    "missing benchmark": Mistake("data.validation=[DIR/gone.parquet]", "data.validation", "gone.parquet", "correct the path"),
    "unknown kind of file": Mistake("data.train=[DIR/rows.csv]", "data.train", "rows.csv", "convert it"),
    "empty data set": Mistake("data.train=[DIR/empty.jsonl]", "data.train", "empty.jsonl", "give a file with at least one"),
    "not JSON": Mistake("data.train=[DIR/broken.jsonl]", "data.train", "line 1", "write one JSON object per line"),
    "no answer": Mistake("data.train=[DIR/no_answer.jsonl]", "data.train", "`reward_model.ground_truth`", "rename or add one"),
    "no prompt": Mistake("data.validation=[DIR/no_prompt.jsonl]", "data.validation", "`prompt`", "rename or add one"),
    "long prompts": Mistake("rollout.max_prompt_tokens=16", "rollout.max_prompt_tokens", "16", "raise it or set data.overlong"),
    "more prompts than rows": Mistake("prompts_per_step=32", "prompts_per_step", "32", "set it between 1 and 24 or add data"),
    "system prompt without a template": Mistake("data.system_prompt=Think.", "data.system_prompt", "Think.", "clear it"),
    "unknown reward": Mistake("reward.name=boxedd", "reward.name", "boxedd", "write package.module:attribute"),
    "missing reward module": Mistake("reward.name=no_such_package:f", "reward.name", "no_such_package:f", "correct it or add"),
    "missing reward function": Mistake("reward.name=math:no_such_name", "reward.name", "no_such_name", "correct the name"),
    "reward is no function": Mistake("reward.name=math:pi", "reward.name", "math:pi", "name a function or a class"),
    "no reward model": Mistake("reward.name=model", "reward.model.path", "''", "point it at the HF folder"),
    "reward model is a policy": Mistake(
        "reward.name=model reward.model.path=DIR/llama", "reward.model.path", "llama", "choose a"
    ),
    "pool beyond the data": Mistake(
        "data.curriculum.by=variance", "prompts_per_step x data.curriculum.pool", "32", "set it between 1 and 24"
    ),
    "FP8 on a CPU": Mistake("rollout.quantization=fp8", "rollout.quantization", "fp8", "set rollout.quantization=none"),
    "idle replicas": Mistake("critic.mini_batch_size=1", "critic.mini_batch_size", "1", "to 2 or more", world_size=2),
    "tp and heads": Mistake("actor.tp=3", "actor.tp", "3", "divisor of 4 and 2", 3),
    "tp and KV heads": Mistake("critic.path=DIR/three_kv_heads critic.tp=2", "critic.tp", "2", "critic.tp=1", 2),
    "pp and layers": Mistake("actor.pp=4", "actor.pp", "4", "set actor.pp=", 4),
    "rollout.tp and heads": Mistake(f"rollout.tp=8 {WHOLE_BATCH}", "rollout.tp", "8", "rollout.tp=1", 8),
    "beyond the positions": Mistake("rollout.max_response_tokens=2000", "rollout.max_response_tokens", "2000", "lower one"),
    "nothing to resume": Mistake("checkpoint.resume=must", "checkpoint.resume", "must", "set checkpoint.resume=auto"),
    "run_dir is a file": Mistake("run_dir=DIR/rows.csv", "run_dir", "DIR/rows.csv", "name a folder"),
    "SFT without a response": Mistake("data.train=[DIR/train.jsonl]", "data.train", "`response`", "rename or add one", 1, "sft"),
    "SFT of an unknown family": Mistake("model.path=DIR/llama", "model.path", "'llama'", "supported are", 1, "sft"),
    "SFT mini-batch": Mistake("model.mini_batch_size=2", "model.mini_batch_size", "2", "set batch_size", 1, "sft"),
    "SFT run_dir is a file": Mistake("run_dir=DIR/rows.csv", "run_dir", "DIR/rows.csv", "name a folder", 1, "sft"),
}


def _copy_model(source: Path, target: Path, **changes: Any) -> None:
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))


def make_folder(folder: Path, tiny_model: TinyModel) -> Path:
    """A good config and everything that the mistakes point at."""
    config = write_config(folder, tiny_model)
    _copy_model(tiny_model("qwen2"), folder / "llama", model_type="llama")
    _copy_model(tiny_model("qwen2_critic"), folder / "few_words", vocab_size=64)
    _copy_model(tiny_model("qwen2"), folder / "three_kv_heads", num_attention_heads=6, num_key_value_heads=3)
    files = {
        "empty.jsonl": "",
        "broken.jsonl": "{prompt: 1}\n",
        "rows.csv": "prompt,answer\n1+1,2\n",
        "no_answer.jsonl": '{"prompt": "1+1"}\n',
        "no_prompt.jsonl": '{"text": "1+1", "answer": "2"}\n',
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    examples = folder / "examples.jsonl"
    examples.write_text('{"prompt": "1+1", "response": "2"}\n' * 4)
    (folder / "sft.yaml").write_text(f"batch_size: 2\nmodel: {{path: {tiny_model('qwen2')}}}\ndata: {{train: [{examples}]}}\n")
    return config


@pytest.fixture(scope="module")
def folder(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mistakes")
    make_folder(path, tiny_model)
    return path


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, dict[str, Any]]:
    cases = {}
    for number, (name, mistake) in enumerate(MISTAKES.items()):
        config = folder / ("sft.yaml" if mistake.subcommand == "sft" else "config.yaml")
        words = mistake.overrides.replace("DIR", str(folder)).split(" ")
        if mistake.subcommand == "train":
            words.append(f"collective_timeout_minutes={MINUTES}")
        words = words if mistake.overrides.startswith("run_dir=") else [f"run_dir={folder / f'run{number}'}", *words]
        cases[name] = {"command": [mistake.subcommand, str(config), *words], "world_size": mistake.world_size}
    (folder / "cases.json").write_text(json.dumps(cases))
    run_torchrun(mistakes.__file__, 1, [folder / "cases.json", folder / "results.json"], timeout=300)
    found: dict[str, dict[str, Any]] = json.loads((folder / "results.json").read_text())
    return found


@pytest.mark.parametrize("name", list(MISTAKES))
def test_one_sentence_that_names_knob_value_and_fix(folder: Path, results: dict[str, dict[str, Any]], name: str) -> None:
    mistake, result = MISTAKES[name], results[name]
    assert result["code"] == 2
    complaints = [line for line in result["stderr"].splitlines() if line.startswith("megatron-sppo: error: ")]
    assert len(complaints) == 1 and "Traceback" not in result["stderr"], result["stderr"]
    for part in (mistake.knob, mistake.value, mistake.fix):
        assert part.replace("DIR", str(folder)) in complaints[0]


def test_nothing_was_written_for_a_mistake(folder: Path, results: dict[str, dict[str, Any]]) -> None:
    """The run folder appears with the first words of a run, after the last check and before the first model."""
    assert len(results) == len(MISTAKES)
    assert list(folder.glob("run*")) == []


def test_the_first_run_of_a_process_sets_the_time_to_wait_for_others(results: dict[str, dict[str, Any]]) -> None:
    assert list(results.values())[-1]["timeout_minutes"] == MINUTES


def test_a_mistake_is_told_within_seconds(results: dict[str, dict[str, Any]]) -> None:
    slowest = max(list(results)[1:], key=lambda name: results[name]["seconds"])  # the first one pays for the imports
    assert results[slowest]["seconds"] < 10, slowest


def test_two_ranks_tell_it_once(folder: Path) -> None:
    """As a user sees it, torchrun around two ranks: one line, no stack trace of ours or of the launcher's."""
    words = command("train", folder / "config.yaml", "--nproc", 2, f"run_dir={folder / 'twice'}", "data.train=[gone.jsonl]")
    code, stdout, stderr = finish(start(words))
    assert (code, stdout) == (2, "")
    (line,) = stderr.splitlines()
    assert line == "megatron-sppo: error: data.train[0]='gone.jsonl' is not a file; correct the path."


@pytest.mark.parametrize("subcommand", ["train", "sft", "check", "report", "config"])
def test_help_comes_at_once_with_an_example(subcommand: str) -> None:
    seconds = []
    for _ in range(2):  # the better of two: the machine may be busy
        started = time.perf_counter()
        code, stdout, stderr = finish(start([sys.executable, "-m", "megatron_sppo.cli", subcommand, "--help"]))
        seconds.append(time.perf_counter() - started)
        assert code == 0 and stderr == "" and f"example:\n  megatron-sppo {subcommand} " in stdout
    assert min(seconds) < 1.5
