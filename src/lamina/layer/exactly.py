"""What files are that no layer can say: sockets, and the flags that keep a file from being changed.

On the way from one storage driver to another they are attributes of an entry, with names that no file can
have: the kernel knows no such namespace (xattr(7)). A socket passes for a FIFO there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Mapping

from lamina.layer.entry import Entry
from lamina.values import replace

SOCKET, FLAGS = "lamina.socket", "lamina.flags"
# FS_IOC_GETFLAGS and FS_IOC_SETFLAGS (linux/fs.h), and what chattr(1) calls the flags.
_GET, _SET = 0x80086601, 0x40086602
_LETTERS = {"i": 0x10, "a": 0x20}
_ALL = 0x30
# overlayfs notes them here, and sets them on what it shows (Linux 5.15).
_NOTES = ("trusted.overlay.protattr", "user.overlay.protattr")
_NO_FLAGS = (errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM)
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def unsayable(parent: int, name: str, status: os.stat_result) -> dict[str, bytes]:
    """Of a file in an open directory."""
    if stat.S_ISSOCK(status.st_mode):
        return {SOCKET: b"1"}
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return {}
    try:
        descriptor = os.open(name, _LOOK, dir_fd=parent)
    except PermissionError:  # only root sets flags, and root may read
        return {}
    try:
        letters = _read(descriptor)
    finally:
        os.close(descriptor)
    return {FLAGS: letters.encode()} if letters else {}


def _read(descriptor: int) -> str:
    flags = _flags(descriptor)
    letters = {letter for letter, flag in _LETTERS.items() if flags & flag}
    for name in _NOTES:
        try:
            letters.update(os.getxattr(descriptor, name).decode("ascii", "replace"))
        except OSError:
            continue
    return "".join(sorted(letters & _LETTERS.keys()))


def _flags(descriptor: int) -> int:
    """0 where the filesystem has none."""
    answer = bytearray(8)
    try:
        fcntl.ioctl(descriptor, _GET, answer)
    except OSError:
        return 0
    return int.from_bytes(answer[:4], "little")


def without_unsayable(entry: Entry) -> Entry:
    if SOCKET not in entry.xattrs and FLAGS not in entry.xattrs:
        return entry
    xattrs = {name: value for name, value in entry.xattrs.items() if name not in (SOCKET, FLAGS)}
    return replace(entry, xattrs=xattrs)


def set_flags(parent: int, name: str, xattrs: Mapping[str, bytes]) -> bool:
    """Those of a file in an open directory, last of all that is done to it; whether it could be."""
    wanted = sum(flag for letter, flag in _LETTERS.items() if letter.encode() in xattrs[FLAGS])
    descriptor = os.open(name, _LOOK, dir_fd=parent)
    try:
        _change(descriptor, wanted)
    except OSError as error:
        if error.errno not in _NO_FLAGS:
            raise
        return False
    finally:
        os.close(descriptor)
    return True


def loosen(descriptor: int) -> None:
    """An open file may be changed, and what is in a directory removed, if this process may say so."""
    _change(descriptor, 0)


def _change(descriptor: int, wanted: int) -> None:
    """Only these flags. Raises ``OSError`` where that cannot be."""
    flags = _flags(descriptor)
    if flags & _ALL != wanted:
        fcntl.ioctl(descriptor, _SET, (flags & ~_ALL | wanted).to_bytes(8, "little"))
