"""TRL's GRPOTrainer on the quickstart's task: the outside reference of examples/compare_algorithms.

    .venv-trl/bin/python tools/trl_grpo.py --assets runs/compare/warm_start/seed_1/assets \
        --model runs/compare/warm_start/seed_1/hf --run-dir runs/compare/trl/seed_1 --seed 1

As in examples/compare_algorithms/grpo.yaml: 128 prompts of 8 responses a step, two optimizer steps, clip 0.2, no KL, mean over
tokens, the same AdamW and learning rate. Data-parallel where torchrun starts several ranks; rollouts by `transformers`' generate,
which is what TRL offers on a CPU. It writes `metrics.jsonl` and `config.yaml` as far as `megatron-sppo report TRL=RUN...` reads
them; ``time/step`` leaves out start-up and validation, as ours does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import trl
import yaml
from datasets import Dataset, disable_progress_bar
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "quickstart")]  # nothing of ours is installed in TRL's environment
from make_assets import MAX_RESPONSE_TOKENS  # noqa: E402

from megatron_sppo.monitor.jsonl import JsonlFile  # noqa: E402
from megatron_sppo.rewards.boxed import last_boxed, same_number  # noqa: E402

PROMPTS, RESPONSES, OPTIMIZER_STEPS = 128, 8, 2  # of one step
VALIDATION_RESPONSES, VALIDATION_BATCH = 4, 64  # of a problem, problems at once


def rewards_of(completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[float]:
    """TRL's reward function: the quickstart's ``boxed_numeric``."""
    return [grade(completion, gold) for completion, gold in zip(completions, answer, strict=True)]


def grade(completion: str, answer: str) -> float:
    boxed = last_boxed(completion)
    return float(boxed is not None and same_number(boxed, answer))


class Recorder(TrainerCallback):
    """One row per step and one per validation, by rank 0; all ranks share a validation's problems."""

    def __init__(
        self, file: JsonlFile | None, problems: Sequence[dict[str, str]], tokenizer: PreTrainedTokenizerBase, every: int
    ) -> None:
        """``file``: of rank 0 alone."""
        self.file, self.problems, self.tokenizer, self.every = file, problems, tokenizer, every
        self.tokens = 0
        self.began = 0.0

    def on_train_begin(self, _arguments: Any, _state: Any, _control: Any, model: PreTrainedModel, **_: Any) -> None:
        self.validate(0, model)
        self.began = time.perf_counter()

    def on_step_end(self, _arguments: Any, state: Any, _control: Any, model: PreTrainedModel, **_: Any) -> None:
        step, rest = divmod(state.global_step, OPTIMIZER_STEPS)
        if rest:
            return
        seconds = time.perf_counter() - self.began
        self.write({"step": step, "kind": "train", "time/step": seconds, "rollout/tokens": self.tokens})
        self.tokens = 0
        if step % self.every == 0:
            self.validate(step, model)
        self.began = time.perf_counter()

    def validate(self, step: int, model: PreTrainedModel) -> None:
        """avg@4 at the training's temperature."""
        rank, ranks = rank_and_size()
        right = torch.zeros(2)
        with torch.no_grad():
            for first in range(rank * VALIDATION_BATCH, len(self.problems), ranks * VALIDATION_BATCH):
                problems = self.problems[first : first + VALIDATION_BATCH]
                responses = sample(getattr(model, "module", model), self.tokenizer, [p["prompt"] for p in problems])
                golds = [p["answer"] for p in problems for _ in range(VALIDATION_RESPONSES)]
                right += torch.tensor([sum(map(grade, responses, golds)), len(responses)])
        if ranks > 1:
            dist.all_reduce(right)
        score = float(right[0] / right[1])
        self.write({"step": step, "kind": "validation", f"validation/arithmetic/avg@{VALIDATION_RESPONSES}": score})
        if rank == 0:
            print(f"step {step}: avg@{VALIDATION_RESPONSES} {score:.3f}", flush=True)

    def write(self, row: dict[str, Any]) -> None:
        if self.file is not None:
            self.file.append(row)


def rank_and_size() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def sample(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[str]:
    """``VALIDATION_RESPONSES`` for each prompt, in order."""
    batch = tokenizer(
        [p for p in prompts for _ in range(VALIDATION_RESPONSES)], return_tensors="pt", padding=True, padding_side="left"
    )
    was_training = model.training
    model.eval()
    rows = model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=MAX_RESPONSE_TOKENS,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
    )
    model.train(was_training)
    return tokenizer.batch_decode(rows[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)


class Trainer(GRPOTrainer):
    """TRL's, whose generated tokens are counted."""

    def __init__(self, recorder: Recorder, **arguments: Any) -> None:
        super().__init__(callbacks=[recorder], **arguments)
        self.recorder = recorder

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        outputs = super()._generate_and_score_completions(inputs)
        self.recorder.tokens += int(self.accelerator.reduce(outputs["completion_mask"].sum()))
        return outputs


def grpo_config(run_dir: Path, seed: int, steps: int, ranks: int) -> GRPOConfig:
    return GRPOConfig(
        output_dir=str(run_dir),
        seed=seed,
        use_cpu=True,
        bf16=False,
        max_steps=steps * OPTIMIZER_STEPS,
        per_device_train_batch_size=PROMPTS * RESPONSES // OPTIMIZER_STEPS // ranks,
        steps_per_generation=OPTIMIZER_STEPS,
        num_generations=RESPONSES,
        max_completion_length=MAX_RESPONSE_TOKENS,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        beta=0.0,
        epsilon=0.2,
        loss_type="dapo",  # TRL's default, and ours: the mean over all tokens
        learning_rate=learning_rate(),
        lr_scheduler_type="constant",
        weight_decay=0.01,
        max_grad_norm=1.0,
        gradient_checkpointing=False,
        ddp_find_unused_parameters=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def learning_rate() -> float:
    """The quickstart's for the policy."""
    config = yaml.safe_load((ROOT / "examples" / "quickstart" / "sppo.yaml").read_text(encoding="utf-8"))
    return float(config["actor"]["optimizer"]["lr"])


def rows_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--assets", type=Path, required=True, help="what examples/quickstart/make_assets.py wrote")
    parser.add_argument("--model", type=Path, required=True, help="the warm-started policy, HF format")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--validate-every", type=int, default=2)
    arguments = parser.parse_args()
    summary = arguments.run_dir / "train_summary.json"
    if summary.exists():
        parser.error(f"--run-dir {arguments.run_dir} has a finished run: give another folder")
    arguments.run_dir.mkdir(parents=True, exist_ok=True)
    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    config = grpo_config(arguments.run_dir, arguments.seed, arguments.steps, int(os.environ.get("WORLD_SIZE", "1")))
    file = None
    if is_first := os.environ.get("RANK", "0") == "0":  # torch.distributed may not have begun yet
        path = arguments.run_dir / "metrics.jsonl"
        if path.exists():
            print(f"{path} is of a run that did not end; TRL's is not resumed here, so it starts again", flush=True)
        file = JsonlFile(path, first_step=0)
        written = f"seed: {arguments.seed}\nalgorithm: {{name: grpo, num_samples: {RESPONSES}}}\nprompts_per_step: {PROMPTS}\n"
        (arguments.run_dir / "config.yaml").write_text(written, encoding="utf-8")
    Trainer(
        Recorder(file, rows_of(arguments.assets / "arithmetic.jsonl"), tokenizer, arguments.validate_every),
        model=AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32),
        reward_funcs=rewards_of,
        args=config,
        train_dataset=Dataset.from_list(rows_of(arguments.assets / "train.jsonl")),
        processing_class=tokenizer,
    ).train()
    if is_first:
        summary.write_text(json.dumps({"steps": arguments.steps, "trl": trl.__version__}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
