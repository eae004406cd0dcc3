"""The few system calls that Python does not offer, through ctypes. Errors are OSError with the kernel's number.

Runs in the supervisor, a small process of its own (`supervisor.py`): the trainer never loads this.
"""

from __future__ import annotations

import ctypes
import os

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
LAST_CAPABILITY = 63

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC, MS_PRIVATE, MS_RELATIME = 1024, 2048, 4096, 16384, 1 << 18, 1 << 21
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def syscall(number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Integers are passed as 64 bits, bytes as pointers."""
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *words))
    return _checked(result)


def prctl(option: int, *arguments: int) -> int:
    words = [ctypes.c_ulong(word) for word in (*arguments, 0, 0, 0, 0)[:4]]
    return _checked(int(_libc.prctl(ctypes.c_int(option), *words)))


def unshare(flags: int) -> None:
    _checked(int(_libc.unshare(ctypes.c_int(flags))))


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    _checked(int(_libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())))


def unmount(target: str) -> None:
    """Off the tree at once, even where something still uses it."""
    _checked(int(_libc.umount2(target.encode(), MNT_DETACH)))


def drop_capabilities() -> None:
    """Also root has none after the next exec. Where dropping is not permitted there were none to begin with."""
    for capability in range(LAST_CAPABILITY + 1):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:  # beyond the kernel's last one, or not ours to drop
            continue


def _checked(result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
