"""FP8 parameters leave the trainer as the bf16 numbers that it multiplies by: to vLLM, to a folder, to the host and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.launch import printed_results
from tests.transformer_engine.models import MODELS, save_model

PROGRAM = Path(__file__).parent / "programs" / "leaving.py"
CLUSTERS: dict[str, dict[str, int]] = {
    "1 -> 1": {},
    "TP2 -> 2 x TP1": {"tp": 2, "num_engines": 2},
    "TP2 -> TP2": {"tp": 2, "rollout_tp": 2},
    "DP2 -> TP2": {"dp": 2, "rollout_tp": 2},
}
RECIPES = ("tensorwise", "blockwise")
CASES = [f"{kind}, {recipe}, {cluster}" for kind, recipe, cluster in product(MODELS, RECIPES, CLUSTERS)]
NUM_MATRICES = 8  # of two layers


@pytest.fixture(scope="module")
def results(torchrun: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What each rank found, by case."""
    models = {kind: save_model(kind, tmp_path_factory.mktemp(kind)) for kind in MODELS}
    on_ranks: dict[int, dict[str, Any]] = {1: {}, 2: {}}
    for kind, recipe, (name, cluster) in product(MODELS, RECIPES, CLUSTERS.items()):
        words = [f"fp8.recipe={recipe}", "fp8.parameters=true", f"tp={cluster.get('tp', 1)}"]
        subject = {"model": str(models[kind]), "role": "actor", "layers": "transformer_engine", "overrides": words}
        on_ranks[2 if cluster else 1][f"{kind}, {recipe}, {name}"] = {"subject": subject, "cluster": cluster}
    found: dict[str, list[dict[str, Any]]] = {}
    for num_ranks, cases in on_ranks.items():
        file = tmp_path_factory.mktemp("leaving") / "cases.json"
        file.write_text(json.dumps(cases))
        found |= {line["case"]: line["ranks"] for line in printed_results(torchrun(PROGRAM, num_ranks, args=[file], timeout=300))}
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_push_gives_vllm_the_numbers_that_the_trainer_multiplies_by(
    results: dict[str, list[dict[str, Any]]], case: str
) -> None:
    """Twice, with a step between: values that were made of FP8 for the first push are not those of the second."""
    for rank in results[case]:
        assert rank["num_fp8_parameters"] == NUM_MATRICES and rank["bytes_an_element"] < 1.001
        assert rank["pushes"] == [True, True]


@pytest.mark.parametrize("case", CASES)
def test_the_reference_policy_is_the_initial_one_to_the_last_bit(results: dict[str, list[dict[str, Any]]], case: str) -> None:
    for rank in results[case]:
        assert rank["reference_is_the_initial_policy"] and rank["differs_from_it"] and rank["comes_back"]
