"""Run by torchrun: exercises VLLMEngine on each given model and saves what every rank saw, for the test to judge.

rollout_checks.py OUT_FOLDER TP MODEL_FOLDER...     (each MODEL_FOLDER has a sibling MODEL_FOLDER-new with other weights)
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file

from megatron_sppo.batch import Prompts, Rollouts, SamplingPlan
from megatron_sppo.config.schema import RolloutConfig, ValidationConfig
from megatron_sppo.data.prompts import select_prompts
from megatron_sppo.errors import UserError, WeightMismatch
from megatron_sppo.evaluation.validation import Benchmark, Validation, Validator
from megatron_sppo.parallel import platform
from megatron_sppo.ragged import Ragged
from megatron_sppo.rewards.early import EarlyGrading
from megatron_sppo.rewards.protocol import Sample, Verdict
from megatron_sppo.rewards.spread import Graded, grade_rollouts
from megatron_sppo.rollout.early import hands_over_to
from megatron_sppo.rollout.vllm_engine import VLLMEngine

PROMPT_LENGTHS = (5, 17, 3, 150, 150, 40, 9, 11, 30)  # two share a prefix longer than one block of the KV cache
END_TOKEN_ID = 1  # of the tiny models
# So few stop tokens that some responses reach the limit and some do not, whatever random numbers a release of vLLM draws.
SAMPLED = SamplingPlan(
    num_samples=2, temperature=0.7, top_p=1.0, top_k=-1, max_response_tokens=24, stop_token_ids=tuple(range(200, 215)), seed=5
)
GREEDY = SamplingPlan(num_samples=1, temperature=0.0, top_p=1.0, top_k=-1, max_response_tokens=12, stop_token_ids=(), seed=0)


def make_prompts() -> Prompts:
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(2, 260, (length,), generator=generator) for length in PROMPT_LENGTHS]
    rows[4][:140] = rows[3][:140]
    ids = tuple(f"toy:{row}" for row in range(len(rows)))
    return Prompts(
        ids, ("",) * len(rows), tuple(map(str, PROMPT_LENGTHS)), ("toy",) * len(rows), Ragged.from_rows(rows, torch.int64)
    )


def decode(tokens: list[int]) -> str:
    return "é" + " ".join(map(str, tokens))


def plain(rollouts: Rollouts) -> dict[str, Any]:
    return {
        "tokens": rollouts.response_tokens.values,
        "lengths": rollouts.response_tokens.lengths,
        "logprobs": rollouts.engine_logprobs.values,
        "truncated": rollouts.truncated_B,
        "prompt_index": rollouts.prompt_index_B,
        "texts": list(rollouts.texts),
    }


def count_fives(samples: Sequence[Sample]) -> list[Verdict]:
    return [Verdict(sample.response.count("5") / sample.num_tokens, sample.gold, str(sample.truncated)) for sample in samples]


def graded_meanwhile(engine: VLLMEngine, prompts: Prompts) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same responses again, each graded as soon as it is there and all of them afterwards."""
    early = EarlyGrading(count_fives)
    rollouts = engine.generate(prompts, SAMPLED, decode, None, hands_over_to(early, SAMPLED))
    graded, share = early.finish()
    afterwards = grade_rollouts(count_fives, rollouts)
    return plain(rollouts), {"early": words(graded), "share": share, "afterwards": words(afterwards)}


def validations(engine: VLLMEngine, prompts: Prompts, config: RolloutConfig) -> dict[str, list[Validation]]:
    """Of two benchmarks, sampled one after the other, together, and graded meanwhile."""
    benchmarks = [Benchmark(name, select_prompts(prompts, places)) for name, places in (("a", (3, 0, 7)), ("b", (1, 4, 5, 2)))]

    def run(*chosen: Benchmark, while_sampling: bool = False) -> list[Validation]:
        settings = ValidationConfig(samples=2, temperature=1.0, dump_samples=3)
        return Validator(chosen, count_fives, settings, config, 1, while_sampling).run(1, engine, decode)

    return {
        "apart": [result for benchmark in benchmarks for result in run(benchmark)],
        "together": run(*benchmarks),
        "meanwhile": run(*benchmarks, while_sampling=True),
        "none": run(),
    }


def words(graded: Graded) -> list[tuple[float, str | None, str]]:
    return [(verdict.reward, verdict.answer, verdict.reason) for verdict in graded.verdicts]


def mismatch(engine: VLLMEngine, weights: dict[str, torch.Tensor]) -> str:
    """The message of the mismatch, or nothing."""
    try:
        engine.verify_weights(weights.items())
    except WeightMismatch as error:
        return str(error)
    return ""


def corrupt(engine: VLLMEngine, param: str, element: int) -> None:
    """Flip the lowest bit of one element of one parameter; twice is undone."""

    def flip(model: torch.nn.Module) -> None:
        model.get_parameter(param).data.view(-1).view(torch.int32)[element] ^= 1

    engine.llm.apply_model(flip)


def cached_tokens(engine: VLLMEngine, prompts: Prompts) -> int:
    """How many tokens of prompt 3 vLLM takes from its prefix cache."""
    from vllm import SamplingParams

    request = {"prompt_token_ids": prompts.tokens.rows()[3].tolist()}
    (output,) = engine.llm.generate([request], SamplingParams(max_tokens=1, detokenize=False), use_tqdm=False)
    return int(output.num_cached_tokens or 0)


def user_errors(engine: VLLMEngine, folder: Path, out: Path) -> dict[str, str]:
    """What a user reads who asks for the impossible; each is refused before anything is built or generated."""
    narrow = out / f"narrow-{dist.get_rank()}"  # heads of 16 channels
    narrow.mkdir(exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (narrow / "config.json").write_text(json.dumps(config | {"head_dim": 16}))
    attempts: dict[str, Callable[[], object]] = {
        "tp": lambda: VLLMEngine(RolloutConfig(tp=64), folder, torch.float32, seed=0),
        "head_dim": lambda: VLLMEngine(RolloutConfig(), narrow, torch.float32, seed=0),
        "length": lambda: engine.generate(make_prompts(), replace(GREEDY, max_response_tokens=25), decode),
    }
    messages = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except UserError as error:
            messages[name] = str(error)
    return messages


def check(folder: Path, out: Path, tp: int, last_rank: bool) -> dict[str, Any]:
    old, new = (load_file(f / "model.safetensors") for f in (folder, folder.with_name(folder.name + "-new")))
    found: dict[str, Any] = {}
    started = time.monotonic()
    config = RolloutConfig(tp=tp, max_prompt_tokens=160, max_response_tokens=24, cpu_kv_cache_gib=0.05, max_num_seqs=16)
    engine = VLLMEngine(config, folder, torch.float32, seed=0)
    found["seconds_build"] = time.monotonic() - started
    prompts = make_prompts()
    progress: list[tuple[int, int]] = []
    random_state = torch.get_rng_state()
    with engine.awake():
        found["sampled"] = plain(engine.generate(prompts, SAMPLED, decode, lambda done, total: progress.append((done, total))))
        found["again"], found["graded"] = graded_meanwhile(engine, prompts)
        found["validations"] = {name: list(map(asdict, parts)) for name, parts in validations(engine, prompts, config).items()}
        found["greedy"] = plain(engine.generate(prompts, GREEDY, decode))
        found["scores"] = engine.score(prompts.tokens).values
    found["progress"] = progress
    found["random_state_kept"] = torch.equal(random_state, torch.get_rng_state())
    found["mismatch_start"] = mismatch(engine, old)
    found["mismatch_before_load"] = mismatch(engine, new)
    found["cached_before_load"] = cached_tokens(engine, prompts)
    engine.load_weights(new.items())
    found["cached_after_load"] = cached_tokens(engine, prompts)
    found["mismatch_after_load"] = mismatch(engine, new)
    found["greedy_new"] = plain(engine.generate(prompts, GREEDY, decode))
    found["sampled_new"] = plain(engine.generate(prompts, SAMPLED, decode))
    param = "model.layers.1.mlp.down_proj.weight"
    if last_rank:
        corrupt(engine, param, 77)
    found["mismatch_corrupt"] = mismatch(engine, new)
    if last_rank:
        corrupt(engine, param, 77)
    found["mismatch_mended"] = mismatch(engine, new)
    missing = {name: tensor for name, tensor in new.items() if name != "model.norm.weight"}
    found["mismatch_missing"] = mismatch(engine, missing)
    found["user_errors"] = user_errors(engine, folder, out)
    engine.close()
    return found


def main() -> None:
    out, tp, *folders = sys.argv[1:]
    rank, world_size = platform.start_distributed()
    for folder in map(Path, folders):
        found = check(folder, Path(out), int(tp), last_rank=rank == world_size - 1)
        torch.save(found, Path(out) / f"{folder.name}-{rank}.pt")


if __name__ == "__main__":
    main()
