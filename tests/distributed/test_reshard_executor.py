"""Plans run on four gloo ranks, by messages and in shared memory: pipeline chunks, replicas, experts, separate placements."""

from __future__ import annotations

from collections.abc import Callable

from tests.distributed.programs import reshard_executor as program


def test_every_element_arrives_once_under_the_cap(torchrun: Callable[..., str]) -> None:
    output = torchrun(program.__file__, 4, timeout=180)
    for name in program.CASES:
        for how in program.MACHINES:
            assert f"PASS {name}, {how}: " in output
    for check in ("no room", "no name", "disagreement"):
        assert f"PASS {check}" in output
