"""``profile.first_step`` to ``profile.last_step``: where a step's time and memory went, in files that other programs open.

    <run_dir>/profile/step_000012_rank_0.json.gz        torch profiler's trace: https://ui.perfetto.dev, or chrome://tracing
    <run_dir>/profile/step_000012_rank_0.memory.pickle  on a GPU: who allocated what, for https://pytorch.org/memory_viz

The phases of the step are ranges of the trace, and NVTX ranges for `nsys profile`, which are there in every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from megatron_sppo.config.schema import ProfileConfig

MAX_MEMORY_EVENTS = 1_000_000  # the newest: some hundred MB, where a step allocates without end


class Profiler:
    def __init__(self, config: ProfileConfig, run_dir: Path, rank: int, on_gpu: bool) -> None:
        self._config, self._folder, self._rank, self._on_gpu = config, run_dir / "profile", rank, on_gpu

    def wants(self, step: int) -> bool:
        first, last = self._config.first_step, self._config.last_step or self._config.first_step
        return first <= step <= last and (self._config.all_ranks or self._rank == 0)

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Nothing but the step itself where it is not to be profiled."""
        if not self.wants(step):
            yield
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        stem = self._folder / f"step_{step:06d}_rank_{self._rank}"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_gpu else [])]
        with _memory_snapshot(f"{stem}.memory.pickle") if self._on_gpu else nullcontext():
            with profile(activities=activities) as profiled:
                yield
            profiled.export_chrome_trace(f"{stem}.json.gz")


@contextmanager
def _memory_snapshot(file: str) -> Iterator[None]:
    """Who allocates what on the GPU inside."""
    torch.cuda.memory._record_memory_history(max_entries=MAX_MEMORY_EVENTS)  # noqa: SLF001 - its documented name
    try:
        yield
        torch.cuda.memory._dump_snapshot(file)  # noqa: SLF001 - its documented name
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)  # noqa: SLF001 - its documented name


@contextmanager
def named_range(name: str, on_gpu: bool) -> Iterator[None]:
    """A range of the trace, and of NVTX; a few microseconds where nothing listens."""
    with record_function(name):
        if not on_gpu:
            yield
            return
        with torch.cuda.nvtx.range(name):
            yield
