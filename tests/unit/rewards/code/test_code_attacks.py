"""Programs that attack: none is rewarded, nothing of them is left, the parent neither waits nor grows."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.rewards.code.processes import descendants, open_files, resident_kib

LIMIT_SECONDS = 1.0  # conftest.LIMITS.test_seconds
IO_TESTS = {"inputs": ["1 2\n"], "outputs": ["8315\n"]}
CALL_TESTS = {"fn_name": "f", "inputs": [[1], [2]], "outputs": [8315, 8316]}
ASSERT_TESTS = {"asserts": ["assert f(1) == 8315", "assert f(2) == 8316"]}
CHECK_TESTS = {"test_code": "def check(candidate):\n    assert candidate(1) == 8315\n", "entry_point": "f"}


def programs(name: str) -> dict[str, str]:
    """Name to program of a file whose parts begin with `=== name`."""
    parts = Path(__file__).with_name(name).read_text().split("\n=== ")[1:]
    return {title: program for title, _, program in (part.partition("\n") for part in parts)}


FORGERIES, MACHINE_ATTACKS = programs("forgeries.txt"), programs("machine_attacks.txt")


@pytest.fixture(autouse=True)
def nothing_is_left(reward) -> Iterator[None]:
    """Around every attack: no process but the idle supervisors, no memory, no time."""
    known, memory, started, files = descendants(), resident_kib(), time.monotonic(), open_files()
    yield
    taken = time.monotonic() - started
    assert len(reward.pool._idle) <= reward.pool.size
    supervisors = {pid for worker in reward.pool._idle for pid in [worker.process.pid]}
    assert len(descendants() - known - supervisors) <= len(supervisors)  # the inner half of a new supervisor
    assert resident_kib() - memory < 24 * 1024
    assert open_files() <= files + 2 * reward.pool.size  # a new supervisor has a socket
    assert taken < 3 * (LIMIT_SECONDS + 1)


@pytest.mark.parametrize("tests", [CALL_TESTS, ASSERT_TESTS, CHECK_TESTS], ids=["calls", "asserts", "check"])
@pytest.mark.parametrize("program", FORGERIES.values(), ids=FORGERIES)
def test_forgeries(grade, program: str, tests: dict) -> None:
    verdict = grade(program, tests)
    assert verdict.reward == 0.0
    assert verdict.reason in ("wrong answer", "runtime error", "output limit", "timeout", "memory")


@pytest.mark.parametrize("program", MACHINE_ATTACKS.values(), ids=MACHINE_ATTACKS)
def test_attacks_on_the_machine(grade, program: str) -> None:
    started = time.monotonic()
    verdict = grade(program, IO_TESTS)
    assert time.monotonic() - started < LIMIT_SECONDS + 1
    assert verdict.reward == 0.0
    assert verdict.reason in ("wrong answer", "runtime error", "output limit", "timeout", "memory")


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_PACKET"])
def test_no_socket_of_any_family(grade, family: str) -> None:
    assert (
        grade(f"import socket\nsocket.socket(socket.{family}, socket.SOCK_DGRAM)\nprint(8315)", IO_TESTS).reason
        == "runtime error"
    )


def test_nobody_connects(grade) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.2)
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {listener.getsockname()[1]}), 1)\nprint(8315)"
        assert grade(program, IO_TESTS).reward == 0.0
        with pytest.raises(TimeoutError):
            listener.accept()


OUTSIDE = [
    "open(PATH + '/gold').read()",
    "open(PATH + '/new', 'w')",
    "open(PATH + '/gold', 'a')",
    "os.remove(PATH + '/gold')",
    "os.rename(PATH + '/gold', PATH + '/x')",
    "os.mkdir(PATH + '/d')",
    "os.symlink('/', PATH + '/l')",
    "os.link(PATH + '/gold', '/program/x')",
    "os.chmod(PATH + '/gold', 0)",
    "os.utime(PATH + '/gold', (0, 0))",
    "os.listdir(PATH)",
    "os.truncate(PATH + '/gold', 0)",
    "os.chown(PATH + '/gold', 1, 1)",
    "os.mkfifo(PATH + '/p')",
]


@pytest.mark.parametrize("action", OUTSIDE)
def test_files_outside_are_neither_read_nor_changed(grade, tmp_path: Path, action: str) -> None:
    folder = tmp_path / "bait"
    folder.mkdir()
    folder.chmod(0o777)
    gold = folder / "gold"
    gold.write_text("8315\n")
    before = gold.stat()
    assert grade(f"import os\nPATH = {str(folder)!r}\n{action}\nprint(8315)", IO_TESTS).reason == "runtime error"
    after = gold.stat()
    assert [entry.name for entry in folder.iterdir()] == ["gold"]
    assert gold.read_text() == "8315\n"
    assert (before.st_mode, before.st_mtime, before.st_uid) == (after.st_mode, after.st_mtime, after.st_uid)


def test_one_test_leaves_nothing_to_the_next(grade) -> None:
    """A program sees neither its files of the last test nor an environment or arguments of ours."""
    look = (
        "import os, sys\nnames = os.listdir('.')\nopen('left', 'w').write('x')\nos.mkdir('d')\n"
        "env = {k: v for k, v in os.environ.items() if k != 'LC_CTYPE'}\nprint(names, env, sys.argv)"
    )
    tests = {"inputs": ["", "", ""], "outputs": ["[] {} ['program.py']"] * 3}
    assert grade(look, tests).reason == "passed"


def test_no_descriptor_of_ours(grade) -> None:
    program = (
        "import os\nfound = []\nfor n in range(256):\n    try:\n        os.fstat(n)\n        found.append(n)\n"
        "    except OSError: pass\nprint(found)"
    )
    assert grade(program, {"inputs": [""], "outputs": ["[0, 1, 2, 4]"]}).reason == "passed"


def test_large_stdin_that_nobody_reads(grade) -> None:
    assert grade("print(8315)", {"inputs": ["x" * 5_000_000], "outputs": ["8315"]}).reason == "passed"
    assert grade("import time\ntime.sleep(99)", {"inputs": ["x" * 5_000_000], "outputs": ["8315"]}).reason == "timeout"


def test_tests_that_stay_whole_resist_the_simple_forgeries(grade) -> None:
    """What docs/code_reward.md calls the residual risk is a program that looks for the nonce; these do not."""
    tests = {"test_code": "for n in range(3):\n    assert f(n) == n + 8315"}
    for name in ("says passed", "exits with success", "exits at import", "writes true as the result", "writes results itself"):
        assert grade(FORGERIES[name], tests).reward == 0.0, name
