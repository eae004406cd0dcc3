"""Landlock (Linux 5.13): file access by path for an unprivileged process, also inside containers."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Sequence

from megatron_sppo.rewards.code import kernel

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on all architectures
VERSION_FLAG = 1
PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
TRUNCATE = 1 << 14
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | 1 << 15
READ = EXECUTE | READ_FILE | READ_DIR
NUM_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # of the ABI; 16 from version 5 on
ALL_NETWORK = 0b11  # TCP bind and connect, from version 4 on
ALL_SCOPES = 0b11  # abstract sockets and signals, from version 6 on


def version() -> int:
    """The kernel's ABI; 0 where there is none."""
    try:
        return kernel.syscall(CREATE_RULESET, None, 0, VERSION_FLAG)
    except OSError:
        return 0


def ruleset(readable: Sequence[str], writable: Sequence[str]) -> int:
    """Descriptor of a rule set that allows reading (and executing) the first and everything under the second, no more."""
    abi = version()
    rights = (1 << NUM_RIGHTS.get(abi, 16)) - 1
    words = [rights] + [ALL_NETWORK] * (abi >= 4) + [ALL_SCOPES] * (abi >= 6)
    attributes = struct.pack(f"{len(words)}Q", *words)
    descriptor = kernel.syscall(CREATE_RULESET, attributes, len(attributes), 0)
    for path in readable:
        _allow(descriptor, path, READ)
    for path in writable:
        _allow(descriptor, path, rights)
    return descriptor


def restrict_self(descriptor: int) -> None:
    """For good; needs no_new_privs."""
    kernel.syscall(RESTRICT_SELF, descriptor, 0)


def _allow(descriptor: int, path: str, rights: int) -> None:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        abi_rights = (1 << NUM_RIGHTS.get(version(), 16)) - 1
        mask = abi_rights if stat.S_ISDIR(os.fstat(opened).st_mode) else abi_rights & FILE_RIGHTS
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights & mask, opened), 12)
        kernel.syscall(ADD_RULE, descriptor, PATH_BENEATH, rule, 0)
    finally:
        os.close(opened)
