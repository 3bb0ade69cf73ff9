"""A stream that is read once, front to back, while somebody else sees every byte of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

_CHUNK = 1 << 20  # 64 KiB reads lose a quarter of the throughput (docs/performance.md)


class Readable(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


class Passing:
    """``see`` gets each piece as it arrives from ``stream``, in order; nothing is ever seen twice."""

    def __init__(self, stream: Readable, see: Callable[[bytes], object]) -> None:
        self._stream = stream
        self._see = see
        self._buffer = b""
        self._base = self._at = 0

    @property
    def position(self) -> int:
        """Bytes given away or passed over."""
        return self._base + self._at

    def read(self, size: int = _CHUNK, /) -> bytes:
        """At most so many bytes, and none at the end alone."""
        if self._at == len(self._buffer) and not self._next():
            return b""
        chunk = self._buffer[self._at : self._at + size]
        self._at += len(chunk)
        return chunk

    def peek(self, size: int) -> bytes:
        """The next bytes, which stay; fewer only where the stream ends."""
        while len(self._buffer) - self._at < size:
            more = self._arriving()
            if not more:
                break
            self._base += self._at
            self._buffer, self._at = self._buffer[self._at :] + more, 0
        return self._buffer[self._at : self._at + size]

    def skip_to(self, offset: int) -> bool:
        """Passes over what lies before ``offset``; false if the stream ends there, or is beyond it."""
        if offset < self.position:
            return False
        while self._base + len(self._buffer) < offset:
            if not self._next():
                return False
        self._at = offset - self._base
        return True

    def drain(self) -> None:
        while self._next():
            pass

    def _next(self) -> bool:
        """The buffer after this one."""
        self._base += len(self._buffer)
        self._buffer, self._at = self._arriving(), 0
        return bool(self._buffer)

    def _arriving(self) -> bytes:
        chunk = self._stream.read(_CHUNK)
        if chunk:
            self._see(chunk)
        return chunk


class Part:
    """The next ``size`` bytes of a passing stream."""

    def __init__(self, passing: Passing, size: int) -> None:
        self._passing = passing
        self._left = size

    def read(self, size: int = _CHUNK, /) -> bytes:
        chunk = self._passing.read(min(size, self._left)) if self._left else b""
        self._left -= len(chunk)
        return chunk
