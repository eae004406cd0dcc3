"""The quickstart's task: right answers, disjoint files, a tokenizer that loses nothing, models of the promised size."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_sppo.rewards.boxed import last_boxed

QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart"


def load(name: str) -> ModuleType:
    """A script of the quickstart as a module; registered, because dataclasses look their module up."""
    spec = importlib.util.spec_from_file_location(name, QUICKSTART / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


task = load("task")
make_assets = load("make_assets")
SIZES = make_assets.Sizes(warm_start=600, train=200, validation=50)


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assets")
    make_assets.make_assets(folder, 1, SIZES)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_problem_reads_as_documented() -> None:
    problem = task.Problem(operands=(17, 8, 6, 5), signs=(1, -1, 1))
    assert problem.prompt == "Compute 17+8-6+5.\n"
    assert problem.response == "17+8=25\n25-6=19\n19+5=24\n\\boxed{24}"
    assert problem.direct_response == "\\boxed{24}"
    assert problem.answer == "24"


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_every_step_is_true_and_stays_in_range(share: float) -> None:
    rng = random.Random(3)
    difficulty = task.Difficulty(operations=(1, 4), two_digit_share=share)
    for _ in range(2000):
        problem = task.draw_problem(rng, difficulty)
        *steps, boxed = problem.response.split("\n")
        assert len(steps) in difficulty.operations
        for step in steps:
            left, sign, right, result = re.fullmatch(r"(\d+)([+-])(\d+)=(\d+)", step).groups()
            assert int(left) + (int(right) if sign == "+" else -int(right)) == int(result)
            assert 0 <= int(result) <= task.MAX_TOTAL
        assert steps[-1].endswith(f"={problem.answer}") and boxed == f"\\boxed{{{problem.answer}}}"


def test_difficulty_sets_the_share_of_two_digit_problems() -> None:
    rng = random.Random(5)

    def share(wanted: float) -> float:
        problems = [task.draw_problem(rng, task.Difficulty((3,), wanted)) for _ in range(1000)]
        kinds = [{operand >= 10 for operand in problem.operands[1:]} for problem in problems]
        assert all(len(kind) == 1 for kind in kinds), "a problem's operands are of one kind"
        return sum(True in kind for kind in kinds) / len(kinds)

    assert share(0.0) == 0.0
    assert share(1.0) == 1.0
    assert share(0.3) == pytest.approx(0.3, abs=0.04)


def test_files_are_complete_and_disjoint(assets: Path) -> None:
    prompts = {name: [row["prompt"] for row in rows(assets / f"{name}.jsonl")] for name in ("warm_start", "train", "arithmetic")}
    assert {name: len(found) for name, found in prompts.items()} == {"warm_start": 600, "train": 200, "arithmetic": 50}
    together = [prompt for found in prompts.values() for prompt in found]
    assert len(set(together)) == len(together)


def test_worked_examples_earn_the_reward(assets: Path) -> None:
    for row in rows(assets / "warm_start.jsonl"):
        expression = re.fullmatch(r"Compute (.+)\.\n", row["prompt"]).group(1)
        value = sum(int(term) for term in re.findall(r"[+-]?\d+", expression))
        assert last_boxed(row["response"]) == str(value)


def test_the_same_seed_gives_the_same_files_and_another_seed_others(assets: Path, tmp_path: Path) -> None:
    make_assets.make_assets(tmp_path / "again", 1, SIZES)
    make_assets.make_assets(tmp_path / "other", 2, SIZES)
    for name in ("warm_start.jsonl", "train.jsonl", "model/model.safetensors", "model/tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (assets / name).read_bytes()
    for name in ("warm_start.jsonl", "model/model.safetensors"):
        assert (tmp_path / "other" / name).read_bytes() != (assets / name).read_bytes()


def test_the_tokenizer_loses_nothing_and_keeps_digits_apart(assets: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(assets / "model")
    for row in rows(assets / "warm_start.jsonl")[:100]:
        prompt, response = tokenizer(row["prompt"]).input_ids, tokenizer(row["response"]).input_ids
        assert tokenizer.decode(prompt + response) == row["prompt"] + row["response"]
        assert tokenizer(row["prompt"] + row["response"]).input_ids == prompt + response
        assert all(len(token.strip("Ġ")) == 1 for token in tokenizer.tokenize(row["response"]) if re.search(r"\d", token))
        assert len(response) + 1 <= make_assets.MAX_RESPONSE_TOKENS
    assert tokenizer.decode(tokenizer("any text, even é\n").input_ids) == "any text, even é\n"


def test_models_load_with_the_documented_sizes(assets: Path) -> None:
    sizes = {}
    for name in ("model", "critic"):
        model = AutoModelForCausalLM.from_pretrained(assets / name)
        tokenizer = AutoTokenizer.from_pretrained(assets / name)
        assert model.generation_config.eos_token_id == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|end|>")
        assert model.config.vocab_size >= len(tokenizer)
        sizes[name] = sum(parameter.numel() for parameter in model.parameters())
    assert 1.9e6 < sizes["model"] < 6e6
    assert 0.4e6 < sizes["critic"] < 1e6
