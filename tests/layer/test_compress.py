"""Compressed streams: what they are, where they end, how far they go."""

from __future__ import annotations

import gzip
import io
import tracemalloc
import zlib

import pytest
import zstandard

from lamina.errors import InvalidInput
from lamina.layer.compress import (
    Compression,
    InflateLimit,
    InflatesTooFar,
    deflate,
    inflate,
    layer_media_type,
    sniff,
)
from lamina.layer.zstdframe import FrameWalk, InvalidStream
from lamina.oci.descriptor import DOCKER_LAYER, DOCKER_LAYER_GZIP, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD

DATA = bytes(range(256)) * 40 + b"x" * 200_000
GZIP = gzip.compress(DATA, mtime=0)  # parts of names of tests, which must not depend on the time
ZSTD = zstandard.ZstdCompressor().compress(DATA)
SKIPPED = b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"


def streamed(data: bytes) -> bytes:
    """As a program writes to a pipe: no size in the frame's header, a checksum at its end."""
    compressor = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    return compressor.compress(data) + compressor.flush()


def inflated(data: bytes, size: int = 1 << 20, *, forced: Compression | None = None) -> bytes:
    stream = inflate(io.BytesIO(data), forced=forced)
    chunks = list(iter(lambda: stream.read(size), b""))
    assert all(len(chunk) <= size for chunk in chunks)
    return b"".join(chunks)


@pytest.mark.parametrize(("stream", "compression"), [
    (DATA, Compression.NONE), (b"", Compression.NONE), (b"\x1f", Compression.NONE), (GZIP, Compression.GZIP),
    (ZSTD, Compression.ZSTD), (SKIPPED + ZSTD, Compression.ZSTD), (b"\x4a\x2a\x4d\x18", Compression.NONE),
])
def test_first_bytes_tell(stream: bytes, compression: Compression) -> None:
    assert sniff(stream[:4]) is compression
    assert inflate(io.BytesIO(stream)).compression is compression


@pytest.mark.parametrize(("stream", "data"), [
    (DATA, DATA), (b"", b""), (GZIP, DATA), (GZIP * 3, DATA * 3), (GZIP + gzip.compress(b"", mtime=0) + GZIP, DATA * 2),
    (GZIP + bytes(100_000), DATA), (ZSTD, DATA), (streamed(DATA), DATA), (ZSTD + streamed(b"more"), DATA + b"more"),
    (SKIPPED + ZSTD + SKIPPED * 2 + ZSTD + SKIPPED, DATA * 2), (SKIPPED, b""),
])
@pytest.mark.parametrize("size", [1 << 20, 1000, 50])
def test_whole_streams(stream: bytes, data: bytes, size: int) -> None:
    assert inflated(stream, size) == data


def test_members_that_arrive_in_pieces() -> None:
    class Pieces(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(1)

    for stream, data in ((gzip.compress(b"ab") * 2 + bytes(3), b"abab"), (streamed(b"ab") * 2, b"abab")):
        assert inflate(Pieces(stream)).read() == data


def test_gzip_headers_with_everything() -> None:
    """Extra field, name, comment and header checksum (RFC 1952, 2.3)."""
    head = b"\x1f\x8b\x08\x1e\0\0\0\0\0\x03" + b"\x04\0abcd" + b"name\0" + b"comment\0"
    head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    assert inflated(head + GZIP[10:]) == DATA


@pytest.mark.parametrize("stream", [gzip.compress(b"some words", mtime=0), streamed(b"some words"), SKIPPED + streamed(b"x")])
def test_every_cut_is_noticed(stream: bytes) -> None:
    compression = sniff(stream[:4])
    for end in range(1, len(stream)):
        if stream[:end] == SKIPPED:
            continue  # ends where a frame does
        with pytest.raises(InvalidStream):
            inflated(stream[:end], forced=compression)


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_nothing_is_no_stream(compression: Compression) -> None:
    with pytest.raises(InvalidStream):
        inflated(b"", forced=compression)
    with pytest.raises(InvalidStream):
        inflated(DATA, forced=compression)


@pytest.mark.parametrize("stream", [GZIP, ZSTD, streamed(DATA)])
@pytest.mark.parametrize("garbage", [b"x", b"\x1f", b"\x1f\x8c", b"\x28\xb5\x2f", b"garbage" * 1000, bytes(5) + b"x"])
def test_what_follows_is_refused(stream: bytes, garbage: bytes) -> None:
    with pytest.raises(InvalidStream):
        inflated(stream + garbage)


def test_zeros_after_zstd_are_no_padding() -> None:
    with pytest.raises(InvalidStream, match="not zstd"):
        inflated(ZSTD + bytes(100))


@pytest.mark.parametrize("stream", [GZIP, streamed(DATA)])
def test_damage_is_noticed(stream: bytes) -> None:
    for at in (5, len(stream) // 2, len(stream) - 3):
        damaged = bytearray(stream)
        damaged[at] ^= 0xFF
        try:
            assert inflated(bytes(damaged), forced=sniff(stream[:4])) == DATA  # a time in a gzip header says nothing
        except InvalidStream as error:
            sentence = str(error)
            assert "\n" not in sentence


def test_windows_have_a_limit() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    stream = compressor.compress(b"x") + compressor.flush()
    with pytest.raises(InvalidStream, match="window of 268435456 bytes"):
        inflated(stream)
    single = b"\x28\xb5\x2f\xfd" + bytes([0xA0]) + (1 << 28).to_bytes(4, "little") + b"\x01\0\0"
    with pytest.raises(InvalidStream, match="window of 268435456 bytes"):
        inflated(single)


def test_walk_agrees_with_the_library() -> None:
    for stream in (ZSTD, streamed(DATA), SKIPPED, zstandard.ZstdCompressor(level=19).compress(DATA * 5)):
        walk = FrameWalk()
        for at in range(0, len(stream), 7):
            walk.feed(stream[at : at + 7])
        assert walk.is_complete
        walk.feed(stream[:-1])
        assert not walk.is_complete


# -- bombs


def bomb(compression: Compression) -> bytes:
    out = io.BytesIO()
    stream = deflate(out, compression)
    for _ in range(64):
        stream.write(bytes(1 << 20))
    stream.finish()
    return out.getvalue()


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_bombs(compression: Compression) -> None:
    data = bomb(compression)
    tracemalloc.start()
    try:
        for limit in (InflateLimit(max_bytes=32 << 20), InflateLimit(max_ratio=50, free_bytes=16 << 20)):
            stream = inflate(io.BytesIO(data), limit=limit)
            with pytest.raises(InflatesTooFar):
                while stream.read(1 << 20):
                    pass
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_no_gzip_layer_reaches_the_ratio() -> None:
    """DEFLATE's best is below it, so that layers of zeros arrive."""
    limit = InflateLimit(free_bytes=0)
    assert len(inflate(io.BytesIO(bomb(Compression.GZIP)), limit=limit).read()) == 64 << 20


def test_plain_bytes_have_no_ratio_but_an_end() -> None:
    assert inflate(io.BytesIO(DATA), limit=InflateLimit(free_bytes=0, max_ratio=0)).read() == DATA
    with pytest.raises(InflatesTooFar):
        inflate(io.BytesIO(DATA), limit=InflateLimit(max_bytes=1000)).read()


# -- the stream itself


def test_reading_into_a_buffer() -> None:
    buffer = bytearray(100)
    stream = inflate(io.BytesIO(GZIP))
    assert stream.read(0) == b""
    assert stream.readinto(buffer) == 100
    assert buffer == DATA[:100]
    assert 0 < stream.consumed <= len(GZIP)


def test_closing_closes_what_is_behind() -> None:
    source = io.BytesIO(GZIP)
    with inflate(source) as stream:
        stream.read(1)
    assert source.closed


def test_letting_go_closes_nothing() -> None:
    source = io.BytesIO(GZIP)
    inflate(source).read(1)
    assert not source.closed


# -- writing


@pytest.mark.parametrize("compression", Compression)
def test_repeatable(compression: Compression) -> None:
    assert bomb(compression) == bomb(compression)


def test_gzip_header_says_nothing() -> None:
    out = io.BytesIO()
    deflate(out, Compression.GZIP).finish()
    assert out.getvalue()[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    assert gzip.decompress(out.getvalue()) == b""


@pytest.mark.parametrize(("compression", "levels", "wrong"), [
    (Compression.GZIP, (0, 1, 2, 3), (-1, 4)), (Compression.ZSTD, (1, 19), (0, 20)),
])
def test_levels(compression: Compression, levels: tuple[int, ...], wrong: tuple[int, ...]) -> None:
    for level in levels:
        out = io.BytesIO()
        stream = deflate(out, compression, level)
        assert stream.write(DATA) == len(DATA)
        stream.finish()
        assert inflated(out.getvalue()) == DATA
    for level in wrong:
        with pytest.raises(InvalidInput):
            deflate(io.BytesIO(), compression, level)


def test_media_types() -> None:
    assert [layer_media_type(compression) for compression in Compression] == [OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD]
    assert layer_media_type(Compression.NONE, True) == DOCKER_LAYER
    assert layer_media_type(Compression.GZIP, True) == DOCKER_LAYER_GZIP
