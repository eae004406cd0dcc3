"""The warm start: its loss falls, its curve does not depend on the layout, and its result is a model folder for `train`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.end_to_end.runs import AS_A_USER, TinyModel, command, rows
from tests.launch import run_in_group

STEPS, EXAMPLES = 8, 12
LAYOUTS = {"dp2": "model.tp=1", "tp2": "model.tp=2", "cp2": "model.cp=2"}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sft") / "examples.jsonl"
    pairs = [{"prompt": f"{n} + {n} =", "response": f" twice {n}, so \\boxed{{{2 * n}}}"} for n in range(EXAMPLES)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folders(tiny_model: TinyModel, examples: Path) -> dict[str, Path]:
    config = examples.with_name("sft.yaml")
    config.write_text(
        f"steps: {STEPS}\nbatch_size: 6\nvalidate_every: 4\n"
        f"model: {{path: {tiny_model('qwen2')}, micro_batch_tokens: 128, optimizer: {{lr: 1.0e-3}}}}\n"
        f"data: {{train: [{examples}], validation: [{examples}], max_tokens: 256}}\n"
    )
    for name, layout in LAYOUTS.items():
        words = command("sft", config, "--nproc", 2, f"run_dir={config.with_name(name)}", layout)
        output = run_in_group(words, AS_A_USER, timeout=240)
        assert "first example as the model reads it" in output and "\\boxed{0}<|end|>" in output
    return {name: config.with_name(name) for name in LAYOUTS}


def test_the_loss_falls(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        steps = rows(folder, "train")
        assert list(steps) == list(range(1, STEPS + 1))
        assert steps[STEPS]["sft/loss"] < 0.8 * steps[1]["sft/loss"]
        assert steps[8]["sft/held_out_loss"] < steps[4]["sft/held_out_loss"]
        assert steps[STEPS]["data/epoch"] == pytest.approx(STEPS * 6 / EXAMPLES)


@pytest.mark.parametrize("layout", ["tp2", "cp2"])
def test_data_parallel_equals_other_layouts(folders: dict[str, Path], layout: str) -> None:
    for name in ("sft/loss", "sft/grad_norm", "sft/held_out_loss"):
        dp, other = ([row[name] for row in rows(folders[key], "train").values() if name in row] for key in ("dp2", layout))
        assert dp == pytest.approx(other, abs=1e-4, rel=1e-4), name


def test_transformers_gives_the_exported_model_that_loss(tiny_model: TinyModel, folders: dict[str, Path], examples: Path) -> None:
    """Held-out loss of the exported model: mean over all response tokens and the end token, prompt masked."""
    folder = folders["tp2"] / "hf"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    total, count = 0.0, 0
    for line in examples.read_text().splitlines():
        pair = json.loads(line)
        prompt = tokenizer(pair["prompt"])["input_ids"]
        response = [*tokenizer(pair["response"])["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(response), reduction="sum"))
        count += len(response)
    assert rows(folders["tp2"], "train")[STEPS]["sft/held_out_loss"] == pytest.approx(total / count, abs=1e-4)
    before, after = (load_file(path / "model.safetensors") for path in (tiny_model("qwen2"), folder))
    assert before.keys() == after.keys() and not torch.equal(before["lm_head.weight"], after["lm_head.weight"])
