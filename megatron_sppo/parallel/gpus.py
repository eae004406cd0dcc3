"""GPUs as their vendor describes them."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class GPU:
    """Memory as CUDA reports it; rates are the data sheet's, dense (without sparsity), for the SXM form."""

    name: str
    memory: float  # bytes
    bf16_flops: float  # per second
    memory_bandwidth: float  # bytes/s
    nvlink_bandwidth: float  # bytes/s, one direction


GPUS = {
    "a100": GPU("A100 80GB", 79.1 * GIB, 312e12, 2.04e12, 300e9),
    "h100": GPU("H100 80GB", 79.1 * GIB, 989e12, 3.35e12, 450e9),
    "h200": GPU("H200 141GB", 139.8 * GIB, 989e12, 4.8e12, 450e9),
    "b200": GPU("B200 180GB", 178.3 * GIB, 2250e12, 7.7e12, 900e9),
}


def find_gpu(device_name: str) -> GPU | None:
    """By what CUDA calls it, e.g. "NVIDIA H100 80GB HBM3"; None for one outside of the table, or of another form (PCIe, NVL)."""
    words = device_name.lower().replace("-", " ").split()
    if {"pcie", "nvl"} & set(words):
        return None
    return next((gpu for key, gpu in GPUS.items() if key in words), None)
