"""Files with holes: zeros that take no room are neither read nor written."""

from __future__ import annotations

import errno
import os
import sys

from lamina.layer.root import write_all
from lamina.layer.tarstream import CHUNK
from lamina.snapshot import syscalls

_BLOCK = 4096
_ZEROS = bytes(CHUNK)
# Readers join what is left of one chunk to the next.
_MANY_ZEROS = bytes(2 * CHUNK)
_ZFS = 0x2FC12FC1


class PastHoles:
    """A file from its beginning, which may be read elsewhere too. Where it shrinks meanwhile, it ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._at = self._data = 0  # where it is read next, and where the next data begins
        self._end = 0 if _tells_holes(descriptor) else sys.maxsize

    def read(self, size: int = CHUNK) -> bytes:
        if self._at >= self._end:
            self._look()
        if self._at < self._data:
            chunk = _ZEROS[: min(size, self._data - self._at)]
        else:
            chunk = os.pread(self._descriptor, min(size, self._end - self._at), self._at)
        self._at += len(chunk)
        return chunk

    def _look(self) -> None:
        try:
            self._data = os.lseek(self._descriptor, self._at, os.SEEK_DATA)
            self._end = os.lseek(self._descriptor, self._data, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            self._data = self._end = max(self._at, os.fstat(self._descriptor).st_size)  # no more data


def _tells_holes(descriptor: int) -> bool:
    """Whether there are any, and SEEK_DATA is to be believed.

    Not zfs, which took data for a hole that was just being written (OpenZFS 15526, until 2.1.14 and 2.2.2).
    """
    status = os.fstat(descriptor)
    return status.st_blocks * 512 < status.st_size and syscalls.filesystem_type(descriptor) != _ZFS


class WithHoles:
    """A new file in which zeros take no room. Its writer sets its size in the end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, chunk: bytes | memoryview) -> int:
        # Comparing a memoryview goes byte by byte, and this does not.
        if len(chunk) >= _BLOCK and _MANY_ZEROS.startswith(chunk):
            os.lseek(self._descriptor, len(chunk), os.SEEK_CUR)
        else:
            write_all(self._descriptor, chunk)
        return len(chunk)
