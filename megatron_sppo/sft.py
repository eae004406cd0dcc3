"""``megatron-sppo sft``: supervised fine-tuning in the same Megatron engine: packed sequences, loss on the response alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch.distributed as dist
from torch import Tensor

from megatron_sppo import metrics
from megatron_sppo.actor import ResponseRows, response_rows, token_scores
from megatron_sppo.config import arithmetic
from megatron_sppo.config.load import dump_yaml
from megatron_sppo.config.run_dir import check_run_dir
from megatron_sppo.config.schema import SFTConfig
from megatron_sppo.data.rows import read_supervised_rows
from megatron_sppo.data.sft import SFTExamples, SFTStream, tokenize_examples
from megatron_sppo.data.tokenizer import load_tokenizer
from megatron_sppo.losses import LossSum
from megatron_sppo.metrics import Mean, Metric
from megatron_sppo.models.batching import plan_mini_batches
from megatron_sppo.models.engine import MegatronEngine
from megatron_sppo.models.gpt import check_layers
from megatron_sppo.models.hf_config import HFModelConfig, read_hf_config
from megatron_sppo.monitor.clock import StepClock
from megatron_sppo.monitor.run_log import MainRunLog, RunLog
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.groups import Layout, build_groups
from megatron_sppo.weights.hf_folder import save_hf_folder
from megatron_sppo.weights.load_hf import load_hf_weights


@dataclass(frozen=True)
class SFTTrainer:
    engine: MegatronEngine
    config: SFTConfig

    def _rows(self, examples: SFTExamples) -> list[ResponseRows]:
        """This data-parallel rank's micro-batches."""
        model = self.config.model
        lengths = (examples.prompt_tokens.lengths + examples.response_tokens.lengths).tolist()
        (plan,) = plan_mini_batches(
            lengths, range(len(lengths)), 0, self.engine.groups.dp, model.micro_batch_tokens, self.engine.cost
        )
        return [
            response_rows(examples.prompt_tokens, examples.response_tokens, indices, self.engine.row_layout)
            for indices in plan.bins[self.engine.groups.dp_rank]
        ]

    def _loss(self, output: Tensor, rows: ResponseRows) -> LossSum:
        """Negative log-likelihood of the response tokens as a sum."""
        logprobs_R, _ = token_scores(self.engine, output, rows, 1.0, self.config.model.logprob_chunk_tokens)
        total, count = -logprobs_R.sum(), logprobs_R.numel()
        return LossSum(total, count, {"sft/loss": Mean(float(total.detach()), count)})

    def step(self, examples: SFTExamples) -> dict[str, float]:
        """One optimizer step on the batch. Collective; the same metrics on every rank."""
        update = self.engine.update(self._rows(examples), self._loss)
        shared = {"sft/grad_norm": update.grad_norm, "sft/lr": update.lr}
        return {**self._reduced(update.micro_batch_metrics), **shared}

    def held_out_loss(self, examples: SFTExamples) -> float:
        """Mean loss per response token. Collective."""
        parts = self.engine.forward(self._rows(examples), lambda output, rows: self._loss(output, rows).metrics)
        return self._reduced(parts)["sft/loss"]

    def _reduced(self, parts: Sequence[dict[str, Metric]]) -> dict[str, float]:
        return metrics.values(self.engine.reduced(parts))


@dataclass(frozen=True)
class _Prepared:
    """Checked input: no model has been built yet."""

    hf: HFModelConfig
    stream: SFTStream
    held_out: SFTExamples | None
    first_example: str


def _prepare(config: SFTConfig, world_size: int, speaks: bool) -> _Prepared:
    device: arithmetic.Device = "gpu" if platform.is_gpu() else "cpu"
    arithmetic.check_sft(config, world_size, device)
    check_run_dir(config.run_dir)
    hf = read_hf_config(config.model.path, "model.path")
    warnings = arithmetic.check_sft(config, world_size, device, hf)
    check_layers("model", config.model)
    tokenizer = load_tokenizer(config.model.path, "model.path")
    examples = tokenize_examples(read_supervised_rows(config.data.train, "data.train"), tokenizer, config.data)
    held_out = None
    if config.data.validation:
        held_out = tokenize_examples(read_supervised_rows(config.data.validation, "data.validation"), tokenizer, config.data)
    stream = SFTStream(examples, config.batch_size, config.seed, config.data.shuffle)
    if speaks:
        print(f"device:  {platform.describe()}")
        print(arithmetic.explain_sft(config, world_size))
        for warning in warnings:
            print(f"warning: {warning}", flush=True)
    first = [*examples.prompt_tokens.rows()[0].tolist(), *examples.response_tokens.rows()[0].tolist()]
    return _Prepared(hf, stream, held_out, tokenizer.decode(first, skip_special=False))


def _log(config: SFTConfig, run_dir: Path, rank: int) -> AbstractContextManager[RunLog]:
    return RunLog() if rank else MainRunLog(config.logging, run_dir, config.steps, 0, asdict(config))


def main(config: SFTConfig) -> None:
    rank, world_size = platform.start_distributed()
    platform.quiet_upstream()
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.ERROR, format="%(message)s")
    prepared = _prepare(config, world_size, speaks=rank == 0)
    run_dir = Path(config.run_dir)
    (groups,) = build_groups([Layout.of(config.model)], config.seed)
    engine = MegatronEngine(prepared.hf, config.model, groups, "lm", total_steps=config.steps)
    load_hf_weights(engine.model, prepared.hf, config.model.path, groups)
    engine.start_optimizer()
    if rank == 0:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
        print(f"first example as the model reads it:\n---\n{prepared.first_example}\n---", flush=True)
    started = time.monotonic()
    with _log(config, run_dir, rank) as log:
        _fit(SFTTrainer(engine, config), prepared, config, log)
        log.note(f"{config.steps} steps in {time.monotonic() - started:.0f}s")
    save_hf_folder(engine.model, prepared.hf, groups, config.model.path, run_dir / "hf")
    if rank == 0:
        print(f"the model is {run_dir / 'hf'} (HF format): `megatron-sppo train` takes it as actor.path", flush=True)
    dist.barrier()
    dist.destroy_process_group()


def _fit(trainer: SFTTrainer, prepared: _Prepared, config: SFTConfig, log: RunLog) -> None:
    for step in range(1, config.steps + 1):
        clock = StepClock(synchronize=platform.synchronize)
        examples = prepared.stream.next_batch()
        result = trainer.step(examples)
        num_tokens = int(examples.prompt_tokens.lengths.sum() + examples.response_tokens.lengths.sum())
        result |= {"data/epoch": prepared.stream.epoch, **clock.metrics(num_tokens, platform.peak_device_gib())}
        due = step == config.steps or (config.validate_every and step % config.validate_every == 0)
        if prepared.held_out is not None and due:
            result["sft/held_out_loss"] = trainer.held_out_loss(prepared.held_out)
        log.train(step, result)
