"""The system calls that Python's ``os`` does not have, each as a function that raises ``OSError``.

``ctypes`` is imported when the first one is called: most commands never get here.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

# clone(2), unshare(2)
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000

# mount(2), umount(2)
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

# The calls of the new mount API have one number on every architecture but alpha (linux 5.2 and later).
_OPEN_TREE = 428
_MOVE_MOUNT = 429
_FSOPEN = 430
_FSCONFIG = 431
_FSMOUNT = 432
_OPENAT2 = 437
_MOUNT_SETATTR = 442

_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_RESOLVE_IN_ROOT = 0x10

_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_SET_FD = 5
_FSCONFIG_CMD_CREATE = 6
_OPEN_TREE_CLONE = 1
_AT_EMPTY_PATH = 0x1000
_AT_FDCWD = -100
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2
MOUNT_ATTR_NODEV = 4
MOUNT_ATTR_NOEXEC = 8

_NS_GET_MNTNS_ID = 0x8008B705  # _IOR(0xb7, 5, __u64) of linux/nsfs.h


@functools.cache
def _libc() -> Any:
    import ctypes  # noqa: PLC0415 - 8 ms that most commands need not spend

    return ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: int | bytes | None, about: str = "") -> int:
    import ctypes  # noqa: PLC0415 - see above

    converted = [
        ctypes.c_long(item) if isinstance(item, int) else ctypes.c_char_p(item) for item in arguments
    ]
    function = getattr(_libc(), name)
    # Only syscall(2) returns a long. An int of -1 read as one may be 4294967295: an error that nobody sees.
    function.restype = ctypes.c_long if name == "syscall" else ctypes.c_int
    result: int = function(*converted)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), about or name)
    return result


def unshare(flags: int) -> None:
    """``CLONE_NEWUSER`` needs a process with a single thread (EINVAL otherwise)."""
    _call("unshare", flags)


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """mount(2). The kernel reads one page of options: 4,095 bytes."""
    _call(
        "mount", _path(source), _path(target), _path(kind), flags, _path(options), about=f"mount {target}"
    )


def umount(target: str, flags: int = UMOUNT_NOFOLLOW) -> None:
    _call("umount2", _path(target), flags, about=f"umount {target}")


def fsopen(kind: str) -> int:
    return _call("syscall", _FSOPEN, _path(kind), _FSOPEN_CLOEXEC, about=f"fsopen {kind}")


def fsconfig_flag(context: int, name: str) -> None:
    _call("syscall", _FSCONFIG, context, _FSCONFIG_SET_FLAG, name.encode(), None, 0, about=name)


def fsconfig_text(context: int, name: str, value: str) -> None:
    """Values of 256 bytes and more are EINVAL."""
    _call(
        "syscall", _FSCONFIG, context, _FSCONFIG_SET_STRING, name.encode(), _path(value), 0,
        about=f"{name}={value}",
    )


def fsconfig_descriptor(context: int, name: str, descriptor: int) -> None:
    """overlayfs takes its layers this way from Linux 6.13 on."""
    _call("syscall", _FSCONFIG, context, _FSCONFIG_SET_FD, name.encode(), None, descriptor, about=name)


def fsconfig_create(context: int) -> None:
    _call("syscall", _FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0, about="fsconfig")


def fsmount(context: int, attributes: int = 0) -> int:
    """A mount that is attached nowhere: it goes when the descriptor is closed, unless it is moved."""
    return _call("syscall", _FSMOUNT, context, _FSMOUNT_CLOEXEC, attributes, about="fsmount")


def open_tree(path: str) -> int:
    """A detached bind mount of one directory (without mounts below it) or file."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    return _call("syscall", _OPEN_TREE, _AT_FDCWD, _path(path), flags, about=f"open_tree {path}")


def mount_setattr(mount_descriptor: int, attributes: int) -> None:
    """Adds attributes to a detached mount."""
    import struct  # noqa: PLC0415 - see above

    attr = struct.pack("=QQQQ", attributes, 0, 0, 0)
    _call(
        "syscall", _MOUNT_SETATTR, mount_descriptor, b"", _AT_EMPTY_PATH, attr, len(attr),
        about="mount_setattr",
    )


def move_mount(mount_descriptor: int, target_descriptor: int) -> None:
    """Attaches a detached mount on an open directory: no path is looked up again."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    _call("syscall", _MOVE_MOUNT, mount_descriptor, b"", target_descriptor, b"", flags, about="move_mount")


def open_in_root(top: int, path: str, flags: int) -> int:
    """Like ``open`` after a ``chroot`` into the directory ``top``: no symlink leads out of it (Linux 5.6)."""
    return _openat2(top, path, flags, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)


def open_beneath(top: int, path: str, flags: int) -> int:
    """Below the directory ``top``, and through no symlink at all: ELOOP (Linux 5.6)."""
    return _openat2(top, path, flags, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS)


def _openat2(top: int, path: str, flags: int, resolve: int) -> int:
    import struct  # noqa: PLC0415 - see above

    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return _call("syscall", _OPENAT2, top, _path(path or "."), how, len(how), about=path)


def syncfs(descriptor: int) -> None:
    """Everything dirty of one filesystem, for a whole tree at the price of one call."""
    _call("syncfs", descriptor)


def mount_namespace_id(descriptor: int) -> int:
    """Which mount namespace an open ``/proc/PID/ns/mnt`` is: a number that is never given out again.

    ioctl_nsfs(2), Linux 6.11; ``OSError`` before.
    """
    import fcntl  # noqa: PLC0415 - see above

    answer = bytearray(8)
    fcntl.ioctl(descriptor, _NS_GET_MNTNS_ID, answer)
    return int.from_bytes(answer, sys.byteorder)


def _path(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)
