"""What the documentation says against what the code has."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from omegaconf import OmegaConf

from megatron_sppo.config.load import describe
from megatron_sppo.config.schema import Config, EvalConfig, SFTConfig
from tests.glossary import explained_names, unexplained
from tests.launch import ROOT

PAGES = sorted(
    [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", *(ROOT / "examples").glob("*.md"), ROOT / "docker" / "README.md"]
)
KEYS = {knob.key for kind in (Config, SFTConfig, EvalConfig) for knob in describe(kind)}
SECTIONS = {key.rpartition(".")[0] for key in KEYS}


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_keys_is_up_to_date() -> None:
    written = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert written == tool("make_config_doc").document(), "run python tools/make_config_doc.py"


def test_the_page_of_keys_has_them_all() -> None:
    written = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([\w.]+)` \|", written, re.MULTILINE)) >= {knob.key for knob in describe(Config)}


def test_the_glossary_knows_names_from_others() -> None:
    assert unexplained(["reward/mean", "validation/aime24/avg@16_low", "time/actor_update", "reward/reason/no_box"]) == []
    assert unexplained(["reward/", "actor/los", "validation/avg@16", "perf/reshard/x/y"]) == [
        *("reward/", "actor/los", "validation/avg@16", "perf/reshard/x/y")
    ]
    assert len(explained_names()) == len(set(explained_names()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[\w-]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_keys_that_are_named_exist(page: Path) -> None:
    """`actor.tp=4`, `critic.optimizer.lr`: what looks like a key of a section that exists is one."""
    words = re.findall(r"(?<![\w./-])((?:[a-z_]+\.)+[a-z_0-9]+)(?==)", page.read_text(encoding="utf-8"))
    wrong = {word for word in words if word.split(".")[0] in {section.split(".")[0] for section in SECTIONS if section}}
    assert sorted(word for word in wrong if word not in KEYS and f"model.{word}" not in KEYS) == []


def test_keys_beside_verls_exist() -> None:
    rows = [
        line.split("|")[1:-1]
        for line in (ROOT / "docs" / "migrating_from_verl.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    ours = {word.partition("=")[0] for _, here, _ in rows for word in re.findall(r"`([a-z_.]+(?:=\w+)?)`", here)}
    assert len(rows) > 50 and sorted(ours - KEYS) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_yaml_can_be_read(page: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        OmegaConf.create(block)
