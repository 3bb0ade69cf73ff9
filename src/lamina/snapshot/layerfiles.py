"""Files of a layer as streams: a range of its tar, a file of its tree, what a function takes."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from lamina.layer.entry import Entry
from lamina.snapshot import syscalls


class FileRange(io.RawIOBase):
    """A part of a file as a stream of its own."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        super().__init__()
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self.offset = offset
        self.size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # io's own stubs say Buffer
        wanted = min(len(buffer), self.size - self._position)
        if wanted <= 0:
            return 0
        count = os.preadv(self.descriptor, [memoryview(buffer)[:wanted]], self.offset + self._position)
        self._position += count
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self.descriptor)
        super().close()


def open_regular(tree: Path | None, entry: Entry) -> BinaryIO | None:
    """A file below a tree, if it is there with its size. No symlink is followed on the way."""
    try:
        top = os.open(tree or "", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        descriptor = syscalls.open_beneath(top, entry.path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:  # not there, not for us to read, or something else by now
        return None
    finally:
        os.close(top)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size == entry.size:
        return open(descriptor, "rb")
    os.close(descriptor)
    return None


class Writing(io.RawIOBase):
    """A function where a stream is wanted."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        super().__init__()
        self._write = write

    def writable(self) -> bool:
        return True

    def write(self, chunk: bytes) -> int:  # type: ignore[override]  # io's own stubs say Buffer
        self._write(chunk)
        return len(chunk)
