"""A seccomp filter (classic BPF) for one graded program: refused calls fail with EPERM, unknown ones with ENOSYS.

It needs no privilege beyond no_new_privs, holds for all threads, survives exec and cannot be taken off.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from collections.abc import Sequence

from megatron_sppo.rewards.code import kernel, syscalls

LOAD, EQUAL, AT_LEAST, ANY_BIT, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
KILL_PROCESS, ALLOW = 0x80000000, 0x7FFF0000
REFUSE, UNKNOWN = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16  # offsets in struct seccomp_data; the low words of the arguments

CLONE_THREAD = 0x00010000
AF_UNIX, SOCK_STREAM, SOCK_TYPE_MASK = 1, 1, 0xF
SECCOMP_MODE_FILTER = 2

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


def supported() -> bool:
    return platform.machine() in syscalls.ARCHITECTURES


def install(pid: int) -> None:
    """For this process, which is ``pid``, and what it becomes by exec. OSError where the kernel has no seccomp."""
    load(program(platform.machine(), pid))


def load(instructions: Sequence[Instruction]) -> None:
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_struct = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))  # struct sock_fprog
    holder = ctypes.create_string_buffer(filter_struct, len(filter_struct))
    kernel.prctl(kernel.PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(holder))


def program(machine: str, pid: int) -> list[Instruction]:
    """The filter as instructions; ``pid`` may signal itself and no one else."""
    audit, column = syscalls.ARCHITECTURES[machine]
    tables = (syscalls.NETWORK, syscalls.OTHER_PROCESSES, syscalls.FILES, syscalls.SHARED_MEMORY, syscalls.MACHINE)
    refused = [number for table in tables for number in syscalls.numbers(table, column).values()]
    return [
        (LOAD, 0, 0, ARCHITECTURE_AT), (EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, NUMBER_AT), (AT_LEAST, 0, 1, syscalls.HIGHEST_KNOWN + 1), (RETURN, 0, 0, UNKNOWN),
        *[step for number in refused for step in ((EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE))],
        *_conditional(syscalls.numbers(syscalls.CONDITIONAL, column), pid),
        (RETURN, 0, 0, ALLOW),
    ]  # fmt: skip


def _conditional(number: dict[str, int], pid: int) -> list[Instruction]:
    own = [(EQUAL, 0, 1, pid), (RETURN, 0, 0, ALLOW)]
    rules: dict[str, list[Instruction]] = {
        "clone": [_argument(0), (ANY_BIT, 0, 1, CLONE_THREAD), (RETURN, 0, 0, ALLOW)],  # a thread, not a process
        "kill": [_argument(0), *own],
        "tgkill": [_argument(0), *own],
        "prlimit64": [_argument(0), *own, (EQUAL, 0, 1, 0), (RETURN, 0, 0, ALLOW)],
        # A connected pair (asyncio wakes itself with one). Datagrams could be addressed to a socket file.
        "socketpair": [
            _argument(0), (EQUAL, 0, 4, AF_UNIX),
            _argument(1), (AND, 0, 0, SOCK_TYPE_MASK), (EQUAL, 0, 1, SOCK_STREAM), (RETURN, 0, 0, ALLOW),
        ],
    }  # fmt: skip
    steps: list[Instruction] = [(EQUAL, 0, 1, number["clone3"]), (RETURN, 0, 0, UNKNOWN)]  # glibc then calls clone
    for name, rule in rules.items():
        steps += [(EQUAL, 0, len(rule) + 1, number[name]), *rule, (RETURN, 0, 0, REFUSE)]
    return steps


def _argument(index: int) -> Instruction:
    return (LOAD, 0, 0, ARGUMENTS_AT + 8 * index)
