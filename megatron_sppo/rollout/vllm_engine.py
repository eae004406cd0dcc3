"""vLLM inside the training ranks: a world of W ranks and ``rollout.tp`` = t makes W / t engines of t neighbouring ranks.

Under ``external_launcher`` each rank of an engine runs the same scheduler on the same requests, so the ranks of one engine must make the
same calls in the same order; they do, because every rank runs the same program on the same prompts.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from megatron_sppo.batch import Prompts, Rollouts, SamplingPlan
from megatron_sppo.config.schema import RolloutConfig
from megatron_sppo.errors import UserError
from megatron_sppo.models.hf_config import read_hf_config
from megatron_sppo.parallel import platform
from megatron_sppo.ragged import Ragged
from megatron_sppo.rollout.dispatch import deal_prompts, response_seed
from megatron_sppo.rollout.engine import Decode, HFTensors, OnProgress
from megatron_sppo.rollout.exchange import exchange_rows
from megatron_sppo.rollout.weight_check import WeightCheck

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams

_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_GIB = 2**30


def _configure_environment() -> None:
    """vLLM's process-wide switches, which it reads from the environment when it is imported. The one place that sets them."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine lives in this process
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # torchrun's OMP_NUM_THREADS stands
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def _engine_options(config: RolloutConfig, model_path: str | Path, dtype: torch.dtype, seed: int) -> dict[str, Any]:
    """Everything that is asked of vLLM."""
    options: dict[str, Any] = {
        "model": str(model_path),
        "skip_tokenizer_init": True,  # token ids in, token ids out
        "generation_config": "vllm",  # sampling comes from the plan, not from the folder
        "dtype": _DTYPES[dtype],
        "tensor_parallel_size": config.tp,
        "distributed_executor_backend": "external_launcher",
        "seed": seed,
        "max_model_len": config.max_prompt_tokens + config.max_response_tokens,
        "max_num_seqs": config.max_num_seqs,
        "enforce_eager": config.enforce_eager or not platform.is_gpu(),
        "enable_prefix_caching": True,
        "async_scheduling": False,  # the ranks of an engine must schedule in lockstep
        "logprobs_mode": "processed_logprobs",  # of the distribution sampled from: after temperature, top-k and top-p
        "disable_log_stats": True,
    }
    if config.max_num_batched_tokens:
        options["max_num_batched_tokens"] = config.max_num_batched_tokens
    if platform.is_gpu():
        options |= {"gpu_memory_utilization": config.gpu_memory_utilization, "enable_sleep_mode": config.sleep}
    else:
        options["kv_cache_memory_bytes"] = int(config.cpu_kv_cache_gib * _GIB)
    return options


@contextmanager
def _own_random_state() -> Iterator[None]:
    """vLLM seeds and draws from torch's global generator; the trainer's must not notice."""
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if platform.is_gpu() else []):
        yield


class _Progress:
    """What ``LLM.generate`` asks of a tqdm bar, handed on to a callback."""

    def __init__(self, on_progress: OnProgress, total: int) -> None:
        self.n, self.total, self._on_progress = 0, total, on_progress
        self.format_dict, self.postfix = {"elapsed": float("inf")}, ""

    def update(self, count: int) -> None:
        self.n += count
        self._on_progress(self.n, self.total)

    def refresh(self) -> None: ...
    def close(self) -> None: ...


class VLLMEngine:
    """Implements :class:`~megatron_sppo.rollout.engine.RolloutEngine`. Building it is collective over the world."""

    def __init__(self, config: RolloutConfig, model_path: str | Path, dtype: torch.dtype, seed: int) -> None:
        """``model_path`` is an HF folder; its weights are loaded. ``torch.distributed`` must have been started."""
        if dist.get_world_size() % config.tp:
            raise UserError(f"rollout.tp={config.tp} does not divide the {dist.get_world_size()} ranks; choose a divisor.")
        self._config = config
        self._model = read_hf_config(model_path)
        self._tp_rank = dist.get_rank() % config.tp
        self._engine_index = dist.get_rank() // config.tp
        self._num_engines = dist.get_world_size() // config.tp
        self._asleep: set[str] = set()
        _configure_environment()
        import vllm

        from megatron_sppo.rollout import vllm_internals

        self._internals = vllm_internals
        if not platform.is_gpu():
            vllm_internals.prepare_cpu()
            atexit.register(vllm_internals.unlink_shared_memory)
        with _own_random_state():
            self._llm: LLM | None = vllm.LLM(**_engine_options(config, model_path, dtype, seed))
        if not platform.is_gpu():
            vllm_internals.on_model(self._llm, vllm_internals.check_weights_are_live)
            vllm_internals.unlink_shared_memory()  # all ranks have mapped the segments: the names are no longer needed

    @property
    def llm(self) -> LLM:
        assert self._llm is not None, "the engine was closed"
        return self._llm

    @property
    def _speaks(self) -> bool:
        """One rank of each engine reports its results."""
        return self._tp_rank == 0

    def generate(self, prompts: Prompts, plan: SamplingPlan, decode: Decode, on_progress: OnProgress | None = None) -> Rollouts:
        """See the protocol. Tokens end with the stop token unless truncated; a greedy token's log-prob is at temperature 1."""
        if plan.max_response_tokens > self._config.max_response_tokens:
            raise UserError(
                f"rollout.max_response_tokens={self._config.max_response_tokens} is less than the {plan.max_response_tokens} "
                "tokens that the sampling plan asks for; raise it."
            )
        mine = deal_prompts(prompts.tokens.lengths.tolist(), self._num_engines)[self._engine_index]
        asked = [(prompt, sample) for prompt in mine for sample in range(plan.num_samples)]
        params = [self._sampling(plan, response_seed(plan.seed, prompts.ids[prompt], sample)) for prompt, sample in asked]
        token_rows = [row.tolist() for row in prompts.tokens.rows()]
        outputs = self._run([token_rows[prompt] for prompt, _ in asked], params, on_progress)
        answers = {
            prompt * plan.num_samples + sample: output.outputs[0] for (prompt, sample), output in zip(asked, outputs, strict=True)
        }
        if not self._speaks:
            answers = {}
        num_responses = len(prompts) * plan.num_samples
        tokens = {i: torch.tensor(answer.token_ids, dtype=torch.int64) for i, answer in answers.items()}
        logprobs = {i: torch.tensor(answer.logprobs.logprobs, dtype=torch.float32) for i, answer in answers.items()}
        assert all(len(tokens[i]) == len(logprobs[i]) for i in answers)
        truncated = {i: torch.tensor([answer.finish_reason == "length"], dtype=torch.uint8) for i, answer in answers.items()}
        texts = {i: torch.tensor(list(decode(list(a.token_ids)).encode()), dtype=torch.uint8) for i, a in answers.items()}
        return Rollouts(
            prompts=prompts,
            prompt_index_B=torch.arange(len(prompts)).repeat_interleave(plan.num_samples),
            response_tokens=exchange_rows(tokens, num_responses, torch.int64),
            engine_logprobs=exchange_rows(logprobs, num_responses, torch.float32),
            truncated_B=exchange_rows(truncated, num_responses, torch.uint8).values.bool(),
            texts=tuple(bytes(row.tolist()).decode() for row in exchange_rows(texts, num_responses, torch.uint8).rows()),
        )

    def score(self, sequences: Ragged) -> Ragged:
        """See the protocol."""
        from vllm import SamplingParams

        mine = deal_prompts(sequences.lengths.tolist(), self._num_engines)[self._engine_index]
        rows = sequences.rows()
        params = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0.0, detokenize=False, flat_logprobs=True)
        outputs = self._run([rows[index].tolist() for index in mine], [params] * len(mine), None)
        scores = {index: torch.tensor(output.prompt_logprobs.logprobs) for index, output in zip(mine, outputs, strict=True)}
        return exchange_rows(scores if self._speaks else {}, len(sequences), torch.float32)

    def load_weights(self, tensors: HFTensors) -> None:
        """See the protocol. Written in place by vLLM's own loaders; needs the weights' memory, not the KV cache's."""
        self._wake("weights")
        self._internals.on_model(self.llm, lambda model: model.load_weights(iter(tensors)))
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM kept cached prefixes of the old weights: requests were still running during a weight update.")

    def verify_weights(self, tensors: HFTensors) -> None:
        """See the protocol."""
        self._wake("weights")
        check = self._internals.on_model(
            self.llm, lambda model: WeightCheck(self._model, self._config.tp, self._tp_rank, dict(model.named_parameters()))
        )
        for name, tensor in tensors:
            check.compare(name, tensor)
        check.finish()

    @contextmanager
    def awake(self) -> Iterator[None]:
        """See the protocol. Sleeps after, where there is a GPU and ``rollout.sleep`` is on."""
        self._wake("weights", "kv_cache")
        try:
            yield
        finally:
            if platform.is_gpu() and self._config.sleep:
                self.llm.sleep(level=1)
                self._asleep = {"weights", "kv_cache"}

    def close(self) -> None:
        """See the protocol."""
        self._llm = None
        if not platform.is_gpu():
            self._internals.unlink_shared_memory()

    def _wake(self, *tags: str) -> None:
        asleep = [tag for tag in tags if tag in self._asleep]
        if asleep:
            self.llm.wake_up(tags=asleep)
            self._asleep -= set(asleep)

    def _sampling(self, plan: SamplingPlan, seed: int) -> SamplingParams:
        from vllm import SamplingParams

        return SamplingParams(
            temperature=plan.temperature,
            top_p=plan.top_p,
            top_k=plan.top_k,
            max_tokens=plan.max_response_tokens,
            stop_token_ids=sorted({*plan.stop_token_ids, *self._config.stop_token_ids, *self._model.eos_token_ids}),
            ignore_eos=True,  # the line above has them
            seed=seed,
            logprobs=0,  # the sampled token's alone
            flat_logprobs=True,
            detokenize=False,
        )

    def _run(self, token_rows: list[list[int]], params: list[SamplingParams], on_progress: OnProgress | None) -> list[RequestOutput]:
        if not token_rows:
            return []
        bar = (lambda **kwargs: _Progress(on_progress, kwargs["total"])) if on_progress else False
        requests = [{"prompt_token_ids": row} for row in token_rows]
        with _own_random_state():
            return self.llm.generate(requests, params, use_tqdm=bar)  # type: ignore[arg-type]
