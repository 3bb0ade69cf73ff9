"""What a file is by its first bytes, and gzip, zstd, bzip2 and xz as streams of what is in them."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

from lamina.insight.passing import Readable
from lamina.layer.compress import Compression, InflateLimit, inflate
from lamina.layer.entry import InvalidLayer

# How much of a file tells what it is: a tar says so at byte 257.
HEAD = 512

_INPUT = 1 << 18
# What xz -9 needs is 65 MB; larger dictionaries are made on purpose.
_XZ_MEMORY = 128 << 20
_BZIP2_BLOCK, _BZIP2_EMPTY = b"1AY&SY", b"\x17rE8P\x90"
_SKIPPABLE = b"\x2a\x4d\x18"
# The caller counts what comes out, over all levels; the limits of a layer are not those of a file.
_UNLIMITED = InflateLimit(free_bytes=1 << 42)


class Container(StrEnum):
    GZIP = "gzip"
    ZSTD = "zstd"
    BZIP2 = "bzip2"
    XZ = "xz"
    TAR = "tar"
    ZIP = "zip"


class NeedsMemory(InvalidLayer):
    """Its window is larger than what is inflated here."""


def container_of(head: bytes) -> Container | None:
    """From the first :data:`HEAD` bytes. Of a gzip stream more than its two magic bytes must fit."""
    if head[:3] == b"\x1f\x8b\x08" and len(head) >= 10 and not head[3] & 0xE0:
        return Container.GZIP
    if head[:4] == b"PK\x03\x04" or _is_zipapp(head):
        return Container.ZIP
    if head[:4] == b"\x28\xb5\x2f\xfd" or (head[1:4] == _SKIPPABLE and 0x50 <= head[0] <= 0x5F):
        return Container.ZSTD
    if head[:3] == b"BZh" and head[4:10] in (_BZIP2_BLOCK, _BZIP2_EMPTY):
        return Container.BZIP2
    if head[:6] == b"\xfd7zXZ\x00":
        return Container.XZ
    if head[257:262] == b"ustar":
        return Container.TAR
    return None


def _is_zipapp(head: bytes) -> bool:
    """A line for the kernel, and then a zip (PEP 441)."""
    return head[:2] == b"#!" and head[head.find(b"\n") + 1 :][:4] == b"PK\x03\x04"


def inflated(stream: Readable, container: Container) -> Readable:
    """The content of one of the four that compress. Raises ``InvalidLayer`` while it is read."""
    if container in (Container.GZIP, Container.ZSTD):
        return _Told(inflate(stream, limit=_UNLIMITED, forced=Compression(container.value)))
    return _Members(stream, _decompressor(container))


def _decompressor(container: Container) -> Callable[[], Any]:
    if container is Container.BZIP2:
        import bz2  # noqa: PLC0415 - rare

        return bz2.BZ2Decompressor
    import lzma  # noqa: PLC0415 - rare

    return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)


class _Told:
    """A stream whose decoder has a limit of memory: that limit is not damage."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream

    def read(self, size: int = 1 << 20, /) -> bytes:
        try:
            return self._stream.read(size)
        except InvalidLayer as error:
            if "needs a window" in str(error):
                raise NeedsMemory(str(error)) from None
            raise


class _Members:
    """bzip2 or xz: one stream after the other, as their own programs read them; zeros between are padding."""

    def __init__(self, stream: Readable, new: Callable[[], Any]) -> None:
        self._stream = stream
        self._new = new
        self._decoder = new()
        self._held = b""

    def read(self, size: int = 1 << 20, /) -> bytes:
        while not self._decoder.eof or self._next_member():
            chunk = self._decode(size)
            if chunk:
                return chunk
        return b""

    def _decode(self, size: int) -> bytes:
        data = b""
        if self._decoder.needs_input:
            data, self._held = self._held or self._stream.read(_INPUT), b""
            if not data:
                raise InvalidLayer("cut off: its end is missing")
        try:
            chunk: bytes = self._decoder.decompress(data, size)
        except Exception as error:  # OSError of bz2; LZMAError, whose module is not imported for its sake
            if "limit" in str(error).lower():
                raise NeedsMemory(f"needs more than {_XZ_MEMORY} bytes of memory") from None
            raise InvalidLayer(f"damaged ({error})") from None
        return chunk

    def _next_member(self) -> bool:
        rest: bytes = self._decoder.unused_data.lstrip(b"\0")
        while not rest:
            more = self._stream.read(_INPUT)
            if not more:
                return False
            rest = more.lstrip(b"\0")
        self._decoder, self._held = self._new(), rest
        return True
