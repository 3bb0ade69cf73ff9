"""Compressed streams in and out: what it is is seen from the first bytes, and every byte is accounted for.

A stream that ends early, that goes on with something else after its end, or that inflates to more than
it may, is refused. Memory stays the same whatever the size: one call never makes more than it was asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, BinaryIO, Protocol, Self, cast

from lamina.errors import InvalidInput
from lamina.layer.entry import InvalidLayer
from lamina.layer.zstdframe import MAX_WINDOW, FrameWalk, InvalidStream
from lamina.oci.descriptor import (
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
)
from lamina.values import dataclass

_INPUT = 1 << 18
_OUTPUT = 1 << 20  # 64 KiB reads lose a quarter of the throughput (docs/performance.md)
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_MAGIC = b"\x2a\x4d\x18"  # after one byte 0x50 to 0x5f (RFC 8878, 3.1.2)
_GZIP_LEVELS = range(4)
_ZSTD_LEVELS = range(1, 20)  # 20 and up need more than MAX_WINDOW to inflate


class InflatesTooFar(InvalidLayer):
    """More comes out than an :class:`InflateLimit` allows."""


class Compression(StrEnum):
    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


@dataclass(frozen=True, slots=True, kw_only=True)
class InflateLimit:
    """What one stream may inflate to; the diff id decides what is right, this what is worth finding out.

    ``max_bytes`` is absolute. Beyond ``free_bytes`` the output may also not exceed ``max_ratio`` times the
    input read so far. DEFLATE cannot pass 1,032, so twice that leaves every gzip layer alone, and stops
    zstd, which can repeat one byte 32,768 times for each that it reads.
    """

    max_bytes: int = 1 << 42
    max_ratio: int = 2 * 1032
    free_bytes: int = 1 << 30


class Readable(Protocol):
    """All that is asked of a source: at most ``size`` bytes, and none at the end alone."""

    def read(self, size: int = ..., /) -> bytes: ...


def sniff(head: bytes) -> Compression:
    """From the first four bytes."""
    if head[:2] == _GZIP_MAGIC:
        return Compression.GZIP
    if head[:4] == _ZSTD_MAGIC or (head[1:4] == _SKIPPABLE_MAGIC and 0x50 <= head[0] <= 0x5F):
        return Compression.ZSTD
    return Compression.NONE


def inflate(
    stream: Readable, *, limit: InflateLimit | None = None, forced: Compression | None = None
) -> Inflated:
    """Looks at the first bytes of ``stream`` at once, and reads the rest on demand, to its end."""
    source = _Source(stream)
    return Inflated(source, sniff(source.peek(4)) if forced is None else forced, limit or InflateLimit())


class Inflated:
    """A stream of inflated bytes. Raises :class:`InvalidStream` and :class:`InflatesTooFar` while it is read.

    ``close`` closes the stream behind it; just letting go of it does not.
    """

    def __init__(self, source: _Source, compression: Compression, limit: InflateLimit) -> None:
        self.compression = compression
        self._source = source
        self._limit = limit
        self._check_from = min(limit.free_bytes, limit.max_bytes)
        self._made = 0
        self._decode = _decoder(source, compression)

    @property
    def consumed(self) -> int:
        """Compressed bytes taken so far."""
        return self._source.taken

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(_OUTPUT), b""))
        if size == 0:
            return b""
        chunk = self._decode(size)
        self._made += len(chunk)
        if self._made > self._check_from:
            self._check()
        return chunk

    def readinto(self, buffer: bytearray | memoryview) -> int:
        chunk = self.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _check(self) -> None:
        limit, name = self._limit, self.compression
        if self._made > limit.max_bytes:
            raise InflatesTooFar(f"the {name} stream inflates to more than {limit.max_bytes} bytes")
        if name is Compression.NONE or self._made <= limit.free_bytes:
            return
        if self._made > limit.max_ratio * self._source.taken:
            raise InflatesTooFar(
                f"the {name} stream inflates to more than {limit.max_ratio} times its size "
                f"({self._made} bytes from {self._source.taken})"
            )


class _Source:
    """The compressed side: what was looked at is given again, and what is taken is counted."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._head = b""
        self.taken = 0

    def peek(self, size: int) -> bytes:
        while len(self._head) < size:
            more = self._stream.read(size - len(self._head))
            if not more:
                break
            self._head += more
        return self._head

    def read(self, size: int = _INPUT) -> bytes:
        chunk = self._stream.read(size - len(self._head)) if size > len(self._head) else b""
        if self._head:
            # Together: ISA-L loses count of a gzip header's own checksum when the header comes in pieces.
            chunk, self._head = self._head[:size] + chunk, self._head[size:]
        self.taken += len(chunk)
        return chunk

    def close(self) -> None:
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()


def _decoder(source: _Source, compression: Compression) -> Callable[[int], bytes]:
    if compression is Compression.GZIP:
        return _GzipDecoder(source).read
    if compression is Compression.ZSTD:
        return _ZstdDecoder(source).read
    return source.read


class _GzipDecoder:
    """Member after member (RFC 1952, 2.2); zeros after the last are padding, anything else is refused."""

    def __init__(self, source: _Source) -> None:
        from isal import igzip_lib  # noqa: PLC0415 - 6 ms that most commands need not spend

        self._library: Any = igzip_lib
        self._source = source
        self._member = self._new_member()
        self._pending = b""
        self._is_over = False

    def read(self, size: int) -> bytes:
        while not self._is_over:
            if self._member.eof and not self._next_member():
                break
            chunk = self._inflate(size)
            if chunk:
                return chunk
        return b""

    def _new_member(self) -> Any:
        return self._library.IgzipDecompressor(flag=self._library.DECOMP_GZIP)

    def _inflate(self, size: int) -> bytes:
        data = b""
        if self._member.needs_input:
            data = self._pending or self._source.read(_INPUT)
            self._pending = b""
            if not data:
                raise InvalidStream("the gzip stream is cut off: its end is missing")
        try:
            chunk: bytes = self._member.decompress(data, size)
        except self._library.IsalError as error:
            raise InvalidStream(f"the gzip stream is damaged ({error})") from None
        return chunk

    def _next_member(self) -> bool:
        rest: bytes = self._member.unused_data or self._source.read(_INPUT)
        if rest and not rest[0]:
            self._read_padding(rest)
            rest = b""
        if not rest:
            self._is_over = True
            return False
        if len(rest) == 1:
            rest += self._source.read(_INPUT)
        if rest[:2] != _GZIP_MAGIC:
            raise InvalidStream("the gzip stream is followed by bytes that are not gzip")
        self._member, self._pending = self._new_member(), rest
        return True

    def _read_padding(self, rest: bytes) -> None:
        while rest:
            if rest.count(0) != len(rest):
                raise InvalidStream("the gzip stream is followed by bytes that are not gzip")
            rest = self._source.read(_INPUT)


class _ZstdDecoder:
    """Frame after frame, skippable ones too. libzstd says nothing of a missing end: the walk does."""

    def __init__(self, source: _Source) -> None:
        import zstandard  # noqa: PLC0415 - 10 ms that most commands need not spend

        self._error = zstandard.ZstdError
        self._source = _WalkedSource(source)
        decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        self._reader: Any = decoder.stream_reader(
            cast("BinaryIO", self._source), read_size=_INPUT, read_across_frames=True, closefd=False
        )

    def read(self, size: int) -> bytes:
        try:
            chunk: bytes = self._reader.read(size)
        except self._error as error:
            raise InvalidStream(f"the zstd stream is damaged ({error})") from None
        if not chunk and not self._source.walk.is_complete:
            raise InvalidStream("the zstd stream is cut off: its end is missing")
        return chunk


class _WalkedSource:
    def __init__(self, source: _Source) -> None:
        self._source = source
        self.walk = FrameWalk()

    def read(self, size: int) -> bytes:
        chunk = self._source.read(size)
        self.walk.feed(chunk)
        return chunk


class Writable(Protocol):
    def write(self, chunk: bytes, /) -> object: ...


class _Compressor(Protocol):
    def compress(self, chunk: bytes | memoryview, /) -> bytes: ...

    def flush(self) -> bytes: ...


class Deflated:
    """``write`` compresses into ``out``; the stream is whole only after ``finish``. ``out`` stays open."""

    def __init__(self, out: Writable, compression: Compression, level: int | None) -> None:
        self._out = out
        self._compressor = _compressor(compression, level)

    def write(self, chunk: bytes | memoryview) -> int:
        data = self._compressor.compress(chunk)
        if data:
            self._out.write(data)
        return len(chunk)

    def finish(self) -> None:
        data = self._compressor.flush()
        if data:
            self._out.write(data)


def deflate(out: Writable, compression: Compression, level: int | None = None) -> Deflated:
    """Repeatable: no time and no name goes in. But bytes may differ between versions of the libraries.

    Levels are ISA-L's 0 to 3 (2 is the default) and zstd's 1 to 19 (3).
    """
    return Deflated(out, compression, level)


class _Plain:
    def compress(self, chunk: bytes | memoryview) -> bytes:
        return bytes(chunk)

    def flush(self) -> bytes:
        return b""


def _compressor(compression: Compression, level: int | None) -> _Compressor:
    if compression is Compression.GZIP:
        from isal import isal_zlib  # noqa: PLC0415 - 6 ms that most commands need not spend

        # wbits 31 is a gzip header with no time and no name in it (RFC 1952, 2.3.1).
        made: _Compressor = isal_zlib.compressobj(_level(level, 2, _GZIP_LEVELS), isal_zlib.DEFLATED, 31)
        return made
    if compression is Compression.ZSTD:
        import zstandard  # noqa: PLC0415 - 10 ms that most commands need not spend

        zstd = zstandard.ZstdCompressor(level=_level(level, 3, _ZSTD_LEVELS), write_checksum=True)
        return zstd.compressobj()
    return _Plain()


def _level(wanted: int | None, default: int, known: range) -> int:
    if wanted is None:
        return default
    if wanted not in known:
        raise InvalidInput(f"compression level {wanted}: expected {known[0]} to {known[-1]}")
    return wanted


def layer_media_type(compression: Compression, family_docker: bool = False) -> str:
    """Docker's schema 2 has no name for zstd that others read: OCI's is used there too."""
    if compression is Compression.ZSTD:
        return OCI_LAYER_ZSTD
    if compression is Compression.GZIP:
        return DOCKER_LAYER_GZIP if family_docker else OCI_LAYER_GZIP
    return DOCKER_LAYER if family_docker else OCI_LAYER
