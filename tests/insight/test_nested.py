"""Containers inside files: opened to a depth, within a budget, and never trusted."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable

import pytest
import zstandard
from tests.insight.planted import NEEDLE, SECRET

from lamina.insight.inflating import Container, container_of
from lamina.insight.nested import NestedLimits, NestedSearch, Trouble
from lamina.insight.zipped import MAX_DIRECTORY
from lamina.testing.images import tar_of

DATA = b"x" * 700 + SECRET + b"y" * 9
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}
# What a stream's reader may still hold beside it, so that a test of memory is about the stream.
ROOM = 40 << 20


def search(data: bytes, limits: NestedLimits | None = None) -> tuple[list[tuple[tuple[str, ...], int]], list[Trouble]]:
    container = container_of(data[:512])
    assert container is not None
    found, troubles = NestedSearch([NEEDLE], limits).search(io.BytesIO(data), container, len(data))
    return [(each.trail, each.match.offset) for each in found], troubles


def a_zip(method: int = zipfile.ZIP_DEFLATED, **files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return out.getvalue()


@pytest.mark.parametrize(("head", "expected"), [
    (gzip.compress(b"", mtime=0), Container.GZIP), (bz2.compress(b""), Container.BZIP2), (bz2.compress(b"x"), Container.BZIP2),
    (lzma.compress(b""), Container.XZ), (COMPRESSORS["zstd"](b""), Container.ZSTD),
    (b"\x50\x2a\x4d\x18" + bytes(8), Container.ZSTD), (tar_of({"a": b""}), Container.TAR),
    (a_zip(a=b"1"), Container.ZIP), (b"#!/usr/bin/env python3\n" + a_zip(a=b"1"), Container.ZIP),
    (b"", None), (b"\x1f\x8b", None), (b"\x1f\x8b\x08\xe0" + bytes(9), None), (b"BZh9 not", None), (b"PK\x05\x06", None),
    (b"#!/bin/sh\necho PK\x03\x04", None), (b"\x7fELF" + bytes(600), None),
])
def test_what_a_file_is(head: bytes, expected: Container | None) -> None:
    assert container_of(head[:512]) is expected


@pytest.mark.parametrize("name", COMPRESSORS)
def test_compressed_files(name: str) -> None:
    compress = COMPRESSORS[name]
    assert search(compress(DATA)) == ([((), 700)], [])
    assert search(compress(b"first") + compress(DATA)) == ([((), 705)], [])
    assert search(compress(tar_of({"a": b"1", "d/b": DATA}))) == ([(("d/b",), 700)], [])


@pytest.mark.parametrize("name", COMPRESSORS)
def test_cut_off(name: str) -> None:
    _found, (trouble,) = search(COMPRESSORS[name](DATA)[:-3])
    assert (trouble.trail, trouble.is_undecided) == ((), False)
    assert "cut off" in trouble.reason


@pytest.mark.parametrize("name", COMPRESSORS)
def test_damaged(name: str) -> None:
    data = bytearray(COMPRESSORS[name](bytes(range(256)) * 40))
    data[len(data) // 2 : len(data) // 2 + 40] = b"\xff" * 40
    found, (trouble,) = search(bytes(data))
    assert (found, trouble.is_undecided) == ([], False)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip(method: int) -> None:
    assert search(a_zip(method, a=b"1", b=DATA)) == ([(("b",), 700)], [])


def test_a_stored_member_is_searched_with_the_archive_and_opened_all_the_same() -> None:
    assert search(a_zip(zipfile.ZIP_STORED, a=DATA, **{"b.gz": gzip.compress(DATA)})) == ([(("b.gz",), 700)], [])


def test_names_and_padding_of_a_tar_are_content_too() -> None:
    tar = tar_of({"a": b"1", f"dir/{SECRET.decode()}": b"2"})
    found, troubles = search(gzip.compress(tar + bytes(512) + SECRET))
    assert [trail for trail, _offset in found] == [
        (f"dir/{SECRET.decode()}", "(header)"), (f"dir/{SECRET.decode()}",)]
    assert troubles == []


def test_members_of_a_tar_with_very_many_are_named() -> None:
    files = {f"f{number}": b"" for number in range(20_000)}
    files["f500"] = files["f19000"] = SECRET
    found, troubles = search(gzip.compress(tar_of(files)))
    assert sorted(found) == [(("f19000",), 0), (("f500",), 0)]
    assert troubles == []


def test_depth() -> None:
    three = a_zip(**{"a.tgz": gzip.compress(tar_of({"x": DATA}))})
    assert search(three) == ([(("a.tgz", "x"), 700)], [])
    four = a_zip(**{"a.tgz": gzip.compress(tar_of({"x.gz": gzip.compress(DATA)}))})
    assert search(four) == ([], [Trouble(trail=("a.tgz", "x.gz"), reason="gzip: more than 3 archives deep",
                                         is_undecided=True)])
    assert search(four, NestedLimits(depth=4)) == ([(("a.tgz", "x.gz"), 700)], [])


# -- hostile ones

SMALL = NestedLimits(free_bytes=1 << 20, max_ratio=2, total_bytes=3 << 20)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_bombs_end_as_a_sentence(name: str) -> None:
    bomb = COMPRESSORS[name](bytes(8 << 20) + SECRET)
    assert search(bomb, SMALL) == ([], [Trouble(
        trail=(), reason=f"{name}: gives more than the 1048576 bytes that are searched of it", is_undecided=True)])


def test_a_bomb_within_a_zip_within_a_file() -> None:
    found, (trouble,) = search(a_zip(a=b"1", b=gzip.compress(bytes(8 << 20))), SMALL)
    assert (found, trouble.is_undecided) == ([], True)


def test_what_was_found_before_the_limit_is_kept() -> None:
    found, (trouble,) = search(gzip.compress(SECRET + bytes(8 << 20)), SMALL)
    assert (found, trouble.is_undecided) == ([((), 0)], True)


def test_many_small_bombs_share_one_budget() -> None:
    search_all = NestedSearch([NEEDLE], SMALL)
    file = gzip.compress(bytes(900_000))
    reasons = []
    for _ in range(5):
        reasons += [each.reason for each in search_all.search(io.BytesIO(file), Container.GZIP, len(file))[1]]
    assert reasons == ["gzip: the budget of 3145728 bytes for all files is used up"] * 2
    assert search_all.inflated_bytes < 6 << 20


def test_a_quine_stops() -> None:
    """A file that inflates to itself is a container in a container without end; the depth ends it."""
    inner = b"end"
    for _ in range(30):
        inner = gzip.compress(inner)
    assert [each.is_undecided for each in search(inner)[1]] == [True]


def test_memory_stays_flat() -> None:
    bomb = gzip.compress(bytes(200 << 20), compresslevel=1)
    tracemalloc.start()
    try:
        search(bomb)
        assert tracemalloc.get_traced_memory()[1] < ROOM
    finally:
        tracemalloc.stop()


def test_windows_that_need_too_much_memory_are_undecided() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
    found, (trouble,) = search(lzma.compress(DATA, filters=filters))
    assert (trouble.reason, trouble.is_undecided) == ("xz: needs more than 134217728 bytes of memory", True)
    frame = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([21 << 3]) + bytes(8)
    found, (trouble,) = search(frame)
    assert (found, trouble.is_undecided) == ([], True)
    assert "window" in trouble.reason


def test_a_zip_whose_directory_is_too_large_is_undecided() -> None:
    data = bytearray(a_zip(a=DATA))
    at = data.rindex(b"PK\x05\x06")
    struct.pack_into("<I", data, at + 12, MAX_DIRECTORY + 1)
    found, (trouble,) = search(bytes(data))
    assert (found, trouble.is_undecided) == ([], True)


def test_an_encrypted_member_is_noted() -> None:
    data = bytearray(a_zip(a=DATA, b=DATA))
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + flags] |= 1
    assert search(bytes(data)) == ([(("b",), 700)], [
        Trouble(trail=("a",), reason="zip: encrypted", is_undecided=False)])


def test_a_member_that_is_damaged_does_not_hide_the_others() -> None:
    data = bytearray(a_zip(a=bytes(range(256)) * 4, b=DATA))
    data[40:60] = b"\xff" * 20
    found, (trouble,) = search(bytes(data))
    assert (found, trouble.trail) == ([(("b",), 700)], ("a",))


def test_a_tar_that_layers_could_not_hold_is_searched_as_bytes() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("sparse")
        info.type = b"S"
        archive.addfile(info)
        info = tarfile.TarInfo("a")
        info.size = len(DATA)
        archive.addfile(info, io.BytesIO(DATA))
    found, (trouble,) = search(gzip.compress(out.getvalue()))
    assert ([offset for _trail, offset in found], trouble.is_undecided) == ([1024 + 700], False)


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_troubles_of_one_sort_do_not_hide_the_other(count: int) -> None:
    members = {f"bad{number}": b"\x1f\x8b\x08\x00" + bytes(30) for number in range(count * 4)}
    deep = gzip.compress(gzip.compress(gzip.compress(b"1")))
    _found, troubles = search(a_zip(**members, deep=deep))
    assert [each.is_undecided for each in troubles].count(True) == 1
    assert len(troubles) <= 101
