"""vLLM's weights on this rank as places to write to, from outside, in place.

Each parameter is written in one of three ways, chosen once and closed against doubt:

* **direct**: the live storage has the form in which loaders fill it; an element written is an element in use. So it is with
  linear layers, embeddings and norms on CUDA, and on the CPU where vLLM is kept from packing.
* **repack**: the live storage is written and a packed copy of it is made anew (embeddings of vLLM's CPU backend).
* **staged**: the module's tensors land in fresh memory, vLLM's own ``process_weights_after_loading`` turns them into kernel form
  (packed, quantised), and the result is copied into the live kernel tensors, whose addresses CUDA graphs hold. Memory: one
  module, or with ``at_end`` all of them.

Anything with a quantisation method that is not known to leave its parameters alone is staged. Equal shape and dtype prove
nothing: a mixture of experts on the CPU packs its weights in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from megatron_sppo.rollout import vllm_internals
from megatron_sppo.rollout.vllm_trace import LoadedParameter, LoadedRegion, LoaderTrace

Mode = Literal["direct", "repack", "staged"]
OnLanded = Callable[[int, Tensor], None]


@dataclass(frozen=True)
class _Group:
    """A module whose parameters take effect together."""

    module: nn.Module
    params: tuple[int, ...]
    tied_to: tuple[nn.Module, ...]  # modules with packed copies of the same parameters


@dataclass
class _Progress:
    """Of one push."""

    landing: dict[int, Tensor] = field(default_factory=dict)
    open: dict[int, int] = field(default_factory=dict)  # parameters of a group that are still to come
    on_landed: OnLanded | None = None
    bytes: int = 0
    peak_bytes: int = 0


class LiveWeights:
    """Where to write each parameter, and what to do once it is written. One push: :meth:`begin`, then for each parameter
    :meth:`flat` as often as needed and :meth:`finish` once, then :meth:`end`.
    """

    def __init__(self, trace: LoaderTrace, at_end: bool = False) -> None:
        """``at_end``: kernel forms are made when everything has landed, in one order on every rank of an engine, for forms whose
        making is collective over them. Which module lands first differs from rank to rank.
        """
        self._at_end = at_end
        self.names = tuple(trace.parameters)
        self.regions: tuple[LoadedRegion, ...] = trace.regions
        self._params = tuple(trace.parameters.values())
        self.modes: tuple[Mode, ...] = tuple(map(_mode, self._params))
        self._covered = _covered_elements(trace)
        self._group_of = self._group_params()
        self._groups = tuple({id(group): group for group in self._group_of.values()}.values())  # in one order on every rank
        self._progress = _Progress()
        self._aliased: set[int] = set()

    def _group_params(self) -> dict[int, _Group]:
        """Group of each parameter that is not direct; a direct one takes effect alone."""
        members: dict[int, list[int]] = {}
        for index, (param, mode) in enumerate(zip(self._params, self.modes, strict=True)):
            if mode != "direct":
                members.setdefault(id(param.module), []).append(index)
        found: dict[int, _Group] = {}
        for indices in members.values():
            tied = dict.fromkeys(module for index in indices for module in self._params[index].tied_to)
            group = _Group(self._params[indices[0]].module, tuple(indices), tuple(tied))
            found |= dict.fromkeys(indices, group)
        return found

    @property
    def peak_landing_bytes(self) -> int:
        """Most memory that staged tensors took at once in the last push."""
        return self._progress.peak_bytes

    @property
    def largest_group_bytes(self) -> int:
        """Of the parameters of one staged or repacked module, as they are loaded."""
        sizes = (
            sum(self._params[param].size * self._params[param].dtype.itemsize for param in group.params) for group in self._groups
        )
        return max(sizes, default=0)

    @property
    def comparable(self) -> list[int]:
        """Parameters whose live elements are those that were loaded."""
        return [param for param, mode in enumerate(self.modes) if mode != "staged"]

    def live(self, param: int) -> Tensor:
        """A parameter's live storage; RuntimeError for a staged one, whose live form is the kernel's."""
        if self.modes[param] == "staged":
            raise RuntimeError(f"{self.names[param]} is in kernel form; its elements cannot be compared")
        return self._storage(param)

    def _storage(self, param: int) -> Tensor:
        loaded = self._params[param]
        tensor: Tensor = getattr(loaded.module, loaded.name)
        return tensor.detach().view(-1)

    def alias(self, param: int, flat: Tensor) -> bool:
        """Make ``flat``, memory of the trainer that holds the parameter's elements in the same order, the parameter itself.

        False, and nothing done, where it is not written directly or the two differ in size (padding) or dtype. What holds the old
        address (a captured CUDA graph) would go on reading it.
        """
        if self.modes[param] != "direct":
            return False
        loaded, live = self._params[param], self._storage(param)
        if live.shape != flat.shape or live.dtype != flat.dtype:
            return False
        getattr(loaded.module, loaded.name).data = flat.view(loaded.shape)
        self._aliased.add(param)
        return True

    def is_aliased(self, param: int, flat: Tensor) -> bool:
        """Whether the parameter still is ``flat``."""
        return param in self._aliased and self._storage(param).data_ptr() == flat.data_ptr()

    def begin(self, lost: bool, on_landed: OnLanded | None = None) -> None:
        """``lost``: the live weights are garbage (vLLM slept at level 2), so what no loader fills (padding) is zeroed too.

        ``on_landed(param, flat)`` sees each staged parameter before it is turned into kernel form.
        """
        self._progress = _Progress(open={id(group): len(group.params) for group in self._groups}, on_landed=on_landed)
        for param, loaded in enumerate(self._params):
            is_live = self.modes[param] != "staged" and param not in self._aliased
            if lost and is_live and self._covered[param] < loaded.size:
                self._storage(param).zero_()

    def dtype(self, param: int) -> torch.dtype:
        """Of the memory that :meth:`flat` gives."""
        return self._params[param].dtype if self.modes[param] == "staged" else self._storage(param).dtype

    def lands(self, param: int) -> bool:
        """Whether the parameter takes memory from its first element until it is finished."""
        return self.modes[param] == "staged"

    def flat(self, param: int) -> Tensor:
        """[elements] where a parameter's elements go."""
        if self.modes[param] != "staged":
            return self._storage(param)
        progress, loaded = self._progress, self._params[param]
        if param not in progress.landing:
            make = torch.empty if self._covered[param] == loaded.size else torch.zeros
            device = getattr(loaded.module, loaded.name).device
            progress.landing[param] = make(loaded.size, dtype=loaded.dtype, device=device)
            progress.bytes += progress.landing[param].nbytes
            progress.peak_bytes = max(progress.peak_bytes, progress.bytes)
        return progress.landing[param]

    def finish(self, param: int) -> None:
        """Every element that loaders fill has been written."""
        group = self._group_of.get(param)
        if group is None:
            return
        self._progress.open[id(group)] -= 1
        if self._progress.open[id(group)] == 0 and not self._at_end:
            self._apply(group)

    @torch.no_grad()
    def _apply(self, group: _Group) -> None:
        landed: dict[str, Tensor] = {}
        for param in group.params:
            if self.modes[param] == "staged":
                loaded, flat = self._params[param], self._progress.landing.pop(param)
                self._progress.bytes -= flat.nbytes
                if self._progress.on_landed is not None:
                    self._progress.on_landed(param, flat)
                landed[loaded.name] = flat.view(loaded.shape)
        vllm_internals.process_loaded(group.module, landed)
        for module in group.tied_to:
            vllm_internals.process_loaded(module, {})

    def end(self) -> None:
        """AssertionError where a module is still waiting for parameters."""
        waiting = [name for name, group in self._waiting() if self._progress.open[id(group)]]
        assert not waiting, f"a push ended before {waiting[:3]} were complete"
        if self._at_end:
            for group in self._groups:
                self._apply(group)
        assert not self._progress.landing, "what has landed was turned into kernel form"

    def _waiting(self) -> Iterable[tuple[str, _Group]]:
        return ((self.names[param], group) for param, group in self._group_of.items())


def _covered_elements(trace: LoaderTrace) -> tuple[int, ...]:
    """Elements of each parameter that loaders fill; padding of the vocabulary is the rest."""
    covered = dict.fromkeys(trace.parameters, 0)
    for region in trace.regions:
        covered[region.param] += torch.Size(region.shape).numel()
    return tuple(covered.values())


def _mode(loaded: LoadedParameter) -> Mode:
    live: Tensor = getattr(loaded.module, loaded.name)
    is_as_loaded = tuple(live.shape) == loaded.shape and live.is_contiguous()
    after_loading = vllm_internals.after_loading(loaded.module, loaded.name)
    if after_loading == "nothing" and not is_as_loaded:
        raise RuntimeError(f"vLLM keeps {loaded.name} of {type(loaded.module).__name__} in another form than it loads it")
    if after_loading == "nothing":
        return "direct"
    return "repack" if after_loading == "copy" and is_as_loaded else "staged"
