"""Every test here needs a CUDA device, and those of FP8 Transformer Engine too; elsewhere they are skipped, and say so."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

os.environ["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] = "0"  # runs are compared bit for bit; cuDNN's attention may add in any order


@pytest.fixture(autouse=True, scope="session")
def _needs_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture
def transformer_engine() -> None:
    if importlib.util.find_spec("transformer_engine") is None:
        pytest.skip("needs Transformer Engine")
