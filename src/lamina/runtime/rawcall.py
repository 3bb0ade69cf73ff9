"""System calls by number, for what is called too often to be spelled out each time, or fills raw buffers."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from lamina.runtime.bpf import native
from lamina.runtime.syscallnumbers import numbers

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_long = ctypes.c_long

NUMBERS = numbers(native())

_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08
_RESOLVE_IN_ROOT = 0x10
AT_EMPTY_PATH = 0x1000
_CAPABILITY_VERSION_3 = 0x20080522


def rawcall(name: str, *arguments: Any) -> int:
    """``arguments`` are numbers, bytes that are not written to, or buffers of ``ctypes``."""
    converted = [_long(item) if isinstance(item, int) else item for item in arguments]
    result: int = _syscall(_long(NUMBERS[name]), *converted)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def _how(flags: int, resolve: int) -> Any:
    """struct open_how; kept, since there are four of them and each is used for every call."""
    return ctypes.create_string_buffer(
        (flags | os.O_CLOEXEC).to_bytes(8, "little") + bytes(8) + resolve.to_bytes(8, "little"), 24
    )


_HOW = {
    (is_root, follows): _how(
        os.O_PATH | (0 if follows else os.O_NOFOLLOW),
        _RESOLVE_NO_MAGICLINKS | (_RESOLVE_IN_ROOT if is_root else _RESOLVE_BENEATH),
    )
    for is_root in (False, True) for follows in (False, True)
}


def locate(directory: int, path: bytes, *, as_root: bool, follows: bool) -> int:
    """What is at a path, opened for nothing (O_PATH), through no link of /proc that leads elsewhere.

    ``as_root``: the directory is the root, for absolute paths and symlinks and for ``..``; otherwise all
    that would leave the directory is EXDEV. EAGAIN where something was renamed at the wrong moment.
    """
    return rawcall("openat2", directory, path, _HOW[as_root, follows], 24)


def effective_capabilities(pid: int) -> int:
    """Of a thread, as a set of bits; capget(2)."""
    head = _CAPABILITY_VERSION_3.to_bytes(4, "little") + pid.to_bytes(4, "little")
    data = ctypes.create_string_buffer(24)
    rawcall("capget", head, data)
    return int.from_bytes(data.raw[:4], "little") | int.from_bytes(data.raw[12:16], "little") << 32
