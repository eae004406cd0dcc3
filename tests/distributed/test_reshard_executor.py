"""Plans run over a real wire: pipeline chunks, replicas, experts and separate placements, on four gloo ranks."""

from __future__ import annotations

from collections.abc import Callable

from tests.distributed.programs import reshard_executor as program


def test_every_element_arrives_once_under_the_cap(torchrun: Callable[..., str]) -> None:
    output = torchrun(program.__file__, 4, timeout=180)
    for name in program.CASES:
        assert output.count(f"PASS {name}, cap ") == 2
    assert "PASS disagreement" in output
