"""The memory that `megatron-sppo plan` names against what real Megatron models of 100 M parameters allocate."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.distributed.programs import plan_memory
from tests.launch import printed_results


def test_weights_gradients_and_optimizer_are_what_is_allocated(
    torchrun: Callable[..., str], request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--whole-matrix"):
        pytest.skip("--whole-matrix")
    output = torchrun(plan_memory.__file__, 2, timeout=180)
    found = list(printed_results(output))
    assert len(found) == 2 * len(plan_memory.CASES)
    for row in found:
        for part in ("weights", "gradients", "optimizer"):
            allocated, planned = row[part]
            assert allocated == pytest.approx(planned, rel=0.001), (row["case"], part)
        kept, planned = row["activations"]
        assert planned <= kept <= 1.8 * planned, row["case"]  # local layers, whose norms are in fp32
