"""Memory of this rank's GPU: what is free, what a phase takes at most, and what vLLM gives back while it sleeps.

vLLM's weights and KV cache come from PyTorch's allocator, but sleeping unmaps their pages behind its back: the allocator goes on
counting them. What was unmapped is therefore measured at the device and taken off. On a CPU there is nothing to measure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from megatron_sppo.parallel import platform

_GIB = 2**30


class _Unmapped:
    """By vLLM, of this process."""

    bytes: int = 0


def give_back_cached() -> None:
    """What PyTorch keeps for later goes back to the device, for those who take memory past its allocator."""
    if platform.is_gpu():
        torch.cuda.empty_cache()


def free_and_total() -> tuple[int, int]:
    """Bytes of this rank's GPU, whoever else uses it."""
    free, total = torch.cuda.mem_get_info()
    return free, total


@contextmanager
def remapping() -> Iterator[None]:
    """Around a sleep or a wake of vLLM: the device's free memory changes, PyTorch's counters do not."""
    if not platform.is_gpu():
        yield
        return
    give_back_cached()
    before, _ = free_and_total()
    yield
    _Unmapped.bytes += free_and_total()[0] - before


class PhasePeak:
    """The most memory that tensors of this rank took between :meth:`start` and a reading."""

    def __init__(self) -> None:
        self._unmapped = 0

    def start(self) -> None:
        if platform.is_gpu():
            torch.cuda.reset_peak_memory_stats()
            self._unmapped = _Unmapped.bytes

    def gib(self) -> float:
        """0 on a CPU. In a phase in which vLLM falls asleep or wakes up, with all that it has."""
        if not platform.is_gpu():
            return 0.0
        return (torch.cuda.max_memory_allocated() - min(self._unmapped, _Unmapped.bytes)) / _GIB
