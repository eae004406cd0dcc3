"""The collective half of an evaluation: every response that is not on disk yet is sampled, chunk by chunk."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_sppo.batch import Prompts, SamplingPlan
from megatron_sppo.checkpoint.export import exported
from megatron_sppo.config.schema import DataConfig, EvalConfig, RolloutConfig
from megatron_sppo.data.prompts import PromptSet, render_prompts, select_prompts
from megatron_sppo.data.tokenizer import Tokenizer, load_tokenizer
from megatron_sppo.errors import UserError
from megatron_sppo.evaluation.problems import Problems
from megatron_sppo.evaluation.store import SampleStore
from megatron_sppo.models.hf_config import HFModelConfig, read_hf_config
from megatron_sppo.monitor.progress import CLEAR_LINE, ProgressLine, format_seconds
from megatron_sppo.parallel import platform
from megatron_sppo.parallel.collectives import broadcast_object
from megatron_sppo.rollout.engine import OnProgress
from megatron_sppo.rollout.vllm_engine import VLLMEngine
from megatron_sppo.weights.load_hf import SafetensorsFolder

UNLIMITED = 1 << 40


@dataclass(frozen=True)
class Task:
    """One model on one benchmark."""

    problems: Problems
    prompts: Prompts
    store: SampleStore


@dataclass(frozen=True)
class Subject:
    """One model and what it is asked."""

    folder: Path
    knob: str
    hf: HFModelConfig
    tokenizer: Tokenizer
    tasks: tuple[Task, ...]

    @property
    def longest_prompt(self) -> int:
        return max(int(task.prompts.tokens.lengths.max()) for task in self.tasks)


def model_folder(path: str) -> Path:
    """``path``, or the HF form of the run folder or checkpoint that it is."""
    folder = Path(path)
    for candidate in (folder, folder / "hf", exported(folder)):
        if candidate is not None and (candidate / "config.json").is_file():
            return candidate
    return folder


def needs_export(path: str) -> bool:
    """Whether ``path`` is a sharded checkpoint, or a run that has nothing else, whose HF form is not there yet."""
    return bool(path) and not (model_folder(path) / "config.json").is_file() and exported(path) is not None


def read_subject(path: str, knob: str, sets: Sequence[Problems], config: EvalConfig, output: Path) -> Subject:
    """Everything of a model but its weights; UserError for what would not work."""
    folder = model_folder(path)
    hf = read_hf_config(folder, knob)
    tokenizer = load_tokenizer(str(folder), knob)
    data = DataConfig(chat_template=config.chat_template, system_prompt=config.system_prompt, prompt_suffix=config.prompt_suffix)
    weights = weights_fingerprint(folder)
    rows = [row for problems in sets for row in problems.rows]
    rendered = render_prompts(rows, tokenizer, data, UNLIMITED, "benchmarks").prompts  # no problem is left out
    tasks, start = [], 0
    for problems in sets:
        prompts = select_prompts(rendered, range(start, start + len(problems.rows)))
        start += len(problems.rows)
        settings = {"weights": weights, "prompts": PromptSet(prompts, 0, 0).fingerprint(), **sampling_settings(config)}
        store = SampleStore(output / "samples" / problems.name, len(problems.rows), config.chunk, settings)
        store.check()
        tasks.append(Task(problems, prompts, store))
    subject = Subject(folder, knob, hf, tokenizer, tuple(tasks))
    if subject.longest_prompt + config.max_tokens > hf.max_positions:
        raise UserError(
            f"--max-tokens {config.max_tokens} and a prompt of {subject.longest_prompt} tokens exceed the {hf.max_positions} "
            f"positions of {folder}; use --max-tokens {hf.max_positions - subject.longest_prompt} or less"
        )
    return subject


def sampling_settings(config: EvalConfig) -> dict[str, Any]:
    """What fixes the samples, beside weights and prompts."""
    names = ("samples", "temperature", "top_p", "max_tokens", "seed", "dtype")
    return {name: getattr(config, name) for name in names}


PROBES, PROBE_BYTES = 256, 16_384


def weights_fingerprint(folder: Path) -> str:
    """A name for the weights from 4 MB spread over each file: cheap, and a training step changes weights everywhere."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}".encode())
        with file.open("rb") as stream:
            for probe in range(PROBES):
                stream.seek(probe * max(0, size - PROBE_BYTES) // (PROBES - 1))
                digest.update(stream.read(PROBE_BYTES))
    return digest.hexdigest()[:16]


def sample_missing(subjects: Sequence[Subject], config: EvalConfig) -> None:
    """Fill every store. Collective; no engine is built where nothing is missing."""
    todo = [
        (subject, broadcast_object([task.store.missing() for task in subject.tasks] if dist.get_rank() == 0 else []))
        for subject in subjects
    ]
    todo = [(subject, missing) for subject, missing in todo if any(missing)]
    if not todo:
        return
    check_same_architecture([subject for subject, _ in todo])
    dtype = platform.resolve_dtype(config.dtype)
    engine = VLLMEngine(rollout_config(config, [subject for subject, _ in todo]), todo[0][0].folder, dtype, config.seed)
    for number, (subject, missing) in enumerate(todo):
        if number:
            engine.load_weights(hf_tensors(subject, dtype))
            engine.verify_weights(hf_tensors(subject, dtype))
        with engine.awake():
            for task, chunks in zip(subject.tasks, missing, strict=True):
                sample_task(engine, subject, task, chunks, config)
    engine.close()


def check_same_architecture(subjects: Sequence[Subject]) -> None:
    """One engine serves model and baseline in turn."""
    for other in subjects[1:]:
        if other.hf != subjects[0].hf:
            raise UserError(
                f"{other.knob} {other.folder} has another architecture than {subjects[0].folder}; evaluate it on its own "
                "with another --output, and give that folder as --baseline"
            )


def rollout_config(config: EvalConfig, subjects: Sequence[Subject]) -> RolloutConfig:
    return RolloutConfig(
        tp=config.tp,
        max_prompt_tokens=max(subject.longest_prompt for subject in subjects),
        max_response_tokens=config.max_tokens,
        max_num_seqs=config.max_num_seqs,
        gpu_memory_utilization=config.gpu_memory_utilization,
        cpu_kv_cache_gib=config.cpu_kv_cache_gib,
    )


def hf_tensors(subject: Subject, dtype: torch.dtype) -> Iterable[tuple[str, Tensor]]:
    folder = SafetensorsFolder(subject.folder)
    tied = {"lm_head.weight"} if subject.hf.tied_embeddings else set()
    for name in sorted(folder.names() - tied):
        yield name, folder.read(name, 0, 0, folder.shape(name)[0]).to(platform.device(), dtype)


def sample_task(engine: VLLMEngine, subject: Subject, task: Task, chunks: Sequence[range], config: EvalConfig) -> None:
    plan = SamplingPlan(
        num_samples=config.samples,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=-1,
        max_response_tokens=config.max_tokens,
        stop_token_ids=(),
        seed=config.seed,
    )
    count = SampledCount(f"{subject.folder.name} on {task.problems.name}", len(task.prompts), chunks)
    for problems in chunks:
        prompts = select_prompts(task.prompts, problems)
        rollouts = engine.generate(prompts, plan, subject.tokenizer.decode, count.within_chunk())
        if dist.get_rank() == 0:
            task.store.write(rollouts, problems)
        count.add(len(problems))


class SampledCount:
    """How far one model is on one benchmark, on rank 0's stderr: a line per chunk; on a terminal also what goes on within it."""

    def __init__(self, what: str, total: int, chunks: Sequence[range]) -> None:
        self._what, self._total = what, total
        self._planned = sum(map(len, chunks))
        self._before, self._sampled, self._started = total - self._planned, 0, time.monotonic()
        self._progress = ProgressLine(0) if dist.get_rank() == 0 else None
        if self._progress and self._before and self._planned:
            self._progress.note(f"{what}: {self._before} of {total} problems were sampled before")

    def add(self, num_problems: int) -> None:
        self._sampled += num_problems
        seconds = time.monotonic() - self._started
        left = format_seconds(seconds / self._sampled * (self._planned - self._sampled))
        if self._progress:
            done = self._before + self._sampled
            self._progress.note(f"{self._what}: {done}/{self._total} problems in {format_seconds(seconds)}, {left} left")

    def within_chunk(self) -> OnProgress | None:
        """For a terminal."""
        if self._progress is None or not sys.stderr.isatty():
            return None
        return lambda done, total: live(f"{self._what}: {done}/{total} responses of this chunk on rank 0")


def live(text: str) -> None:
    sys.stderr.write(CLEAR_LINE + text)
    sys.stderr.flush()
