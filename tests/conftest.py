"""Shared by all tiers: markers by folder, tiny HF models, `torchrun` with a hard limit."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: two ranks share two cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

import pytest
from hypothesis import settings

from tests.launch import free_port as find_free_port
from tests.launch import run_torchrun
from tests.tiny_models import save_tiny_model

ROOT = Path(__file__).resolve().parent.parent
# The same examples on every run, and no limit per example: the machine is shared with other tests.
settings.register_profile("project", max_examples=40, deadline=None, derandomize=True, database=None)
settings.load_profile("project")

TIERS = ("unit", "distributed", "engine_cpu", "end_to_end", "gpu", "transformer_engine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nemo-run-python", metavar="PYTHON", help="an interpreter with the extra nemo-run: run its tests")
    parser.addoption("--installs", action="store_true", help="also what builds an environment from nothing: minutes, gigabytes")
    parser.addoption("--whole-matrix", action="store_true", help="every combination, where a test runs a sample by default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's folder is its tier, and its tier is its marker."""
    for item in items:
        tier = item.path.relative_to(ROOT / "tests").parts[0]
        if tier in TIERS:
            item.add_marker(tier)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the public math sets in verl's parquet form; they are not part of the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}")
    return folder


@pytest.fixture
def free_port() -> int:
    return find_free_port()


@pytest.fixture(scope="session")
def torchrun() -> Callable[..., str]:
    """``torchrun(script_or_module, nproc, args=(), env=None, timeout=120) -> output``; see :func:`tests.launch.run_torchrun`."""
    return run_torchrun


@pytest.fixture(scope="module")
def selected_cases(request: pytest.FixtureRequest) -> set[str]:
    """Values of ``case`` in this module's tests after ``-k``: one launch serves them all, and need not run any other."""
    mine = (item for item in request.session.items if item.path == request.path and isinstance(item, pytest.Function))
    return {item.callspec.params["case"] for item in mine if hasattr(item, "callspec") and "case" in item.callspec.params}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``tiny_model(kind) -> folder``: a random HF model with a tokenizer, built once a session; kinds in `tests.tiny_models`."""
    folders: dict[str, Path] = {}

    def build(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = save_tiny_model(kind, tmp_path_factory.mktemp(kind) / "hf")
        return folders[kind]

    return build
