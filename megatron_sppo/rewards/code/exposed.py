"""What a graded program may read: the interpreter, its standard library and the system's shared libraries."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/usr/share/zoneinfo")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


def interpreter() -> str:
    """The real one behind a virtual environment's link."""
    return str(Path(getattr(sys, "_base_executable", "") or sys.executable).resolve())


def readable_paths() -> list[str]:
    """Existing files and folders; a path that is a link stays one, and what it points to is there too."""
    wanted = [interpreter(), str(Path(sys.base_prefix, "lib").resolve()), *LIBRARIES]
    return [path for path in dict.fromkeys(wanted) if Path(path).exists()]


def without_nested(paths: Sequence[str]) -> list[str]:
    """Those that do not lie inside another one: what a new root needs to have mounted."""
    folders = [path + "/" for path in paths if not Path(path).is_symlink()]
    return [path for path in paths if not any(path.startswith(folder) for folder in folders)]
