"""The system calls that Python's ``os`` does not have, each as a function that raises ``OSError``.

``ctypes`` is imported when the first one is called: most commands never get here.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from typing import Any

# clone(2), unshare(2), setns(2)
CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# mount(2), umount(2)
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_REC = 16384
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

# The calls of the new mount API have one number on every architecture but alpha (linux 5.2 and later).
_OPEN_TREE = 428
_MOVE_MOUNT = 429
_FSOPEN = 430
_FSCONFIG = 431
_FSMOUNT = 432
_CLOSE_RANGE = 436
_OPENAT2 = 437
_MOUNT_SETATTR = 442
_QUOTACTL_FD = 443

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
_AT_RECURSIVE = 0x8000
_CLOSE_RANGE_CLOEXEC = 4
_AT_EMPTY_PATH = 0x1000
_AT_FDCWD = -100
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2
MOUNT_ATTR_NODEV = 4
MOUNT_ATTR_NOEXEC = 8
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_NOSYMFOLLOW = 0x200000
_MOUNT_ATTR_ATIME = 0x70

# prctl(2)
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_LINUX_CAPABILITY_VERSION_3 = 0x20080522

_NS_GET_MNTNS_ID = 0x8008B705  # _IOR(0xb7, 5, __u64) of linux/nsfs.h


# Older calls have other numbers on each architecture.
_NUMBERS = {
    "x86_64": {"pivot_root": 155}, "aarch64": {"pivot_root": 41}, "riscv64": {"pivot_root": 41},
    "ppc64le": {"pivot_root": 203}, "s390x": {"pivot_root": 217}, "armv7l": {"pivot_root": 218},
}.get(os.uname().machine, {})


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


def filesystem_type(descriptor: int) -> int:
    """The magic number of what an open file lies on (fstatfs(2))."""
    import ctypes  # noqa: PLC0415 - see above

    buffer = ctypes.create_string_buffer(256)
    _call("fstatfs", descriptor, ctypes.addressof(buffer))
    # A long, or 32 bits on s390x; the numbers have 32 bits at most.
    return int.from_bytes(buffer.raw[:4], sys.byteorder)


def load() -> None:
    """Everything that these functions need, for a process that will not be able to import it any more."""
    import fcntl  # noqa: F401, PLC0415 - see above
    import struct  # noqa: F401, PLC0415 - see above

    _libc()


def call_number(number: int, *arguments: int) -> int:
    """syscall(2), for the calls that have no function here. Numbers differ between architectures."""
    return _call("syscall", number, *arguments)


def unshare(flags: int) -> None:
    """``CLONE_NEWUSER`` needs a process with a single thread (EINVAL otherwise)."""
    _call("unshare", flags)


def setns(descriptor: int, kinds: int) -> None:
    """``descriptor`` is a namespace, or a pidfd whose namespaces of ``kinds`` are joined (Linux 5.8).

    A user namespace takes a process with a single thread.
    """
    _call("setns", descriptor, kinds)


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2); ``(".", ".")`` stacks the old root under the new one, where it can be unmounted."""
    _call("syscall", _NUMBERS["pivot_root"], _path(new), _path(old), about=f"pivot_root {new}")


def close_on_exec_from(first: int) -> None:
    """No descriptor from ``first`` on gets through an exec (Linux 5.11), whoever opened it."""
    try:
        _call("syscall", _CLOSE_RANGE, first, 0xFFFFFFFF, _CLOSE_RANGE_CLOEXEC, about="close_range")
    except OSError:
        for name in os.listdir("/proc/self/fd"):
            if int(name) >= first:
                try:
                    os.set_inheritable(int(name), False)
                except OSError:
                    continue  # the one that listed them


def become_subreaper() -> None:
    """Descendants that lose their parent become children of this process."""
    _call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def set_dumpable(value: int) -> None:
    """0: nobody may trace this process, nor look into its /proc entries that take such a right."""
    _call("prctl", _PR_SET_DUMPABLE, value, 0, 0, 0)


def set_no_new_privileges() -> None:
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def drop_from_bounding_set(capability: int) -> None:
    _call("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)


def clear_ambient_capabilities() -> None:
    _call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """Bit sets, by the numbers of capabilities(7), of the calling thread."""
    import struct  # noqa: PLC0415 - see above

    low, high = 0xFFFFFFFF, 32
    data = struct.pack(
        "=6I", effective & low, permitted & low, inheritable & low,
        effective >> high, permitted >> high, inheritable >> high,
    )
    _call("capset", struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0), data)


def set_domain_name(name: str) -> None:
    """setdomainname(2): of this process' UTS namespace."""
    data = os.fsencode(name)
    _call("setdomainname", data, len(data), about=name)


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


def open_tree(path: str, *, is_recursive: bool = False) -> int:
    """A detached bind mount of a directory or file; mounts below it come along if ``is_recursive``."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if is_recursive else 0)
    return _call("syscall", _OPEN_TREE, _AT_FDCWD, _path(path), flags, about=f"open_tree {path}")


def mount_setattr(
    mount_descriptor: int, attributes: int, *, is_recursive: bool = False, propagation: int = 0
) -> None:
    """Adds attributes to a mount, and those below it; ``propagation`` is MS_PRIVATE and its like, or 0."""
    import struct  # noqa: PLC0415 - see above

    # Of the kinds of atime one is chosen: the bits of the others must be cleared with it (mount_setattr(2)).
    cleared = _MOUNT_ATTR_ATIME if attributes & _MOUNT_ATTR_ATIME else 0
    attr = struct.pack("=QQQQ", attributes, cleared, propagation, 0)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if is_recursive else 0)
    _call("syscall", _MOUNT_SETATTR, mount_descriptor, b"", flags, attr, len(attr), about="mount_setattr")


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


def quotactl(descriptor: int, command: int, number: int, data: bytearray) -> None:
    """quotactl_fd(2) on the filesystem of an open file; what is asked for comes back in ``data``.

    Before Linux 5.14 it is quotactl(2) on its device.
    """
    import ctypes  # noqa: PLC0415 - see above

    place = (ctypes.c_char * len(data)).from_buffer(data)
    address = ctypes.addressof(place)
    try:
        _call("syscall", _QUOTACTL_FD, descriptor, command, number, address, about="quotactl")
    except OSError as error:
        device = _block_device(descriptor) if error.errno == errno.ENOSYS else None
        if device is None:
            raise
        _call("quotactl", command, _path(device), number, address, about="quotactl")


def _block_device(descriptor: int) -> str | None:
    device = os.fstat(descriptor).st_dev
    try:
        with open(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/uevent", encoding="utf-8") as file:
            names = [line.strip().partition("=")[2] for line in file if line.startswith("DEVNAME=")]
    except OSError:
        return None  # of a filesystem that lies on no device
    return f"/dev/{names[0]}" if names else None


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
