"""Random generators of this rank: PyTorch host and device, Python, NumPy and Megatron's named TP generators.

One file per rank: each rank must get its own back. A sharded object addressed by pipeline and tensor rank alone gives
all data-parallel ranks the first one's. The files hold tensors and plain numbers, and are read with ``weights_only``.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import get_cuda_rng_tracker


def _file(folder: Path) -> Path:
    return folder / f"rank_{dist.get_rank():05d}.pt"


def save(folder: Path) -> None:
    """Write this rank's generator states into ``folder``."""
    algorithm, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 -- the global generator is what is kept
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "device": torch.cuda.get_rng_state(),
        "tracker": get_cuda_rng_tracker().get_states(),
        "python": random.getstate(),
        "numpy": (algorithm, torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(gauss)),
    }
    torch.save(state, _file(folder))


def load(folder: Path) -> None:
    """Put back what this rank saved. For the layout and world size it was saved with."""
    state: dict[str, Any] = torch.load(_file(folder), weights_only=True)
    algorithm, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((algorithm, keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    random.setstate(state["python"])
    get_cuda_rng_tracker().set_states(state["tracker"])
    torch.cuda.set_rng_state(state["device"])
    torch.set_rng_state(state["torch"])  # after the device's: on a CPU they are one generator
