"""User, mount, process, network and IPC namespaces: a small read-only root without network, without privileges.

Works for any user where the kernel lets users make user namespaces; containers often do not. See namespaces(7).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from megatron_sppo.rewards.code import kernel

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
ISOLATED = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET
NOBODY = 65534
WORK = "/program"

SYS_MOUNT_SETATTR = 442
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4
KEPT_FLAGS = {  # statvfs flag to mount flag: a remount that cleared one would be refused in a user namespace
    os.ST_NOSUID: kernel.MS_NOSUID,
    os.ST_NODEV: kernel.MS_NODEV,
    os.ST_NOEXEC: kernel.MS_NOEXEC,
    os.ST_NOATIME: kernel.MS_NOATIME,
    os.ST_NODIRATIME: kernel.MS_NODIRATIME,
    os.ST_RELATIME: kernel.MS_RELATIME,
}


def enter() -> bool:
    """Into new namespaces, with all capabilities inside a user namespace; False, and nothing changed, where refused.

    The process namespace begins with the next fork. Root is mapped together with `nobody`, whom programs then run as: limits on
    processes do not bind root. Any other user is `nobody` inside and itself outside.
    """
    uid, gid = os.geteuid(), os.getegid()
    root_mapper = _root_mapper() if uid == 0 else None
    try:
        kernel.unshare(ISOLATED | NEWUSER)
    except OSError:
        return False
    if root_mapper is not None:
        return root_mapper()
    _write_map("/proc/self/setgroups", "deny")
    _write_map("/proc/self/uid_map", f"{NOBODY} {uid} 1")
    _write_map("/proc/self/gid_map", f"{NOBODY} {gid} 1")
    return True


def _root_mapper() -> Callable[[], bool]:
    """A child that stays outside to write the maps: only from there may two users be mapped."""
    reader, writer = os.pipe()
    target = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        try:
            for kind in ("uid", "gid"):
                _write_map(f"/proc/{target}/{kind}_map", f"0 0 1\n{NOBODY} {NOBODY} 1\n")
        except OSError:
            os._exit(1)
        os._exit(0)

    def write_maps() -> bool:
        os.close(writer)
        os.close(reader)
        return os.waitpid(child, 0)[1] == 0

    return write_maps


def build_root(readable: Sequence[str], devices: Sequence[str], work_bytes: int) -> None:
    """A new root: ``readable`` read-only, an empty folder /program in memory, nothing else.

    OSError where mounting is refused; the old root is then still in place.
    """
    base = "/proc"  # exists everywhere, and a program shall not have one; covered in this namespace alone
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", base, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    for path in readable:
        _expose(base, path)
    for path in devices:
        _bind(path, base + path)
    Path(base + WORK).mkdir()
    _mount_work(base + WORK, work_bytes)
    kernel.mount("none", base, flags=kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV)
    os.chdir(base)
    _pivot_root()
    kernel.unmount(".")  # the old root lies over the new one
    os.chdir(WORK)


def fresh_work(work_bytes: int) -> None:
    """An empty /program in place of the last program's."""
    os.chdir("/")
    kernel.unmount(WORK)
    _mount_work(WORK, work_bytes)
    os.chdir(WORK)


def _mount_work(path: str, size: int) -> None:
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("tmpfs", path, "tmpfs", flags, f"size={size},nr_inodes=1024,mode=1777")


def _pivot_root() -> None:
    number = 155 if os.uname().machine == "x86_64" else 41
    kernel.syscall(number, b".", b".")


def _expose(base: str, path: str) -> None:
    source, target = Path(path), Path(base + path)
    if source.is_symlink():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.readlink())
        return
    _bind(path, base + path)
    _make_read_only(base + path)


def _bind(source: str, target: str) -> None:
    place = Path(target)
    place.parent.mkdir(parents=True, exist_ok=True)
    if Path(source).is_dir():
        place.mkdir(exist_ok=True)
    else:
        place.touch()
    kernel.mount(source, target, flags=kernel.MS_BIND | kernel.MS_REC)


def _make_read_only(target: str) -> None:
    """With what is mounted below it (container tools mount single driver files) where the kernel can, Linux 5.12."""
    attributes = (ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV).to_bytes(8, "little") + bytes(24)
    with contextlib.suppress(OSError):
        kernel.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, target.encode(), AT_RECURSIVE, attributes, len(attributes))
        return
    flags = os.statvfs(target).f_flag
    kept = sum(mount_flag for flag, mount_flag in KEPT_FLAGS.items() if flags & flag)
    kernel.mount("none", target, flags=kept | kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY)


def _write_map(path: str, text: str) -> None:
    Path(path).write_text(text)  # one write: the kernel takes a map once
