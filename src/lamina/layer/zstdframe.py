"""The outline of a zstd stream (RFC 8878, 3.1): where frames begin and end, and how large their windows are.

The library inflates; it neither reports that a stream ends in the middle of a frame nor that something else
follows the last one. Looking at three bytes a block tells both.
"""

from __future__ import annotations

from lamina.layer.entry import InvalidLayer

# What the zstd program accepts without --long: an inflating process needs that much memory at once.
MAX_WINDOW = 1 << 27

_MAGIC = 0xFD2FB528
_SKIPPABLE = 0x184D2A50
_RLE, _RESERVED = 1, 3
_DICTIONARY_SIZES = (0, 1, 2, 4)
_CONTENT_SIZES = (0, 2, 4, 8)


class InvalidStream(InvalidLayer):
    """The compressed bytes are damaged, cut off, or followed by something else."""


class FrameWalk:
    """``feed`` it every byte in order; ``is_complete`` says whether the stream may end here."""

    def __init__(self) -> None:
        self._held = b""
        self._skip = 0  # bytes to pass over before the next field
        self._in_frame = False
        self._has_checksum = False
        self._frames = 0

    @property
    def is_complete(self) -> bool:
        return self._frames > 0 and not (self._in_frame or self._skip or self._held)

    def feed(self, chunk: bytes) -> None:
        data = self._held + chunk if self._held else chunk
        end = len(data)
        at = self._pass_over(0, end)
        while at < end:
            length = self._block(data, at) if self._in_frame else self._frame(data, at)
            if not length:
                break
            at = self._pass_over(at + length, end)
        self._held = data[at:]

    def _pass_over(self, at: int, end: int) -> int:
        step = min(self._skip, end - at)
        self._skip -= step
        return at + step

    def _block(self, data: bytes, at: int) -> int:
        """The length of the block header at ``at``; 0 when more bytes are needed."""
        if len(data) - at < 3:
            return 0
        header = int.from_bytes(data[at : at + 3], "little")
        kind = (header >> 1) & 3
        if kind == _RESERVED:
            raise InvalidStream("the zstd stream is damaged (a block of the reserved type)")
        self._skip = 1 if kind == _RLE else header >> 3
        if header & 1:
            self._in_frame = False
            self._skip += 4 if self._has_checksum else 0
        return 3

    def _frame(self, data: bytes, at: int) -> int:
        """As :meth:`_block`, for the header of a frame."""
        if len(data) - at < 5:
            return 0
        magic = int.from_bytes(data[at : at + 4], "little")
        if magic & ~0xF == _SKIPPABLE:
            return self._skippable(data, at)
        if magic != _MAGIC:
            what = "is followed by bytes that are not zstd" if self._frames else "does not begin as one"
            raise InvalidStream(f"the zstd stream {what}")
        flags = data[at + 4]
        is_single = bool(flags & 0x20)
        dictionary = _DICTIONARY_SIZES[flags & 3]
        content = _CONTENT_SIZES[flags >> 6] or int(is_single)
        length = 5 + (not is_single) + dictionary + content
        if len(data) - at < length:
            return 0
        if is_single:
            window = int.from_bytes(data[at + length - content : at + length], "little")
        else:
            exponent, mantissa = data[at + 5] >> 3, data[at + 5] & 7
            window = (1 << 10 + exponent) + (1 << 7 + exponent) * mantissa
        if window > MAX_WINDOW:
            raise InvalidStream(f"the zstd stream needs a window of {window} bytes; {MAX_WINDOW} are allowed")
        self._in_frame, self._has_checksum = True, bool(flags & 4)
        self._frames += 1
        return length

    def _skippable(self, data: bytes, at: int) -> int:
        if len(data) - at < 8:
            return 0
        self._skip = int.from_bytes(data[at + 4 : at + 8], "little")
        self._frames += 1
        return 8
