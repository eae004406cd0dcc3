"""Host memory that the device copies to and from at full speed."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

from megatron_sppo.parallel import platform


def host_bytes(count: int) -> Tensor:
    """[count] uint8, page-locked where there is a GPU, until the tensor and its views are gone.

    Registered rather than allocated as pinned: PyTorch's pinned allocator rounds up to a power of two, and keeps what was freed.
    """
    buffer = torch.empty(count, dtype=torch.uint8)
    if platform.is_gpu() and count:
        runtime = torch.cuda.cudart()
        _succeed(runtime.cudaHostRegister(buffer.data_ptr(), count, 0), f"page-locking {count / 2**30:.1f} GiB of host memory")
        weakref.finalize(buffer.untyped_storage(), runtime.cudaHostUnregister, buffer.data_ptr())
    return buffer


def _succeed(status: int, doing: str) -> None:
    if int(status) != 0:
        raise RuntimeError(
            f"{doing} failed with CUDA error {int(status)}: is `ulimit -l` or the container's memory limit too low?"
        )
