"""What goes over a container's ``attach`` socket, both ways: a byte of kind, four of length, then that many.

The client sends input, its end, and the size of its terminal; the monitor sends output, and last of all the
exit as JSON. Nothing here does any I/O.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

from lamina.errors import InvalidInput

_HEAD = struct.Struct("!BI")
MAX_PAYLOAD = 1 << 20


class Kind(IntEnum):
    INPUT = 0
    INPUT_END = 1
    RESIZE = 2
    OUTPUT = 16
    ERROR_OUTPUT = 17
    EXIT = 18


class BrokenFrame(InvalidInput):
    pass


def frame(kind: Kind, payload: bytes = b"") -> bytes:
    return _HEAD.pack(kind, len(payload)) + payload


def resize(rows: int, columns: int) -> bytes:
    return frame(Kind.RESIZE, struct.pack("!HH", rows, columns))


def read_resize(payload: bytes) -> tuple[int, int]:
    """Rows, columns."""
    if len(payload) != 4:
        raise BrokenFrame("a terminal's size has 4 bytes")
    rows, columns = struct.unpack("!HH", payload)
    return rows, columns


class FrameReader:
    """Collects bytes as they come, and gives the frames that are complete."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Kind, bytes]]:
        self._held += data
        while len(self._held) >= _HEAD.size:
            number, length = _HEAD.unpack_from(self._held)
            if length > MAX_PAYLOAD:
                raise BrokenFrame(f"a frame of {length} bytes is longer than {MAX_PAYLOAD}")
            end = _HEAD.size + length
            if len(self._held) < end:
                return
            payload = bytes(self._held[_HEAD.size : end])
            del self._held[:end]
            try:
                kind = Kind(number)
            except ValueError:
                raise BrokenFrame(f"frames of kind {number} are unknown") from None
            yield kind, payload
