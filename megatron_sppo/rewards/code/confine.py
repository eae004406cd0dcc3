"""From a fork of the supervisor to a graded program: descriptors, limits, identity, filters, exec."""

from __future__ import annotations

import fcntl
import math
import os
import platform
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_sppo.rewards.code import kernel, landlock, namespaces, seccomp

MIB = 1 << 20
MOST_DESCRIPTORS = 1 << 10  # more than a supervisor ever has
NUM_DESCRIPTORS = 5  # stdin, stdout, stderr, source and jobs, results
FREE_DESCRIPTORS = 20  # from here on descriptors are moved out of the way of those


@dataclass(frozen=True)
class Confinement:
    """What holds for every program of a supervisor."""

    interpreter: str
    in_namespaces: bool
    new_root: bool
    landlock_rules: int  # descriptor; -1 where the kernel has no Landlock
    filtered: bool
    limits: Mapping[str, Any]  # the fields of CodeLimits

    def become(self, runner: str, mode: str, descriptors: Sequence[int], cpu_seconds: float, troubled: int) -> None:
        """Never returns: this process is the program, or it has written to ``troubled``, which an exec closes, and is gone."""
        trouble = fcntl.fcntl(troubled, fcntl.F_DUPFD_CLOEXEC, 2 * FREE_DESCRIPTORS)
        try:
            os.setsid()
            _place(descriptors)
            self._limit(cpu_seconds)
            self._identify()
            kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
            kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
            if self.landlock_rules >= 0:
                landlock.restrict_self(self.landlock_rules)
            os.closerange(NUM_DESCRIPTORS, trouble)
            os.closerange(trouble + 1, MOST_DESCRIPTORS)
            if self.filtered:
                seccomp.install(os.getpid())
            os.execve(self.interpreter, _command(self.interpreter, runner, mode), {})  # noqa: S606
        finally:
            os.write(trouble, b"!")
            os._exit(1)

    def _limit(self, cpu_seconds: float) -> None:
        cpu, files = math.ceil(cpu_seconds), self.limits["file_mib"] * MIB
        memory, stack = self.limits["memory_mib"] * MIB, self.limits["stack_mib"] * MIB
        hard = {
            resource.RLIMIT_CPU: (cpu, cpu + 1),  # SIGXCPU can be caught, the SIGKILL a second later cannot
            resource.RLIMIT_AS: (memory, memory),
            resource.RLIMIT_STACK: (stack, stack),
            resource.RLIMIT_FSIZE: (files, files),
            resource.RLIMIT_CORE: (0, 0),
            resource.RLIMIT_MEMLOCK: (0, 0),
            resource.RLIMIT_NOFILE: (self.limits["open_files"],) * 2,
        }
        if self.in_namespaces and processes_counted_per_namespace():
            hard[resource.RLIMIT_NPROC] = (self.limits["processes"] + 2,) * 2  # the supervisor's two are counted for some users
        for kind, values in hard.items():
            resource.setrlimit(kind, values)

    def _identify(self) -> None:
        kernel.drop_capabilities()
        if self.in_namespaces and os.getuid() == 0:
            os.setgroups([])
            os.setresgid(*[namespaces.NOBODY] * 3)
            os.setresuid(*[namespaces.NOBODY] * 3)


def processes_counted_per_namespace() -> bool:
    """Before Linux 5.14 the limit counts all of the user's threads, the trainer's among them."""
    major, minor = platform.release().split(".")[:2]
    return (int(major), int("".join(filter(str.isdigit, minor)) or 0)) >= (5, 14)


def _place(descriptors: Sequence[int]) -> None:
    """As 0, 1, 2, ..., inherited; moved out of each other's way first."""
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, FREE_DESCRIPTORS) for descriptor in descriptors]
    for number, descriptor in enumerate(high):
        os.dup2(descriptor, number)


def _command(interpreter: str, runner: str, mode: str) -> list[str]:
    return [interpreter, "-I", "-S", "-B", "-X", "utf8", "-c", runner, mode]
