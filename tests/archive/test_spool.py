"""Input as it comes: files, pipes, and whatever somebody compressed around them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from tests.archive.saved import Pipe, docker_archive, loaded, tar

from lamina.archive.members import InvalidArchive
from lamina.archive.source import ArchiveSource
from lamina.archive.spool import ArchiveNotFound, UnknownCompression
from lamina.layer.compress import Compression
from lamina.testing.images import compressed, make_image

IMAGE = make_image([{"a": b"one" * 100_000}, {"b": b"two"}])
PLAIN = docker_archive(IMAGE)


def zstd(data: bytes) -> bytes:
    return compressed(data, Compression.ZSTD)


def same(data: bytes) -> bytes:
    return data


def is_whole(source: ArchiveSource) -> bool:
    ((names, root),) = source.images()
    return names == ("redis:7",) and len(list(loaded(source, root).walk())) == 4


@pytest.fixture(params=[same, gzip.compress, zstd], ids=["plain", "gzip", "zstd"])
def packed(request: pytest.FixtureRequest) -> bytes:
    pack: Callable[[bytes], bytes] = request.param
    return pack(PLAIN)


def test_file(tmp_path: Path, packed: bytes) -> None:
    path = tmp_path / "archive"
    path.write_bytes(packed)
    with ArchiveSource(path, scratch=tmp_path) as source:
        assert is_whole(source)
        assert os.listdir(tmp_path) == ["archive"], "the temporary file has a name"


def test_stream_in_memory(tmp_path: Path, packed: bytes) -> None:
    with ArchiveSource(io.BytesIO(packed), scratch=tmp_path) as source:
        assert is_whole(source)


def test_stream_that_can_only_be_read(tmp_path: Path, packed: bytes) -> None:
    with ArchiveSource(cast("io.BytesIO", Pipe(packed)), scratch=tmp_path) as source:
        assert is_whole(source)


def test_real_pipe(tmp_path: Path, packed: bytes) -> None:
    reading, writing = os.pipe()

    def feed() -> None:
        with open(writing, "wb") as out:
            out.write(packed)

    thread = threading.Thread(target=feed)
    thread.start()
    with open(reading, "rb") as stream, ArchiveSource(stream, scratch=tmp_path) as source:
        assert is_whole(source)
    thread.join()


def test_open_file_stays_open(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(PLAIN)
    with open(tmp_path / "archive", "rb") as file:
        with ArchiveSource(file, scratch=tmp_path / "none"):  # a plain file needs no scratch
            pass
        assert not file.closed


def test_file_half_read_goes_on_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(b"prefix" + PLAIN)
    with open(tmp_path / "archive", "rb") as file:
        assert file.read(6) == b"prefix"
        with ArchiveSource(file, scratch=tmp_path) as source:
            assert is_whole(source)


def test_many_threads_read_at_once(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(PLAIN)
    found = []
    with ArchiveSource(tmp_path / "archive", scratch=tmp_path) as source:
        root = source.images()[0].root
        threads = [threading.Thread(target=lambda: found.append(len(list(loaded(source, root).walk()))))
                   for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [4] * 8


def test_reading_from_the_middle(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(PLAIN)
    with ArchiveSource(tmp_path / "archive", scratch=tmp_path) as source:
        layer = source.images()[0].root
        with source.open(layer) as stream:
            whole = stream.read()
        for offset in (0, 1, 100, len(whole), len(whole) + 5):
            with source.open_at(layer, offset) as stream:
                assert stream.read() == whole[offset:]


@pytest.mark.parametrize(("pack", "name"), [(lzma.compress, "xz"), (bz2.compress, "bzip2")])
@pytest.mark.parametrize("is_file", [True, False])
def test_other_compressions_are_named(
    tmp_path: Path, pack: Callable[[bytes], bytes], name: str, is_file: bool
) -> None:
    (tmp_path / "archive").write_bytes(pack(PLAIN))
    with pytest.raises(UnknownCompression, match=name):
        ArchiveSource(tmp_path / "archive" if is_file else io.BytesIO(pack(PLAIN)), scratch=tmp_path)


@pytest.mark.parametrize("data", [
    b"", b"hello", b"\0" * 10_240, os.urandom(5000), tar(("etc/passwd", b"root")), PLAIN[:700],
], ids=["empty", "short", "zeros", "noise", "filesystem", "cut"])
def test_what_is_no_archive(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "archive").write_bytes(data)
    with pytest.raises(InvalidArchive):
        ArchiveSource(tmp_path / "archive", scratch=tmp_path)


def test_cut_compressed_archive(tmp_path: Path) -> None:
    for pack in (gzip.compress, zstd):
        packed = pack(PLAIN)
        with pytest.raises(InvalidArchive, match="cut"):
            ArchiveSource(io.BytesIO(packed[: len(packed) // 2]), scratch=tmp_path)
    assert os.listdir(tmp_path) == []


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveNotFound, match="nowhere"):
        ArchiveSource(tmp_path / "nowhere", scratch=tmp_path)
