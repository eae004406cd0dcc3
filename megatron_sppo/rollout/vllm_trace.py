"""Which rectangle of which HF tensor vLLM's own loaders put where, on this rank: recorded, not declared.

``model.load_weights`` runs once over HF tensors on the meta device, into parameters restored to the form in which they are
loaded. PyTorch evaluates every slice and view; a dispatch mode sees each ``copy_`` into a parameter and writes down its two
sides instead of executing it. So no table per architecture can rot, and a loader that *computes* a value (dequantises,
transposes into new storage) fails here with the parameter's name instead of silently loading nonsense.

Example: rank 1 of TP2 loads rows 2..4 of ``q_proj.weight`` [4, 8] into the first rows of ``qkv_proj.weight``: the record is
``tensor_offset=16 shape=(2, 8) tensor_strides=(8, 1) param_offset=0 param_strides=(8, 1)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_sppo.rollout import vllm_internals

_COPY = torch.ops.aten.copy_.default
_CLONES = (torch.ops.aten.clone.default, torch.ops.aten._to_copy.default)  # noqa: SLF001 - the operator's name


class UntraceableLoader(RuntimeError):
    """vLLM's loader does more than copy slices; the parameter cannot be written from outside."""


@dataclass(frozen=True)
class LoadedRegion:
    """One copy of a loader; offsets and strides count elements of the whole HF tensor and of the whole parameter."""

    tensor: str
    tensor_offset: int
    tensor_strides: tuple[int, ...]
    shape: tuple[int, ...]
    param: str
    param_offset: int
    param_strides: tuple[int, ...]


@dataclass(frozen=True)
class LoadedParameter:
    """A parameter in the form in which loaders fill it, and the live module that owns it."""

    module: nn.Module = field(repr=False)
    name: str  # within the module
    shape: tuple[int, ...]
    dtype: torch.dtype
    tied_to: tuple[nn.Module, ...] = field(default=(), repr=False)  # modules that share it (a tied lm_head)

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class LoaderTrace:
    """Everything that vLLM loads on this rank, in the order in which it does."""

    regions: tuple[LoadedRegion, ...]
    parameters: dict[str, LoadedParameter]  # by full name


class _Recorder(TorchDispatchMode):
    """Writes down copies from ``tensors`` into ``params``, both known by their storage."""

    def __init__(self, tensors: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._tensors = {_storage(tensor): (name, 0) for name, tensor in tensors.items()}
        self._params = {_storage(param): name for name, param in params.items()}
        self._kept: list[Tensor] = []  # clones: a storage that is freed could be mistaken for its successor
        self.regions: list[LoadedRegion] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _COPY and _storage(args[0]) in self._params:
            self._record(args[0], args[1])
            return args[0]
        result = func(*args, **(kwargs or {}))
        if func in _CLONES and isinstance(result, Tensor):
            self._follow(args[0], result)
        return result

    def _record(self, target: Tensor, source: Tensor) -> None:
        param = self._params[_storage(target)]
        if _storage(source) not in self._tensors:
            raise UntraceableLoader(f"vLLM loads {param} from a computed tensor: its layout cannot be planned.")
        if _squeezed(source)[0] != _squeezed(target)[0]:
            raise UntraceableLoader(f"vLLM loads {param} by broadcasting {tuple(source.shape)} to {tuple(target.shape)}.")
        tensor, base = self._tensors[_storage(source)]
        shape, tensor_strides = _squeezed(source)
        region = LoadedRegion(
            tensor, base + source.storage_offset(), tensor_strides, shape, param, target.storage_offset(), _squeezed(target)[1]
        )
        self.regions.append(region)

    def _follow(self, source: Tensor, clone: Tensor) -> None:
        """A contiguous copy of consecutive elements is as good as the original."""
        known = self._tensors.get(_storage(source))
        if known is not None and source.is_contiguous() and clone.dtype == source.dtype:
            self._tensors[_storage(clone)] = (known[0], known[1] + source.storage_offset())
            self._kept.append(clone)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001 - identity also of a storage without memory


def _squeezed(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(shape, strides) without dimensions of size 1."""
    kept = [(size, stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size != 1]
    return tuple(size for size, _ in kept), tuple(stride for _, stride in kept)


def _named_parameters(model: nn.Module) -> dict[str, tuple[nn.Module, str, Tensor]]:
    """(module, name within it, parameter) by full name; a shared parameter under each of its names."""
    return {
        f"{prefix}.{name}" if prefix else name: (module, name, param)
        for prefix, module in model.named_modules()
        for name, param in module._parameters.items()  # noqa: SLF001 - named_parameters() hides shared ones
        if param is not None
    }


def _ties(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Modules that share a parameter with an earlier one, by that parameter's first name. Read off the live model: restoring
    parameters to the form in which they are loaded unties them.
    """
    first: dict[int, str] = {}
    ties: dict[str, list[nn.Module]] = {}
    for full_name, (module, _, param) in _named_parameters(model).items():
        owner = first.setdefault(id(param), full_name)
        if owner != full_name and param.numel():
            ties.setdefault(owner, []).append(module)
    return ties


def trace_loaders(model: nn.Module, shapes: Mapping[str, Sequence[int]], dtype: torch.dtype) -> LoaderTrace:
    """What ``model.load_weights`` would do with HF tensors of these names and shapes. The model is as before when this returns.

    Raises :class:`UntraceableLoader` where a loader is more than copies of slices.
    """
    ties = _ties(model)
    tensors = {name: torch.empty(tuple(shape), dtype=dtype, device="meta") for name, shape in shapes.items()}
    with vllm_internals.loading_form(model):
        named = _named_parameters(model)
        # A bias is loaded into its live storage (vLLM's reload never moves one); its copies too are recorded and not executed.
        params = {name: param for name, (_, _, param) in named.items() if param.is_meta or name.endswith(".bias")}
        with _Recorder(tensors, params) as recorder:
            cast(Any, model).load_weights(iter(tensors.items()))
        loaded = dict.fromkeys(region.param for region in recorder.regions)
        parameters = {
            name: LoadedParameter(
                module=named[name][0],
                name=named[name][1],
                shape=tuple(params[name].shape),
                dtype=params[name].dtype,
                tied_to=tuple(ties.get(name, ())),
            )
            for name in loaded
        }
    missing = shapes.keys() - {region.tensor for region in recorder.regions}
    if missing:
        raise UntraceableLoader(f"vLLM loads nothing from {min(missing)} ({len(missing)} tensors).")
    return LoaderTrace(tuple(recorder.regions), parameters)
