"""Run unmodified Megatron-core on CPU and gloo.

Megatron-core names CUDA in places that have nothing to do with CUDA (``device="cuda"`` literals in schedules and gradient
clipping, streams and events around collectives, ``param.type() == "torch.cuda.FloatTensor"`` in the optimizer). Each
entry below redirects one such place to the CPU and is needed by at least one code path of megatron-core 0.16 to 0.19.
Explicit patches only, applied once and only where no GPU exists.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable
from typing import Any, Self

import torch
import torch.utils._device

_CPU = torch.device("cpu")
_FACTORIES = (
    *("empty", "zeros", "ones", "full", "tensor", "as_tensor", "arange", "linspace", "eye", "empty_strided"),
    *("empty_like", "zeros_like", "ones_like", "full_like", "rand", "randn", "randint", "randperm"),
)


def _is_cuda(device: object) -> bool:
    return (isinstance(device, str) and device.startswith("cuda")) or (isinstance(device, torch.device) and device.type == "cuda")


def _on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def redirected(*args: Any, **kwargs: Any) -> Any:
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = _CPU
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        return factory(*args, **kwargs)

    return redirected


class _Event:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def record(self, *args: Any) -> None: ...
    def wait(self, *args: Any) -> None: ...
    def synchronize(self) -> None: ...
    def query(self) -> bool:
        return True

    def elapsed_time(self, other: _Event) -> float:
        return 0.0


class _Stream:
    cuda_stream = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> bool:
        return False

    def wait_stream(self, *args: Any) -> None: ...
    def wait_event(self, *args: Any) -> None: ...
    def record_event(self, *args: Any) -> _Event:
        return _Event()

    def synchronize(self) -> None: ...
    def query(self) -> bool:
        return True


def _patch_tensors() -> None:
    # The original factories must be cached before they are wrapped, else `with torch.device("meta")` misses them.
    torch.utils._device._device_constructors()
    for name in _FACTORIES:
        setattr(torch, name, _on_cpu(getattr(torch, name)))
    plain_type, plain_to = torch.Tensor.type, torch.Tensor.to

    def type_(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs:
            return plain_type(self, *args, **kwargs)
        name = plain_type(self)
        return name if name.startswith("torch.cuda.") else name.replace("torch.", "torch.cuda.", 1)

    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        args = tuple(_CPU if _is_cuda(arg) else arg for arg in args)
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = _CPU
        return plain_to(self, *args, **kwargs)

    torch.Tensor.type = type_  # type: ignore[method-assign,assignment]
    torch.Tensor.to = to  # type: ignore[method-assign,assignment]
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign,assignment]
    torch.nn.Module.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign,assignment]
    torch.Tensor.record_stream = lambda self, *args: None  # type: ignore[method-assign,assignment]


def _patch_cuda_module() -> None:
    cuda: Any = torch.cuda
    cuda.current_device = lambda: _CPU
    cuda.set_device = lambda *args, **kwargs: None
    cuda.device_count = lambda: 1
    cuda.synchronize = lambda *args, **kwargs: None
    cuda.empty_cache = lambda: None
    cuda.get_rng_state = lambda *args, **kwargs: torch.get_rng_state()
    cuda.set_rng_state = lambda state, *args, **kwargs: torch.set_rng_state(state)
    cuda.manual_seed = torch.default_generator.manual_seed
    cuda.current_stream = cuda.default_stream = lambda *args, **kwargs: _Stream()
    cuda.stream = lambda stream: contextlib.nullcontext()
    cuda.Stream, cuda.Event = _Stream, _Event
    cuda.nvtx.range_push = lambda *args: None
    cuda.nvtx.range_pop = lambda *args: None


def _patch_megatron() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Transformer Engine and Apex are not installed": known and intended here
        import megatron.core.tensor_parallel.random as mcore_random

    mcore_random._set_cuda_rng_state = lambda state, device=-1, graph_safe=False: torch.set_rng_state(state)
    mcore_random._get_cuda_rng_state = lambda device="cuda", clone=False, graph_safe=False: torch.get_rng_state()
    if not getattr(mcore_random, "HAVE_TE", False):
        # 0.16.1: without TE, CheckpointWithoutOutput(fp8=False) sets self.fp8 = True.
        plain_init = mcore_random.CheckpointWithoutOutput.__init__

        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            plain_init(self, *args, **kwargs)
            self.fp8 = False

        mcore_random.CheckpointWithoutOutput.__init__ = init


@functools.cache
def install() -> None:
    """Apply the patches once; a no-op where a GPU exists."""
    if torch.cuda.is_available():
        return
    _patch_tensors()
    _patch_cuda_module()
    _patch_megatron()
