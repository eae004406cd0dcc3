"""Everything that is asked of vLLM: its environment, the engine's options, the options of one request."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from megatron_sppo.batch import SamplingPlan
from megatron_sppo.config.schema import RolloutConfig
from megatron_sppo.parallel import platform

if TYPE_CHECKING:
    from vllm import SamplingParams

_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_GIB = 2**30
WEIGHT_TRANSFER_BACKEND = "megatron_sppo"  # in vLLM's registry; see weight_transfer.py


def configure_environment() -> None:
    """vLLM's process-wide switches, which it reads from the environment when it is imported. The one place that sets them."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine lives in this process
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # torchrun's OMP_NUM_THREADS stands
    if not platform.is_gpu():
        # What vLLM compiles for a CPU calls its all-reduce by a number that counts the groups made in this process. Read from the
        # cache into a process that made others, it silently reduces over a wrong group (seen with TP2 on four ranks, vLLM 0.32).
        os.environ["VLLM_DISABLE_COMPILE_CACHE"] = "1"
    # For requests without a seed and without the log-probs sampled from, which never come; vLLM would import it all the same.
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def engine_options(config: RolloutConfig, model_path: str | Path, dtype: torch.dtype, seed: int) -> dict[str, Any]:
    """Arguments of ``vllm.LLM``."""
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
        "enforce_eager": not (config.execution == "compiled" or (config.execution == "auto" and platform.is_gpu())),
        "enable_prefix_caching": True,
        # The next step is scheduled while this one runs, by the queue's length and no clock: an engine's ranks stay in lockstep.
        # On a CPU nothing runs meanwhile, and the token that follows a stop token would be computed for nothing.
        "async_scheduling": platform.is_gpu(),
        "logprobs_mode": "processed_logprobs",  # of the distribution sampled from: after temperature, top-k and top-p
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if config.quantization != "none":
        options["quantization"] = config.quantization
    if config.max_num_batched_tokens:
        options["max_num_batched_tokens"] = config.max_num_batched_tokens
    if platform.is_gpu():
        options |= {"gpu_memory_utilization": config.gpu_memory_utilization, "enable_sleep_mode": config.sleep}
    else:
        options["kv_cache_memory_bytes"] = int(config.cpu_kv_cache_gib * _GIB)
        # A key of vLLM's cache of compiled models, which would otherwise mix up the two.
        options["additional_config"] = {"cpu_packed_weights": config.cpu_packed_weights}
    return options


def sampling_params(plan: SamplingPlan, stop_token_ids: set[int], seed: int, greedy: bool = False) -> SamplingParams:
    """One response of ``plan``, at its temperature or ``greedy``; it ends at any of ``stop_token_ids`` or the plan's."""
    from vllm import SamplingParams

    return SamplingParams(
        temperature=0.0 if greedy else plan.temperature,
        top_p=plan.top_p,
        top_k=plan.top_k,
        max_tokens=plan.max_response_tokens,
        stop_token_ids=sorted({*plan.stop_token_ids, *stop_token_ids}),
        ignore_eos=True,  # the line above has them
        seed=seed,
        logprobs=0,  # the sampled token's alone
        flat_logprobs=True,
        detokenize=False,
    )


def scoring_params() -> SamplingParams:
    """Log-probs of a given sequence, at temperature 1."""
    from vllm import SamplingParams

    # Without a seed vLLM would draw one from NumPy's global state.
    return SamplingParams(max_tokens=1, temperature=0.0, seed=0, prompt_logprobs=0, flat_logprobs=True, detokenize=False)
