"""Megatron's weights pushed into real vLLM by a plan, bit for bit against vLLM that loaded the HF checkpoint.

`programs/reshard_checks.py` runs once per world, rollout layout and form of vLLM's weights, over model kinds and trainer layouts.
The whole matrix takes about 40 minutes on two cores: `pytest tests/engine_cpu/test_reshard.py --whole-matrix`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine_cpu.programs import reshard_checks as program

KINDS = ("qwen2", "qwen2_tied_odd_vocab", "qwen3", "qwen2_1kv", "qwen2_odd_vocab")
PAIR, FOUR = "2x1,1x2,1x1", "2x2,2x1,1x2,1x1"  # trainer layouts on two ranks and on four, TPxPP
# (ranks, rollout TP, options, trainer layouts, kinds)
SAMPLE = (
    (2, 2, "-", PAIR, ("qwen2_tied_odd_vocab", "qwen3", "qwen2_1kv")),
    (2, 1, "-", PAIR, ("qwen2_tied_odd_vocab", "qwen2_1kv")),
    (2, 2, "cpu_packed_weights", PAIR, ("qwen2_tied_odd_vocab",)),
    (2, 2, "cpu_packed_weights,at_end", "1x2", ("qwen3",)),
    (4, 1, "-", "2x2,1x2", ("qwen2_1kv",)),
    (2, 2, "compiled", "1x2", ("qwen3",)),
)
MATRIX = tuple(
    (ranks, tp, options, layouts, KINDS)
    for ranks, layouts, tps in ((1, "1x1", (1,)), (2, PAIR, (1, 2)), (4, FOUR, (1, 2)))
    for tp in tps
    for options in ("-", "cpu_packed_weights", "compiled", "cpu_packed_weights,compiled")
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        cases = MATRIX if metafunc.config.getoption("--whole-matrix") else SAMPLE
        metafunc.parametrize("case", cases, ids=lambda case: f"{case[0]} ranks, rollout TP{case[1]}, {case[2]}")


@pytest.fixture(scope="module")
def folders(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each kind, with other weights beside it."""
    root = tmp_path_factory.mktemp("reshard")
    for kind in KINDS:
        shutil.copytree(tiny_model(kind), root / kind / "hf")
        shutil.copytree(tiny_model(kind), root / kind / "hf-new")
        generator = torch.Generator().manual_seed(9)
        old = sorted(load_file(root / kind / "hf" / "model.safetensors").items())
        new = {name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator) for name, tensor in old}
        save_file(new, root / kind / "hf-new" / "model.safetensors", metadata={"format": "pt"})
    return {kind: root / kind / "hf" for kind in KINDS}


Case = tuple[int, int, str, str, tuple[str, ...]]


def test_pushed_weights_are_the_checkpoints_bit_for_bit(
    case: Case, folders: dict[str, Path], torchrun: Callable[..., str]
) -> None:
    ranks, tp, options, layouts, kinds = case
    named = [f"{kind}={folders[kind]}" for kind in kinds]
    output = torchrun(program.__file__, ranks, [tp, options, layouts, *named], timeout=900)
    for kind in kinds:
        for layout in layouts.split(","):
            train_tp, pp = map(int, layout.split("x"))
            assert f"PASS {kind} TP{train_tp} PP{pp} DP{ranks // (train_tp * pp)}: " in output
        if options == "-" and f"{tp}x1" in layouts.split(","):
            assert f"PASS {kind} aliases: " in output
