"""Save in the background, resume in a fresh process, on 2 ranks: bit for bit in the same layout, right in another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "programs" / "checkpoint_resume.py"
ELSEWHERE = ["tp2 with critic dp2", "pp2 with critic tp2", "cp2 with critic cp2"]
LAYOUTS = [*ELSEWHERE, "dp2 plain with critic pp2"]


@pytest.fixture(scope="module")
def output(torchrun: Callable[..., str], tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the two launches said; the second is a new set of processes."""
    arguments = [tmp_path_factory.mktemp("checkpoints"), tiny_model("qwen2"), tiny_model("qwen2_critic")]
    return "".join(torchrun(PROGRAM, 2, args=[mode, *arguments], timeout=240) for mode in ("save", "load"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_resume_is_the_uninterrupted_run_bit_for_bit(output: str, layout: str) -> None:
    assert f"PASS save {layout}" in output
    assert f"PASS load {layout}" in output


@pytest.mark.parametrize("layout", ELSEWHERE)
def test_another_layout_loads_weights_and_optimizer(output: str, layout: str) -> None:
    assert f"PASS elsewhere {layout}" in output
    assert "random generators are not" in output


def test_user_errors_reach_every_rank(output: str) -> None:
    assert "PASS refusals" in output


def test_saves_without_pause_keep_the_last_and_the_best(output: str) -> None:
    assert "PASS retention" in output
    assert "waiting for the checkpoint of step 1 before the one of step 2" in output


def test_a_failed_write_ends_the_run_and_publishes_nothing(output: str) -> None:
    assert "PASS full disk" in output


def test_an_optimizer_that_has_not_stepped_is_saved_and_resumed(output: str) -> None:
    assert "PASS never stepped" in output


def test_an_error_while_a_save_is_in_flight_publishes_nothing(output: str) -> None:
    assert "PASS abandoned" in output
