"""The only file that reaches below vLLM's public interface. Imported after the environment is set.

Proven with vLLM 0.32; which releases are let in at all is in ``vllm_versions.py``. A symbol that a release lacks is an error that
names it, before a weight is written.

Four changes. Everywhere:

* *torch.distributed stays.* An engine that ends tears down the default process group, which is the trainer's.

On the CPU backend alone:

* *Plain GEMM*, unless packed weights are asked for. vLLM moves each linear weight into a packed oneDNN handle and keeps a packed
  copy of ``lm_head``, so that ``model.load_weights`` raises and writes in place are ignored. With ``F.linear`` on the parameter,
  weights are live as on CUDA.
* *Shared-memory names.* Under ``external_launcher`` the segments in /dev/shm are named by the ranks of the group alone, so two
  jobs on one machine, or one after a crash, collide. The launcher's port joins the name.
* *No C++ compiler at run time.* vLLM compiles two small functions with inductor at the first request, which needs g++ and takes
  seconds; dynamo's eager backend needs neither.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import vllm
from vllm.outputs import CompletionOutput
from vllm.sampling_params import RequestOutputKind

Result = TypeVar("Result")
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lives on Linux


def _symbol(module: str, path: str) -> Any:
    """``module``'s attribute, or an error that names vLLM's version: a silent miss would leave stale weights in use."""
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        message = f"vLLM {vllm.__version__} has no {module}.{path}, which rollouts rely on: use vLLM 0.32, which is tested."
        raise RuntimeError(message) from error
    return found


def _replace(module: str, path: str, value: object) -> None:
    """Set an attribute that must exist already."""
    _symbol(module, path)
    *parents, name = path.split(".")
    setattr(functools.reduce(getattr, parents, importlib.import_module(module)), name, value)


def _plain_gemm(layer: torch.nn.Module, remove_weight: bool) -> None:  # noqa: ARG001 - vLLM's signature
    """Instead of packing: multiply with the live parameter."""
    layer.cpu_linear = torch.nn.functional.linear  # type: ignore[assignment]


def _forget_world() -> None:
    """vLLM's ``destroy_distributed_environment`` without its last step, ``torch.distributed.destroy_process_group()``."""
    state = importlib.import_module("vllm.distributed.parallel_state")
    if state._WORLD is not None:  # noqa: SLF001
        state._WORLD.destroy()  # noqa: SLF001
    state._WORLD = state._NODE_COUNT = None  # type: ignore[attr-defined]  # noqa: SLF001


def _job_name() -> str:
    return f"sppo{os.environ['MASTER_PORT']}"


@functools.cache
def prepare() -> None:
    """Apply the changes for every device once, before the first engine is built."""
    for name in ("_WORLD", "_NODE_COUNT"):
        _symbol("vllm.distributed.parallel_state", name)
    _replace("vllm.distributed.parallel_state", "destroy_distributed_environment", _forget_world)


@functools.cache
def prepare_cpu() -> None:
    """Apply the CPU changes once, before :func:`prepare` and the first engine."""
    # First: it is read when the modules of vLLM's layers are imported.
    _replace("vllm.platforms", "current_platform.simple_compile_backend", "eager")
    communicator_module, namer = "vllm.distributed.device_communicators.cpu_communicator", "_CPUSHMDistributed.make_group_name"
    plain_name = _symbol(communicator_module, namer)

    def job_wide_name(communicator: object) -> str:
        return _job_name() + str(plain_name(communicator)).replace("/", "")

    _replace(communicator_module, namer, staticmethod(job_wide_name))


def choose_cpu_weights(packed: bool) -> None:
    """Of the engines of this process: packed by vLLM, or plain and live. Not while an engine of the other kind lives."""
    module, name = "vllm.model_executor.layers.utils", "dispatch_cpu_unquantized_gemm"
    original = getattr(_plain_gemm, "instead_of", None) or _symbol(module, name)
    _plain_gemm.instead_of = original  # type: ignore[attr-defined]
    _replace(module, name, original if packed else _plain_gemm)


def cpu_head_sizes() -> list[int]:
    """Channels per attention head that vLLM's CPU attention has kernels for."""
    return list(_symbol("vllm.v1.attention.backends.cpu_attn", "CPUAttentionBackend.get_supported_head_sizes")())


def unlink_shared_memory() -> None:
    """Remove this job's segments from /dev/shm: vLLM leaves them behind."""
    for segment in _SHARED_MEMORY.glob(f"*{_job_name()}*cpushm*"):
        segment.unlink(missing_ok=True)  # every rank of the node tries


def set_weight_version(llm: vllm.LLM, version: int) -> None:
    """That vLLM names in the outputs that follow; before 0.28 it had none."""
    setter = getattr(llm.llm_engine, "set_weight_version", None)
    if setter is not None:
        setter(str(version))


def run_in_steps(
    llm: vllm.LLM, token_rows: Sequence[list[int]], params: Sequence[vllm.SamplingParams]
) -> Iterator[tuple[int, CompletionOutput]]:
    """(row, its answer) as requests finish: what ``LLM.generate`` does, which hands them over when all have."""
    engine = llm.llm_engine
    for row, (tokens, how) in enumerate(zip(token_rows, params, strict=True)):
        how.output_kind = RequestOutputKind.FINAL_ONLY
        engine.add_request(str(row), {"prompt_token_ids": tokens}, how)
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                yield int(output.request_id), output.outputs[0]


def on_model(llm: vllm.LLM, function: Callable[[torch.nn.Module], Result]) -> Result:
    """``function`` of the live model of this rank; a plain call, since the engine lives in this process."""
    results: list[Result] = llm.apply_model(function)
    return results[0]


@contextmanager
def loading_form(model: torch.nn.Module) -> Iterator[None]:
    """Inside, every parameter but biases is on the meta device in the form in which the model's loaders fill it (unpacked,
    unquantised), with its original loader; afterwards the live parameters are back, untouched.
    """
    reload = functools.partial(_symbol, "vllm.model_executor.model_loader.reload.layerwise")
    reload("initialize_layerwise_reload")(model)
    for module in model.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if hasattr(tensor, "weight_loader"):
                tensor.weight_loader = reload("_get_original_loader")(tensor)
    try:
        yield
    finally:
        for module in model.modules():
            info = reload("LAYERWISE_INFO")[module]
            if info.kernel_tensors is not None:
                reload("_place_kernel_tensors")(module, info)
            info.reset()
        model._do_torchao_reload = model._original_do_torchao_reload  # type: ignore[assignment]  # noqa: SLF001


def load_weights(llm: vllm.LLM, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Replace all weights by vLLM's own loaders; what vLLM packs or quantises is made anew, module by module."""
    model = on_model(llm, lambda model: model)
    loader: Any = model
    modules: list[Any] = [
        module for module in model.modules() if getattr(module, "quant_method", None) and hasattr(module, "weight")
    ]
    if all(after_loading(module, "weight") == "nothing" for module in modules):
        loader.load_weights(iter(tensors))
        return
    shared = [module for module in modules if any(module.weight is other.weight for other in modules if other is not module)]
    reload = functools.partial(_symbol, "vllm.model_executor.model_loader.reload")
    reload("initialize_layerwise_reload")(model)
    loader.load_weights(iter(tensors))
    reload("finalize_layerwise_reload")(model, llm.llm_engine.model_config)
    for module in shared:  # vLLM 0.32 leaves a tied lm_head's packed copy as it was
        process_loaded(module, {})


def after_loading(module: torch.nn.Module, name: str) -> Literal["nothing", "copy", "unknown"]:
    """What vLLM makes of a loaded parameter: nothing; a packed copy beside it; or something this file does not know."""
    method = getattr(module, "quant_method", None)
    linear = _symbol("vllm.model_executor.layers.linear", "UnquantizedLinearMethod")
    embedding = _symbol("vllm.model_executor.layers.vocab_parallel_embedding", "UnquantizedEmbeddingMethod")
    if method is None or (type(method) is linear and name == "bias"):
        return "nothing"
    if type(method) not in (linear, embedding):
        return "unknown"
    platform = _symbol("vllm.platforms", "current_platform")
    if platform.is_cuda() or getattr(module, "cpu_linear", None) is torch.nn.functional.linear:
        return "nothing"
    return "copy" if platform.is_cpu() and type(method) is embedding else "unknown"


def process_loaded(module: torch.nn.Module, landed: Mapping[str, torch.Tensor]) -> None:
    """Run vLLM's step from loaded to kernel form on ``module`` with ``landed`` in place of its parameters; live kernel tensors
    keep their addresses.
    """
    live = {name: param for name, param in module._parameters.items() if param is not None}  # noqa: SLF001
    for name, tensor in landed.items():
        param = torch.nn.Parameter(tensor, requires_grad=False)
        param.__dict__.update(live[name].__dict__)
        module._parameters[name] = param  # noqa: SLF001 - register_parameter() would reorder them
    vars(module).pop("_already_called_process_weights_after_loading", None)
    method: Any = module.quant_method
    if _symbol("vllm.platforms", "current_platform").is_cpu() and getattr(method, "moe_kernel", None) is not None:
        method.moe_kernel = None  # vLLM 0.32 packs a mixture's experts only while it has no kernel yet
    method.process_weights_after_loading(module)
    for name, kept in live.items():
        made = module._parameters[name]  # noqa: SLF001
        if made is kept:
            continue
        if made is None or made.shape != kept.shape or made.dtype != kept.dtype:
            raise RuntimeError(
                f"vLLM {vllm.__version__} changed the form of {name} in {type(module).__name__} when it was reloaded"
            )
        kept.data.copy_(made)
        module._parameters[name] = kept  # noqa: SLF001


def check_weights_are_live(model: torch.nn.Module) -> None:
    """On CPU, prove that :func:`prepare_cpu` reached every linear layer."""
    linears = {name: module for name, module in model.named_modules() if hasattr(module, "cpu_linear")}
    packed = [name for name, module in linears.items() if module.cpu_linear is not torch.nn.functional.linear]
    if packed or not linears:
        raise RuntimeError(f"vLLM {vllm.__version__} does not compute with the live weights of {packed or 'any layer'}.")
