from __future__ import annotations

import io

import pytest

from lamina.http.chunked import ChunkedReader
from lamina.http.message import BrokenConnection, MalformedResponse


def read(data: bytes, size: int = 1 << 16) -> bytes:
    reader = ChunkedReader(io.BytesIO(data), "host")
    out = bytearray()
    buffer = bytearray(size)
    while count := reader.readinto(memoryview(buffer)):
        out += buffer[:count]
    assert reader.is_over
    return bytes(out)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_chunks_are_joined(size: int) -> None:
    data = b"3\r\nabc\r\n5;name=value\r\ndefgh\r\n0\r\nTrailer: x\r\n\r\n"
    assert read(data, size) == b"abcdefgh"


def test_what_follows_is_left_in_the_stream() -> None:
    source = io.BytesIO(b"1\r\na\r\n0\r\n\r\nHTTP/1.1 200 OK")
    reader = ChunkedReader(source, "host")
    assert reader.readinto(memoryview(bytearray(100))) == 1
    assert reader.is_over
    assert source.read() == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize("size", ["-1", "+1", "0x1", "1_0", "", " 1", "g", "1" * 16, "1\x00"])
def test_sizes_are_plain_hex(size: str) -> None:
    with pytest.raises(MalformedResponse):
        read(size.encode() + b"\r\nabc\r\n0\r\n\r\n")


def test_a_chunk_longer_than_it_says() -> None:
    with pytest.raises(MalformedResponse, match="longer than it says"):
        read(b"2\r\nabc\r\n0\r\n\r\n")


def test_endless_trailers_and_lines() -> None:
    with pytest.raises(MalformedResponse, match="too many trailers"):
        read(b"0\r\n" + b"X: y\r\n" * 1000)
    with pytest.raises(MalformedResponse, match="too long"):
        read(b"1;" + b"x" * 10_000)


@pytest.mark.parametrize("length", range(len(b"3\r\nabc\r\n0\r\n\r\n")))
def test_an_end_anywhere_else_is_a_broken_connection(length: int) -> None:
    with pytest.raises(BrokenConnection):
        read(b"3\r\nabc\r\n0\r\n\r\n"[:length])
