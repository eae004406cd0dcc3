"""These tests need Transformer Engine, and that no GPU is there: with one, tests/gpu runs the real kernels."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent


def reason_to_skip() -> str | None:
    if torch.cuda.is_available():
        return "there is a CUDA device: tests/gpu runs Transformer Engine's own kernels"
    try:
        import_module("transformer_engine.pytorch")
    except ImportError as error:
        return f"{error}: tools/test_transformer_engine.sh says what these tests need"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if item.path.is_relative_to(FOLDER)]
    reason = reason_to_skip() if mine else None
    for item in mine if reason else ():
        item.add_marker(pytest.mark.skip(reason=reason))
