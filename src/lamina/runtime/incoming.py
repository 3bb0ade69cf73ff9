"""A stranger's tar, however it is compressed: made plain here, by our own libraries.

docker takes gzip, zstd, bzip2 and xz, and once let the container's own ``xz`` do it (CVE-2026-41567).
"""

from __future__ import annotations

from typing import Any

from lamina.layer.compress import Readable, inflate
from lamina.layer.entry import InvalidLayer

_CHUNK = 1 << 18
_XZ_MAGIC, _BZIP2_MAGIC = b"\xfd7zXZ\x00", b"BZh"
# What `xz -9` needs to unpack is 65 MiB; a header can ask for 4 GiB.
_XZ_MEMORY = 256 << 20


def plain(stream: Readable) -> Readable:
    """The bytes of the tar. Raises ``InvalidLayer`` while it is read."""
    head = b""
    while len(head) < len(_XZ_MAGIC) and (more := stream.read(len(_XZ_MAGIC) - len(head))):
        head += more
    source = Begun(head, stream)
    if head == _XZ_MAGIC:
        return _Decoded(source, _xz, "xz")
    if head[:3] == _BZIP2_MAGIC:
        return _Decoded(source, _bzip2, "bzip2")
    return inflate(source)


class Begun:
    """A stream of which the beginning was read already."""

    def __init__(self, head: bytes, stream: Readable) -> None:
        self._head = head
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        if not self._head:
            return self._stream.read(size)
        count = len(self._head) if size < 0 else size
        chunk, self._head = self._head[:count], self._head[count:]
        return chunk


def _xz() -> Any:
    import lzma  # noqa: PLC0415 - few archives are

    return lzma.LZMADecompressor(memlimit=_XZ_MEMORY)


def _bzip2() -> Any:
    import bz2  # noqa: PLC0415 - few archives are

    return bz2.BZ2Decompressor()


class _Decoded:
    """One stream after another, as both formats allow; zeros between and behind are padding."""

    def __init__(self, source: Readable, make: Any, name: str) -> None:
        self._source = source
        self._make = make
        self._name = name
        self._decoder = make()
        self._pending = b""

    def read(self, size: int = _CHUNK, /) -> bytes:
        while True:
            if self._decoder.eof and not self._next():
                return b""
            data = b""
            if self._decoder.needs_input:
                data = self._pending or self._source.read(_CHUNK)
                self._pending = b""
                if not data:
                    raise InvalidLayer(f"the {self._name} stream is cut off: its end is missing")
            try:
                chunk: bytes = self._decoder.decompress(data, size if size > 0 else _CHUNK)
            except Exception as error:  # lzma.LZMAError, which has no other base, or OSError of bz2
                raise InvalidLayer(f"the {self._name} stream is damaged ({error})") from None
            if chunk:
                return chunk

    def _next(self) -> bool:
        rest = self._decoder.unused_data.lstrip(b"\0")
        while not rest:
            more = self._source.read(_CHUNK)
            if not more:
                return False
            rest = more.lstrip(b"\0")
        self._decoder, self._pending = self._make(), rest
        return True
