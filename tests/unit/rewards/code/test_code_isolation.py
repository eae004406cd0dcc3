"""What is left of the sandbox where the kernel gives less, on this machine's kernel with parts of it refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from megatron_sppo.config.code_limits import CodeLimits
from megatron_sppo.errors import UserError
from megatron_sppo.rewards.code import seccomp, syscalls
from megatron_sppo.rewards.code.confine import Confinement
from megatron_sppo.rewards.code.isolation import Isolation, require

ROOT = Path(__file__).resolve().parents[4]
UNSHARE, CREATE_RULESET = 272, 444  # x86_64

SCRIPT = """
import json, os, sys
from megatron_sppo.rewards.code import kernel, seccomp
refused, weak, programs = json.loads(sys.argv[1])
if refused:
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    steps = [step for n in refused for step in ((seccomp.EQUAL, 0, 1, n), (seccomp.RETURN, 0, 0, seccomp.REFUSE))]
    seccomp.load([(seccomp.LOAD, 0, 0, 0), *steps, (seccomp.RETURN, 0, 0, seccomp.ALLOW)])
from megatron_sppo.errors import UserError
from megatron_sppo.config.code_limits import CodeLimits
from megatron_sppo.rewards.code.reward import CodeReward
from megatron_sppo.rewards.protocol import Sample
try:
    reward = CodeReward(CodeLimits(workers=1, test_seconds=1.0, allow_weak_isolation=weak))
except UserError as error:
    print(json.dumps({"refused": str(error)}))
    sys.exit()
gold = json.dumps({"inputs": [""], "outputs": ["8315"]})
verdicts = reward([Sample("", f"```\\n{program}\\n```", gold, "", False) for program in programs])
print(json.dumps({"means": reward.isolation.means, "reachable": sorted(reward.isolation.reachable),
                  "reasons": [verdict.reason for verdict in verdicts]}))
"""


def sandboxed(refused: list[int], weak: bool, programs: list[str]) -> dict:
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers of the refused system calls are x86_64's")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([refused, weak, programs])],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    secret = tmp_path_factory.mktemp("bait") / "gold"
    secret.write_text("8315")
    secret.parent.chmod(0o777)
    return [
        "print(8315)",
        f"print(open({str(secret)!r}).read())",
        f"open({str(secret.parent / 'new')!r}, 'w')\nprint(8315)",
        "import socket\nsocket.socket()\nprint(8315)",
        "import os\nos.fork()\nprint(8315)",
        "import os, signal\nos.kill(os.getppid(), 0)\nprint(8315)",
        f"import os\nos.chmod({str(secret)!r}, 0o777)\nprint(8315)",
        "import random, heapq, decimal, hashlib, sqlite3, ctypes\nprint(8315)",
        "while True: pass",
    ]


EXPECTED = ["passed", *["runtime error"] * 6, "passed", "timeout"]


@pytest.mark.parametrize(
    "refused", [[], [UNSHARE], [CREATE_RULESET]], ids=["all", "Landlock and seccomp", "namespaces and seccomp"]
)
def test_every_level_that_is_accepted_denies_the_same(programs: list[str], refused: list[int]) -> None:
    found = sandboxed(refused, weak=False, programs=programs)
    if "refused" in found:
        pytest.skip(f"this kernel has not enough left: {found['refused']}")
    assert found["reachable"] == []
    assert found["reasons"] == EXPECTED
    assert ("namespaces" in found["means"]) <= (UNSHARE not in refused)
    assert ("Landlock" in found["means"]) <= (CREATE_RULESET not in refused)


def test_a_machine_that_cannot_hide_files_is_refused(programs: list[str]) -> None:
    found = sandboxed([UNSHARE, CREATE_RULESET], weak=False, programs=programs)
    assert "reward.code.allow_weak_isolation=false" in found["refused"]
    assert "reads and writes" in found["refused"]


def test_unless_that_is_allowed_and_then_files_are_open(programs: list[str]) -> None:
    """The same programs that every other level stops: what the tests above can detect."""
    found = sandboxed([UNSHARE, CREATE_RULESET], weak=True, programs=programs)
    assert found["reachable"] == ["reads", "writes"]
    assert found["reasons"][1:3] == ["passed", "passed"]
    assert found["reasons"][3:7] == ["runtime error"] * 4


def test_the_network_must_be_shut_off() -> None:
    limits = CodeLimits()
    require(Isolation(frozenset({"processes"}), ()), limits)
    with pytest.raises(UserError, match="but network cannot be denied"):
        require(Isolation(frozenset({"network"}), ()), limits)
    require(Isolation(frozenset({"network"}), ()), CodeLimits(allow_weak_isolation=True))


@pytest.mark.parametrize("machine", sorted(syscalls.ARCHITECTURES))
def test_filters_decide_as_the_table_says(machine: str) -> None:
    """The filter interpreted here, for both architectures."""
    audit, column = syscalls.ARCHITECTURES[machine]
    steps = seccomp.program(machine, pid=42)
    number = syscalls.numbers(syscalls.CONDITIONAL, column)

    def decide(nr: int, *arguments: int, architecture: int = audit) -> int:
        words = {0: nr, 4: architecture, **{16 + 8 * index: value for index, value in enumerate((*arguments, 0, 0, 0))}}
        return interpreted(steps, words)

    for table in (syscalls.NETWORK, syscalls.OTHER_PROCESSES, syscalls.FILES, syscalls.SHARED_MEMORY, syscalls.MACHINE):
        assert {decide(nr) for nr in syscalls.numbers(table, column).values()} == {seccomp.REFUSE}
    assert decide({"x86_64": 0, "aarch64": 63}[machine]) == seccomp.ALLOW  # read
    assert decide(451) == decide(0x40000029) == decide(number["clone3"]) == seccomp.UNKNOWN
    assert decide(0, architecture=0x40000003) == seccomp.KILL_PROCESS  # i386
    assert decide(number["clone"], 0x3D0F00) == seccomp.ALLOW
    assert decide(number["clone"], 17) == decide(number["clone"], 0x10000000) == seccomp.REFUSE
    assert [decide(number["kill"], pid) for pid in (42, 0, 1, 43, 2**32 - 1)] == [seccomp.ALLOW, *[seccomp.REFUSE] * 4]
    assert [decide(number["prlimit64"], pid) for pid in (0, 42, 1)] == [seccomp.ALLOW, seccomp.ALLOW, seccomp.REFUSE]
    assert [decide(number["socketpair"], 1, kind) for kind in (1, 1 | 0o4000, 2)] == [
        seccomp.ALLOW,
        seccomp.ALLOW,
        seccomp.REFUSE,
    ]
    assert decide(number["socketpair"], 2, 1) == seccomp.REFUSE


def interpreted(steps: list[seccomp.Instruction], words: dict[int, int]) -> int:
    at, accumulator = 0, 0
    while True:
        code, if_true, if_false, operand = steps[at]
        at += 1
        if code == seccomp.RETURN:
            return operand
        if code == seccomp.LOAD:
            accumulator = words[operand]
        elif code == seccomp.AND:
            accumulator &= operand
        else:
            holds = {seccomp.EQUAL: accumulator == operand, seccomp.AT_LEAST: accumulator >= operand}.get(
                code, bool(accumulator & operand)
            )
            at += if_true if holds else if_false


def test_a_program_that_cannot_be_confined_is_told_apart_from_one_that_fails() -> None:
    confinement = Confinement("/no/interpreter", False, False, -1, False, asdict(CodeLimits()))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        confinement.become("", "stdio", [os.open(os.devnull, os.O_RDWR)] * 5, 1.0, writer)
    os.close(writer)
    assert os.read(reader, 9) == b"!"
    os.close(reader)
    assert os.waitpid(child, 0)[1] != 0


@pytest.mark.parametrize(
    ("knob", "value"), [("test_seconds", 0), ("memory_mib", 10), ("workers", -1), ("output_mib", float("nan"))]
)
def test_limits_that_make_no_sense(knob: str, value: float) -> None:
    with pytest.raises(UserError, match=f"reward.code.{knob}="):
        CodeLimits(**{knob: value})
