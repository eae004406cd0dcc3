"""The one place that asks "cuda or cpu?", and that starts torch.distributed."""

from __future__ import annotations

import faulthandler
import importlib.util
import logging
import os
import signal
import socket
import sys
import warnings
from datetime import timedelta
from functools import cache
from typing import Literal

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from megatron_sppo.parallel import megatron_cpu
from megatron_sppo.parallel.gpus import find_gpu

DEFAULT_TIMEOUT = timedelta(minutes=30)  # of a collective: the longest that a rank waits in it for the others


@cache
def is_gpu() -> bool:
    return torch.cuda.is_available()


def device() -> torch.device:
    """This rank's compute device."""
    return torch.device("cuda", torch.cuda.current_device()) if is_gpu() else torch.device("cpu")


def resolve_dtype(name: Literal["auto", "fp32", "bf16"]) -> torch.dtype:
    """A config's dtype name; ``auto`` is bf16 where there is a GPU and fp32 elsewhere."""
    return {"auto": torch.bfloat16 if is_gpu() else torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16}[name]


def has_transformer_engine() -> bool:
    """Transformer Engine's layers are used where it and a GPU exist."""
    return is_gpu() and importlib.util.find_spec("transformer_engine") is not None


def describe() -> str:
    """What this rank computes with, in words: which layers were chosen is never a secret."""
    if not is_gpu():
        return "CPU, gloo; Megatron's local layers with PyTorch attention"
    layers = (
        "Transformer Engine layers"
        if has_transformer_engine()
        else "Megatron's local layers (Transformer Engine is not installed)"
    )
    return f"{torch.cuda.get_device_name()}, NCCL; {layers}"


def peak_flops() -> float | None:
    """Of this rank's device per second in dense bf16, by its data sheet; None for a CPU or an unknown GPU."""
    gpu = find_gpu(torch.cuda.get_device_name()) if is_gpu() else None
    return gpu.bf16_flops if gpu else None


def peak_device_gib() -> float:
    """Peak memory of this rank's device since start in GiB; 0 on CPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if is_gpu() else 0.0


def synchronize() -> None:
    """Wait for the device, so that a clock reading means what it says."""
    if is_gpu():
        torch.cuda.synchronize()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def prepare_process() -> None:
    """What a process needs before it joins any world. Idempotent."""
    if not is_gpu():
        megatron_cpu.install()
        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    if launched_ranks() > 1:
        # Megatron's TP communication overlap and its sequence-parallel schedule assume one hardware queue. A rank alone has no
        # use for that, and vLLM's copies to the host would wait in it behind kernels.
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    # `kill -USR1 <pid>` prints where every thread of a rank stands: the first question when a job hangs.
    if sys.__stderr__ is not None:  # the process's own: sys.stderr may be a buffer without a file descriptor
        faulthandler.register(signal.SIGUSR1, file=sys.__stderr__, all_threads=True)


def launched_ranks() -> int:
    """How many ranks the launcher has started; known before any of them has met another."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def start_distributed(timeout: timedelta = DEFAULT_TIMEOUT) -> tuple[int, int]:
    """Join the job that torchrun started, or become a world of one. Returns (rank, world size). Idempotent."""
    prepare_process()
    if not dist.is_initialized():
        if "RANK" not in os.environ:
            os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()))
        join_world(timeout=timeout)
    return dist.get_rank(), dist.get_world_size()


def join_world(store: dist.Store | None = None, rank: int = -1, size: int = -1, timeout: timedelta = DEFAULT_TIMEOUT) -> None:
    """Make the default process group: the launcher's ranks, or ``size`` ranks that meet in ``store``."""
    if is_gpu():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if is_gpu() else "gloo", timeout=timeout, store=store, rank=rank, world_size=size)


def world_timeout() -> timedelta:
    """Of collectives in torch's world, as :func:`join_world` was told; other groups of the run take it over."""
    kind = torch.device("cuda" if is_gpu() else "cpu")
    timeout: timedelta = distributed_c10d._get_default_group()._get_backend(kind).options._timeout
    return timeout


@cache
def host_group() -> dist.ProcessGroup:
    """A world group over host memory (gloo), for metadata and small results. Collective on first call."""
    return dist.new_group(backend="gloo", timeout=world_timeout()) if is_gpu() else dist.group.WORLD


def quiet_upstream() -> None:
    """Megatron and vLLM warn once per rank about optional packages; keep errors only."""
    for name in ("megatron", "megatron.core", "vllm", "torch._library.triton"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # What Megatron's checkpoints use, torch calls deprecated, at every load and on every rank.
    for module in (r"torch\.distributed", r"megatron\.core"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)
