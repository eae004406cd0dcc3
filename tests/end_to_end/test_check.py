"""``megatron-sppo check``: HF, Megatron and vLLM agree on healthy models, and a policy that vLLM does not hold stops the run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from megatron_sppo.parity import Difference, Report
from tests.end_to_end.programs import gate
from tests.end_to_end.runs import TinyModel, command, finish, start, write_config
from tests.launch import run_torchrun

PAIRS = ("hf_megatron", "hf_vllm", "megatron_vllm")


@pytest.mark.parametrize(("kind", "tp"), [("qwen2", 1), ("qwen3", 1), ("qwen2_tied", 2)])
def test_a_healthy_model_agrees(tiny_model: TinyModel, kind: str, tp: int) -> None:
    code, stdout, stderr = finish(start(command("check", "--model", tiny_model(kind), "--tp", tp, "--json")))
    assert code == 0, stderr
    report: dict[str, Any] = json.loads(stdout)  # nothing but JSON, so that it can be piped
    assert report["agrees"] and report["dtype"] == "fp32" and report["tp"] == tp and report["num_tokens"] > 100
    assert all(0 < report[pair]["max_abs"] < 1e-3 and report[pair]["mean_abs"] < 1e-4 for pair in PAIRS), report


def test_the_gate_at_the_start_of_training(tiny_model: TinyModel, tmp_path: Path) -> None:
    run_torchrun(gate.__file__, 1, [write_config(tmp_path, tiny_model), tmp_path / "seen.json"], timeout=240)
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["healthy"] < 1e-4
    assert "differ by" in seen["error"] and "rollout.max_logprob_gap=0.1" in seen["error"]
    assert f"megatron-sppo check --model {tiny_model('qwen2')}" in seen["error"]


@pytest.mark.parametrize(("gap", "agrees"), [(5e-4, True), (2e-3, False), (math.nan, False)])
def test_the_verdict_is_over_all_three_pairs(gap: float, agrees: bool) -> None:
    same, other = Difference(0.0, 0.0, 0.0), Difference(gap, gap, 0.0)
    for place in range(3):
        differences = [other if index == place else same for index in range(3)]
        report = Report("m", "fp32", 1, 1, 100, *differences, tolerance=1e-3)
        assert report.agrees is agrees
        assert ("DISAGREE" in report.table()) is not agrees
