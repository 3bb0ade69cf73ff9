"""A layer's tar as a stream, made again while it is read: its skeleton, and files from wherever they are."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO

from lamina.layer.entry import Entry
from lamina.layer.skeleton import RebuildMismatch, SkeletonReader
from lamina.oci.digest import Digest

_CHUNK = 1 << 20


class RebuiltTar(io.RawIOBase):
    """Front to back: ``seek`` goes forward only, and passes over files without opening them.

    ``files`` are those with content, in the tar's order. ``source`` is closed with this: the file that the
    skeleton is read from. That the whole is what the diff id names is for the reader to find out: who reads
    parts cannot.
    """

    def __init__(
        self, diff_id: Digest, tar_size: int, skeleton: BinaryIO, files: Iterator[Entry],
        open_data: Callable[[Entry], BinaryIO], source: BinaryIO,
    ) -> None:
        super().__init__()
        self._diff_id = diff_id
        self._tar_size = tar_size
        self._source = source
        self._skeleton = SkeletonReader(skeleton, diff_id)
        self._files = files
        self._open_data = open_data
        self._next = next(files, None)
        self._data: BinaryIO | None = None
        self._position = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if whence != os.SEEK_SET or offset < self._position:
            raise io.UnsupportedOperation("a tar that is made again goes forward only")
        while self._position < min(offset, self._tar_size):
            self._pass_over(min(offset, self._tar_size) - self._position)
        return offset

    def read(self, size: int = -1, /) -> bytes:
        """As much as was asked for, unless the tar ends."""
        left = self._tar_size - self._position
        left = left if size < 0 else min(size, left)
        pieces = []
        while left:
            pieces.append(self._piece(min(left, _CHUNK)))
            left -= len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        if not self.closed:
            self._close_data()
            self._source.close()
        super().close()

    def _piece(self, size: int) -> bytes:
        """At least a byte: of the skeleton up to the next file, or of the file that this is in."""
        entry = self._next
        if entry is None or self._position < entry.data_offset:
            between = size if entry is None else min(size, entry.data_offset - self._position)
            return self._advanced(self._skeleton.read(between), "skeleton")
        if self._data is None:
            self._data = self._opened(entry, self._position - entry.data_offset)
        inside = min(size, entry.data_offset + entry.size - self._position)
        piece = self._advanced(self._data.read(inside), repr(entry.path))
        self._leave(entry)
        return piece

    def _opened(self, entry: Entry, skipped: int) -> BinaryIO:
        """Who sought into the middle of a file pays for what is before it: not every stream can seek."""
        data = self._open_data(entry)
        while skipped:
            chunk = data.read(min(skipped, _CHUNK))
            if not chunk:
                break  # the next read says so
            skipped -= len(chunk)
        return data

    def _pass_over(self, size: int) -> None:
        entry = self._next
        if entry is None or self._position < entry.data_offset:
            self._piece(min(size, _CHUNK))
            return
        self._position += min(size, entry.data_offset + entry.size - self._position)
        self._close_data()
        self._leave(entry)

    def _advanced(self, piece: bytes, what: str) -> bytes:
        if not piece:
            raise RebuildMismatch(f"{self._diff_id}: {what}: ends {self._position} bytes into the tar")
        self._position += len(piece)
        return piece

    def _leave(self, entry: Entry) -> None:
        if self._position >= entry.data_offset + entry.size:
            self._close_data()
            self._next = next(self._files, None)

    def _close_data(self) -> None:
        if self._data is not None:
            self._data.close()
            self._data = None
