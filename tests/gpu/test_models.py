"""Transformer Engine's layers in bf16 and FP8 against HF transformers, and offload, on one GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.launch import printed_results

PROGRAM = Path(__file__).parent / "programs" / "models.py"
BF16_LIMIT = 0.02  # mean |difference| of a log-prob
FP8_LIMIT = 0.25  # rounding to FP8 alone, simulated on a CPU for this very model: 0.156 (delayed), 0.145 (tensorwise)
RECIPES = ("delayed", "tensorwise", "blockwise", "tensorwise parameters", "blockwise parameters")


@pytest.fixture(scope="module")
def results(torchrun: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program measured, one line per subject."""
    output = torchrun(PROGRAM, 1, args=[tmp_path_factory.mktemp("models")], timeout=480)
    return {line["subject"]: line for line in printed_results(output)}


def test_bf16_agrees_with_hf(results: dict[str, Any]) -> None:
    assert results["bf16"]["mean_difference"] < BF16_LIMIT, results["bf16"]


def test_a_row_of_several_sequences_is_each_of_them_alone(results: dict[str, Any]) -> None:
    assert results["bf16"]["packed_against_single"] < BF16_LIMIT, results["bf16"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_fp8_agrees_with_bf16(transformer_engine: None, results: dict[str, Any], recipe: str) -> None:
    found = results[recipe]
    assert found["mean_difference"] < FP8_LIMIT, found
    assert found["packed_against_single"] < FP8_LIMIT, found
    assert 0.8 < found["grad_norm_ratio"] < 1.25, found
    assert found["padded_to"] == 0, "tokens of a row over the recipe's multiple"
    assert found["against_copies"] == 0.0, "FP8 parameters are what FP8 copies of bf16 ones would be, before and after an update"


def test_what_leaves_gives_its_memory_back_and_changes_nothing(results: dict[str, Any]) -> None:
    found = results["offload"]
    assert found["freed_bytes"] == pytest.approx(found["expected_bytes"], rel=0.05), found
    assert found["same_weights"], "an update with everything on the host in between is the update without"
    assert found["device_growth_bytes"] == 0 and found["host_growth_bytes"] < 64 * 2**20, found
