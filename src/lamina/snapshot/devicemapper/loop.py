"""Files as block devices (linux/loop.h): each goes again with the last who has it open."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

_CONTROL = "/dev/loop-control"
_GET_FREE, _CONFIGURE = 0x4C82, 0x4C0A
_AUTOCLEAR = 4
# struct loop_config: the file, its block size, then a struct loop_info64 (flags, name), then nothing yet.
_CONFIG = struct.Struct("=II40x12xI64s64x32x16x64x")


@contextlib.contextmanager
def attached(path: Path) -> Iterator[str]:
    """A device over a file. It stays after the block if somebody has it open by then (Linux 5.8)."""
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        device, descriptor = _configured(file, path)
    finally:
        os.close(file)
    try:
        yield device
    finally:
        os.close(descriptor)


def _configured(file: int, path: Path) -> tuple[str, int]:
    name = os.fsencode(path)[-63:]
    while True:
        device = f"/dev/loop{_free()}"
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _CONFIGURE, bytearray(_CONFIG.pack(file, 0, _AUTOCLEAR, name)))
        except OSError as error:
            os.close(descriptor)
            if error.errno != errno.EBUSY:  # somebody else was given the same one
                raise
        else:
            return device, descriptor


def _free() -> int:
    descriptor = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(descriptor, _GET_FREE)
    finally:
        os.close(descriptor)
