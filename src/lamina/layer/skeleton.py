"""A tar without its files' bytes: kept compressed, and filled with them again to the very same tar.

Headers, PAX records, padding and trailer repeat themselves and shrink to a few percent. Both directions
stream: memory does not grow with the tar.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

from lamina.errors import IntegrityError
from lamina.layer.entry import Entry
from lamina.oci.digest import Digest, Digester

_CHUNK = 1 << 20
_LEVEL = 1
# What level 1 uses is far below; a damaged header must not make us allocate more.
_MAX_WINDOW = 1 << 27


class RebuildMismatch(IntegrityError):
    """Skeleton and data together are not the tar that the diff id names."""


class SkeletonWriter:
    """Compresses what :meth:`write` is given to ``out``, in large pieces. ``size`` is before compression."""

    def __init__(self, out: BinaryIO) -> None:
        import zstandard  # noqa: PLC0415  readers of an index do not pay for it

        self._out = out
        self._deflate = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
        self._pending = bytearray()
        self.size = 0
        self.written = 0

    def write(self, chunk: bytes | memoryview) -> None:
        self._pending += chunk
        if len(self._pending) >= _CHUNK:
            self._flush()

    def finish(self) -> None:
        self._flush()
        self.written += self._out.write(self._deflate.flush())

    def _flush(self) -> None:
        self.size += len(self._pending)
        self.written += self._out.write(self._deflate.compress(self._pending))
        self._pending.clear()


def rebuild(
    diff_id: Digest,
    tar_size: int,
    skeleton: BinaryIO,
    files: Iterable[Entry],
    open_data: Callable[[Entry], BinaryIO],
    out: BinaryIO,
) -> None:
    """Writes the tar: ``files`` are those with content, in its order; ``skeleton`` is as it was written.

    Raises :class:`RebuildMismatch` at the end if what was written does not have the diff id.
    """
    filling = _Filling(diff_id, skeleton, out)
    position = 0
    for entry in files:
        filling.copy_skeleton(entry.data_offset - position)
        with open_data(entry) as data:
            filling.copy(data.read, entry.size, repr(entry.path))
        position = entry.data_offset + entry.size
    filling.copy_skeleton(tar_size - position)
    filling.check()


class SkeletonReader:
    """The skeleton as it was written, front to back."""

    def __init__(self, skeleton: BinaryIO, diff_id: Digest) -> None:
        import zstandard  # noqa: PLC0415  readers of an index do not pay for it

        self._error = zstandard.ZstdError
        self._inflated = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(skeleton)
        self._diff_id = diff_id

    def read(self, size: int) -> bytes:
        """Raises :class:`RebuildMismatch` where it is damaged."""
        try:
            return self._inflated.read(size)
        except self._error as error:
            raise RebuildMismatch(f"{self._diff_id}: skeleton: {error}") from None


class _Filling:
    def __init__(self, diff_id: Digest, skeleton: BinaryIO, out: BinaryIO) -> None:
        self._skeleton = SkeletonReader(skeleton, diff_id)
        self._diff_id = diff_id
        self._digester = Digester(diff_id.algorithm)
        self._out = out

    def copy_skeleton(self, size: int) -> None:
        if size < 0:
            raise RebuildMismatch(f"{self._diff_id}: data offsets go backwards")
        self.copy(self._skeleton.read, size, "skeleton")

    def copy(self, read: Callable[[int], Any], size: int, what: str) -> None:
        left = size
        while left:
            chunk = read(min(left, _CHUNK))
            if not chunk:
                raise RebuildMismatch(f"{self._diff_id}: {what}: {left} bytes short of {size}")
            left -= len(chunk)
            self._digester.update(chunk)
            self._out.write(chunk)

    def check(self) -> None:
        found = self._digester.digest()
        if found != self._diff_id:
            raise RebuildMismatch(f"{self._diff_id}: the tar made again has the digest {found}")


class Bounded(io.RawIOBase):
    """The next ``size`` bytes of a file, and then its end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__()
        self._file = file
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        chunk = self._file.read(min(len(buffer), self._left))
        buffer[: len(chunk)] = chunk
        self._left -= len(chunk)
        return len(chunk)
