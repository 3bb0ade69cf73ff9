"""Reading a chunked body (RFC 9112 section 7.1), strictly.

http.client believes negative sizes, which makes one ``read`` endless, and skips trailers for as long
as a peer cares to send them. Sizes here are plain hex, lines are short, trailers are few.
"""

from __future__ import annotations

import re
from typing import BinaryIO

from lamina.http.message import BrokenConnection, MalformedResponse

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
_MAX_LINE = 4096
_MAX_TRAILERS = 64


class ChunkedReader:
    """``source`` stands at the first chunk's size; after the end it stands behind the trailers."""

    def __init__(self, source: BinaryIO, where: str) -> None:
        self._source = source
        self._where = where
        self._left = 0  # of the current chunk
        self._is_first = True
        self.is_over = False

    def readinto(self, buffer: memoryview) -> int:
        """Fills the buffer unless the body ends first, as a read of known length does."""
        filled = 0
        while filled < len(buffer) and not self.is_over:
            if not self._left and not self._next_chunk():
                break
            count = self._source.readinto(buffer[filled : filled + self._left])  # type: ignore[attr-defined]
            if not count:
                raise self._broken()
            filled += count
            self._left -= count
        return filled

    def _next_chunk(self) -> bool:
        if not self._is_first and self._line() not in {b"\r\n", b"\n"}:
            raise MalformedResponse(f"{self._where}: a chunk is longer than it says")
        self._is_first = False
        line = self._line()
        match = _SIZE.fullmatch(line)
        if match is None:
            raise MalformedResponse(f"{self._where}: {line[:40]!r} is not the size of a chunk")
        self._left = int(match[1], 16)
        if not self._left:
            self._skip_trailers()
            self.is_over = True
        return not self.is_over

    def _skip_trailers(self) -> None:
        for _ in range(_MAX_TRAILERS):
            if self._line() in {b"\r\n", b"\n"}:
                return
        raise MalformedResponse(f"{self._where}: too many trailers behind the body")

    def _line(self) -> bytes:
        line = self._source.readline(_MAX_LINE)
        if not line.endswith(b"\n"):
            if len(line) == _MAX_LINE:
                raise MalformedResponse(f"{self._where}: a line of the chunked body is too long")
            raise self._broken()
        return line

    def _broken(self) -> BrokenConnection:
        return BrokenConnection(f"{self._where}: the connection broke off in the middle of a chunked body")
