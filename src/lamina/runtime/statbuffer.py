"""What stat(2) and statx(2) write into a caller's memory, with another owner, or another kind of file."""

from __future__ import annotations

import ctypes
import os
import stat
import struct

from lamina.layer.entry import Kind
from lamina.layer.owners import Kept
from lamina.runtime.rawcall import AT_EMPTY_PATH, rawcall
from lamina.values import dataclass

_TYPES = {Kind.CHAR: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK}


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things are in ``struct stat`` of asm/stat.h. A mode has 32 bits, a device number 64."""

    size: int
    mode: int
    owner: int  # uid, then gid
    device: int
    length: int


_LAYOUTS = {
    "x86_64": _Layout(144, mode=24, owner=28, device=40, length=48),
    "aarch64": _Layout(128, mode=16, owner=24, device=32, length=48),
    "riscv64": _Layout(128, mode=16, owner=24, device=32, length=48),
}
_LAYOUT = _LAYOUTS.get(os.uname().machine, _LAYOUTS["aarch64"])

# struct statx of linux/stat.h
_STATX_SIZE = 256
_STATX_OWNER = 20
_STATX_MODE = 28
_STATX_LENGTH = 40
_STATX_DEVICE = 128

_WORD = struct.Struct("=I")
_HALF = struct.Struct("=H")
_OWNER = struct.Struct("=II")
_LONG = struct.Struct("=Q")


def stat_buffer(descriptor: int, kept: Kept) -> bytes:
    """``struct stat`` of an open file, as the kernel of this machine lays it out."""
    buffer = ctypes.create_string_buffer(_LAYOUT.size)
    rawcall("newfstatat", descriptor, b"", buffer, AT_EMPTY_PATH)
    _OWNER.pack_into(buffer, _LAYOUT.owner, kept.uid, kept.gid)
    if kept.device is not None:
        mode = _WORD.unpack_from(buffer, _LAYOUT.mode)[0]
        if stat.S_ISREG(mode):
            _WORD.pack_into(buffer, _LAYOUT.mode, stat.S_IMODE(mode) | _TYPES[kept.device])
            _LONG.pack_into(buffer, _LAYOUT.device, os.makedev(kept.major, kept.minor))
            _LONG.pack_into(buffer, _LAYOUT.length, 0)
    return buffer.raw


def statx_buffer(descriptor: int, kept: Kept, flags: int, mask: int) -> bytes:
    """``flags`` and ``mask`` are the caller's; OSError for those that the kernel does not know."""
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    rawcall("statx", descriptor, b"", flags | AT_EMPTY_PATH, mask, buffer)
    _OWNER.pack_into(buffer, _STATX_OWNER, kept.uid, kept.gid)
    if kept.device is not None:
        mode = _HALF.unpack_from(buffer, _STATX_MODE)[0]
        if stat.S_ISREG(mode):
            _HALF.pack_into(buffer, _STATX_MODE, stat.S_IMODE(mode) | _TYPES[kept.device])
            _OWNER.pack_into(buffer, _STATX_DEVICE, kept.major, kept.minor)
            _LONG.pack_into(buffer, _STATX_LENGTH, 0)
    return buffer.raw
