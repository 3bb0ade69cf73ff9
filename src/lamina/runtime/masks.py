"""What must be hidden from a container is looked at before its first process begins: is it really hidden?

A runtime mounts the container's /dev/null over what it masks, and an image can see to it that this is
something else: a volume on /dev whose ``null`` is a symlink to /proc/sys makes runc before 1.2.8 show, and
bind, that (CVE-2025-31133, CVE-2025-52565). Which runtime does what is not for us to know: the mounts are
there, and do not change any more without CAP_SYS_ADMIN.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

from lamina.runtime.runtime import RuntimeFailed
from lamina.snapshot import syscalls

_NULL = os.makedev(1, 3)
# Unix98 pseudo-terminals (Documentation/admin-guide/devices.txt).
_PTY_MAJORS = range(136, 144)


def insist_hidden(pid: int, document: Mapping[str, Any]) -> None:
    """``pid`` is a container's first process, which has not begun. Raises ``RuntimeFailed``."""
    top = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in document["linux"].get("maskedPaths", ()):
            _insist_masked(top, path)
        for path in document["linux"].get("readonlyPaths", ()):
            _insist_read_only(top, path)
        if document["process"]["terminal"]:
            _insist_console(top)
    finally:
        os.close(top)


def _insist_masked(top: int, path: str) -> None:
    place = _open(top, path)
    if place < 0:
        return
    try:
        status = os.fstat(place)
        if stat.S_ISDIR(status.st_mode):
            is_hidden = bool(os.fstatvfs(place).f_flag & os.ST_RDONLY) and not _names(place)
        else:
            is_hidden = stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL
        if not is_hidden:
            raise RuntimeFailed(f"{path}: not hidden: the image has made /dev its own; {_REMEDY}")
    finally:
        os.close(place)


def _insist_read_only(top: int, path: str) -> None:
    place = _open(top, path)
    if place < 0:
        return
    try:
        if not os.fstatvfs(place).f_flag & os.ST_RDONLY:
            raise RuntimeFailed(f"{path}: can be written to: the image has made /proc its own; {_REMEDY}")
    finally:
        os.close(place)


def _insist_console(top: int) -> None:
    place = _open(top, "/dev/console")
    if place < 0:
        return
    try:
        status = os.fstat(place)
        if not stat.S_ISCHR(status.st_mode) or os.major(status.st_rdev) not in _PTY_MAJORS:
            raise RuntimeFailed(f"/dev/console: not the container's terminal; {_REMEDY}")
    finally:
        os.close(place)


_REMEDY = "take away the volume on it, or do not run this image"


def _open(top: int, path: str) -> int:
    """Below the root and through no symlink; -1 for nothing, which needs no hiding."""
    try:
        return syscalls.open_in_root(top, path, os.O_PATH | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return -1


def _names(place: int) -> list[str]:
    readable = os.open(f"/proc/self/fd/{place}/.", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return os.listdir(readable)
    finally:
        os.close(readable)
