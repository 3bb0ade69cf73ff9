"""Reading and writing tars: every format in the wild, and everything that must be refused."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from typing import Any

import pytest
from tests.layer.tarbytes import (
    BLK,
    BLOCK,
    CHR,
    DIR,
    FIFO,
    HARD,
    SYM,
    base256,
    device,
    directory,
    file,
    gnu_long,
    hardlink,
    header,
    member,
    padded,
    pax,
    record,
    symlink,
    tar,
)

from lamina.layer.entry import Entry, InvalidLayer, Kind, PathEscapes
from lamina.layer.tarstream import TarLimits, TarReader, TarWriter, TruncatedTar, read_entries, write_entries

LONG = "d" * 90 + "/" + "f" * 120


def read(data: bytes, **options: Any) -> list[Entry]:
    return list(TarReader(io.BytesIO(data), **options))


def one(*members: bytes) -> Entry:
    (entry,) = read(tar(*members))
    return entry


def content(*members: bytes) -> bytes:
    for entry in read_entries(io.BytesIO(tar(*members))):
        assert entry.open is not None
        with entry.open() as stream:
            return stream.read()
    raise AssertionError("no entry")


# -- formats


def written_by_python(tar_format: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format) as archive:
        for name, kind in (("d", DIR), ("d/f", b"0"), ("d/s", SYM), ("d/h", HARD), ("p", FIFO), ("c", CHR), ("b", BLK)):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.gid, info.mtime = kind, 0o640, 1000, 1001, 1_700_000_000
            info.linkname = {"d/s": "../x", "d/h": "d/f"}.get(name, "")
            if name == "d/f":
                info.size = 700
            if name in "cb":
                info.devmajor, info.devminor = 4, 5
            archive.addfile(info, io.BytesIO(b"x" * 700))
        if tar_format != tarfile.USTAR_FORMAT:
            archive.addfile(tarfile.TarInfo(LONG))
            big = tarfile.TarInfo("big-owner")
            big.uid = 2_500_000
            archive.addfile(big)
    return out.getvalue()


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_python_writes(tar_format: int) -> None:
    entries = {entry.path: entry for entry in read(written_by_python(tar_format))}
    assert [entry.kind for entry in entries.values()][:7] == [
        Kind.DIRECTORY, Kind.FILE, Kind.SYMLINK, Kind.HARDLINK, Kind.FIFO, Kind.CHAR, Kind.BLOCK]
    found = entries["d/f"]
    assert (found.mode, found.uid, found.gid, found.mtime, found.size) == (0o640, 1000, 1001, 1_700_000_000 * 10**9, 700)
    assert entries["d/s"].linkname == "../x"
    assert entries["d/h"].linkname == "d/f"
    assert (entries["c"].major, entries["b"].minor) == (4, 5)
    if tar_format != tarfile.USTAR_FORMAT:
        assert LONG in entries
        assert entries["big-owner"].uid == 2_500_000


def test_v7_knows_directories_by_their_slash() -> None:
    assert one(header("d/", b"\0", magic=b"")).kind is Kind.DIRECTORY
    assert one(header("f", b"\0", magic=b"")).kind is Kind.FILE


def test_a_slash_makes_no_directory_of_a_modern_file() -> None:
    entry = one(file("f/", b"1"))
    assert (entry.path, entry.kind) == ("f", Kind.FILE)


def test_contiguous_files_are_files() -> None:
    assert content(member("f", b"1", b"7")) == b"1"


def test_prefix_belongs_to_posix_alone() -> None:
    assert one(header("f", prefix=b"p/q")).path == "p/q/f"
    assert one(header("f", prefix=b"p/q", magic=b"ustar  \0")).path == "f"


def test_names_fill_their_field() -> None:
    assert one(header("n" * 100, link="l")).path == "n" * 100
    assert one(header("s", SYM, link="l" * 100)).linkname == "l" * 100


def test_gnu_long_names_win_over_pax() -> None:
    assert one(pax({"path": "pax"}), gnu_long("gnu"), file("short")).path == "gnu"
    assert one(gnu_long(LONG, b"K"), symlink("s", "short")).linkname == LONG


def test_pax_overrides_the_header() -> None:
    entry = one(
        pax({"path": LONG, "uid": "3000000000", "gid": "7", "mtime": "-1.5", "size": "3", "comment": "é", "ctime": "x"}),
        header("short", uid=1, gid=2, mtime=3, size=700) + padded(b"abc"),
    )
    assert (entry.path, entry.uid, entry.gid, entry.mtime, entry.size) == (LONG, 3000000000, 7, -1_500_000_000, 3)


def test_an_empty_pax_value_takes_it_back() -> None:
    assert one(pax({"uid": ""}), file("f", uid=5)).uid == 5


def test_a_pax_header_is_for_one_entry() -> None:
    entries = read(tar(pax({"uid": "9", "SCHILY.xattr.user.a": "1"}), file("a"), file("b")))
    assert [(entry.uid, dict(entry.xattrs)) for entry in entries] == [(9, {"user.a": b"1"}), (0, {})]


def test_global_headers_hold_until_said_otherwise() -> None:
    entries = read(tar(
        pax({"gid": "4", "SCHILY.xattr.user.a": "1"}, b"g"), file("a"),
        pax({"gid": "5"}, b"g"), pax({"SCHILY.xattr.user.b": "2", "uid": "6"}), file("b"), file("c"),
    ))
    assert [(entry.uid, entry.gid, dict(entry.xattrs)) for entry in entries] == [
        (0, 4, {"user.a": b"1"}), (6, 5, {"user.a": b"1", "user.b": b"2"}), (0, 5, {"user.a": b"1"})]


def test_solaris_pax_headers() -> None:
    assert one(pax({"path": "x"}, b"X"), file("f")).path == "x"


def test_times() -> None:
    for text, nanoseconds in (
        ("1", 10**9), ("0.1", 10**8), (".5", 5 * 10**8), ("1.", 10**9), ("-0.000000001", -1),
        ("1700000000.1234567891", 1_700_000_000_123_456_789), ("9" * 30, 2**63 - 1), ("-" + "9" * 30, -(2**63)),
    ):
        assert one(pax({"mtime": text}), file("f")).mtime == nanoseconds
    assert one(file("f", mtime=base256(-5, 12))).mtime == -5 * 10**9


def test_spaces_and_missing_ends_of_numbers() -> None:
    assert one(file("f", uid=b"   17 \0\0", gid=b"00000021", mtime=b" " * 12)).uid == 15
    assert one(file("f", gid=b"00000021")).gid == 17


def test_signed_checksums_of_old_tars() -> None:
    block = bytearray(header(b"\xff\xfe", b"0"))
    block[148:156] = b" " * 8
    total = sum(byte if byte < 128 else byte - 256 for byte in block)
    assert one(header(b"\xff\xfe", b"0", checksum=b"%06o\0 " % total)).path == "\udcff\udcfe"


def test_overlay_xattrs_never_get_in() -> None:
    entry = one(pax({"SCHILY.xattr.trusted.overlay.redirect": "/x", "SCHILY.xattr.user.overlay.opaque": "y",
                     "SCHILY.xattr.user.overlaid": "z"}), directory("a"))
    assert entry.xattrs == {"user.overlaid": b"z"}


def test_names_of_any_bytes() -> None:
    assert [entry.path for entry in read(tar(file("é"), file(b"a\xff"), file("new\nline")))] == ["é", "a\udcff", "new\nline"]


@pytest.mark.parametrize(("raw", "path"), [
    ("./", ""), ("/", ""), (".", ""), ("././a", "a"), (".//a", "a"), ("a/./b/", "a/b"), ("a//b//", "a/b"),
    ("/a", "a"), (".a", ".a"), ("..a", "..a"), ("a/..b/.c", "a/..b/.c"), ("a/../b", "b"), ("...", "..."),
])
def test_spellings(raw: str, path: str) -> None:
    assert one(directory(raw)).path == path


@pytest.mark.parametrize("raw", ["..", "../", "../a", "/..", "./..", "a/../..", "a/../../b", "./../a"])
def test_names_that_lead_out(raw: str) -> None:
    with pytest.raises(PathEscapes):
        one(directory(raw))


# -- where things are


def test_offsets() -> None:
    data = tar(directory("d"), pax({"path": LONG}), file("f", b"x" * 600), file("g"))
    first, second, third = read(data)
    assert (first.header_offset, first.data_offset) == (0, -1)
    assert second.header_offset == BLOCK
    assert second.data_offset == BLOCK * 4
    assert data[second.data_offset :][: second.size] == b"x" * 600
    assert third.header_offset == second.data_offset + 2 * BLOCK


def test_skeleton_is_given_before_content() -> None:
    """Who writes both to one place needs them in order."""
    data = tar(directory("d"), file("f", b"x" * 600), file("g", b"y")) + b"\0" * 9000
    out = bytearray()
    reader = TarReader(io.BytesIO(data), skeleton=out.extend)
    for entry in reader:
        if entry.size:
            assert len(out) == entry.data_offset
            reader.copy_data(out.extend)
    assert out == data


def test_unread_content_is_skipped() -> None:
    data = tar(file("a", b"1" * 5000), file("b", b"2" * 5000), file("c", b"3"))
    reader = TarReader(io.BytesIO(data))
    for entry in reader:
        if entry.path == "b":
            assert entry.open is not None
            assert entry.open().read(10) == b"2" * 10
        if entry.path == "c":
            assert reader.copy_data(lambda chunk: None) == 1
    assert reader.position == len(data)


def test_content_of_an_entry_that_passed() -> None:
    entries = iter(TarReader(io.BytesIO(tar(file("a", b"1"), file("b", b"2")))))
    first, second = next(entries), next(entries)
    assert first.open is not None
    assert second.open is not None
    with pytest.raises(ValueError, match="passed"):
        first.open().read()
    assert second.open().read() == b"2"


@pytest.mark.parametrize("end", [b"", bytes(BLOCK), bytes(2 * BLOCK), bytes(10240), bytes(700), b"\0" * 1024 + b"x" * 99])
def test_ends(end: bytes) -> None:
    data = file("a", b"1") + end
    skeleton = bytearray()
    if len(end) == 700:  # one zero block and a bit
        assert len(read(data, skeleton=skeleton.extend)) == 1
    assert [entry.path for entry in read(data)] == ["a"]


def test_nothing_at_all_is_an_empty_layer() -> None:
    assert read(b"") == []
    assert read(bytes(1024)) == []


class Endless:
    """A header, and then zeros for as long as anybody asks."""

    def __init__(self, head: bytes, size: int) -> None:
        self._head = head
        self._left = size

    def read(self, size: int = -1) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        size = min(size, self._left)
        self._left -= size
        return bytes(size)


@pytest.mark.parametrize("is_read", [True, False])
def test_memory_does_not_grow_with_a_file(is_read: bool) -> None:
    size = 200 << 20
    stream = Endless(header("f", size=size), size + 1024)
    tracemalloc.start()
    try:
        reader = TarReader(stream)
        for _entry in reader:
            assert not is_read or reader.copy_data(len) == size
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_sizes_beyond_octal() -> None:
    size = 1 << 40
    for members in (header("f", size=base256(size, 12)), pax({"size": str(size)}) + header("f")):
        assert next(iter(TarReader(Endless(members, 0)))).size == size


# -- what is refused


@pytest.mark.parametrize(("reason", "members"), [
    ("sparse", header("s", b"S", magic=b"ustar  \0")),
    ("sparse", pax({"GNU.sparse.map": "0,1"}) + file("s")),
    ("sparse", pax({"GNU.sparse.major": "1"}) + file("s")),
    ("type b'V'", header("label", b"V")),
    ("type b'D'", header("dump", b"D")),
    ("type b'M'", header("rest", b"M")),
    ("type b'Z'", header("what", b"Z")),
    ("size of -1", header("f", size=base256(-1, 12))),
    ("size of -", header("f", size=base256(-(2**60), 12))),
    ("size of", header("f", size=base256(2**80, 12))),
    ("number", header("f", size=b"-0000000001\0")),
    ("number", header("f", size=b"0000_000001\0")),
    ("number", header("f", size=b"0x000000001\0")),
    ("octal", header("f", size=b"00000000008\0")),
    ("number", pax({"size": "-1"}) + file("f")),
    ("number", pax({"size": "1e3"}) + file("f")),
    ("number", pax({"size": "9" * 30}) + file("f")),
    ("uid", header("f", uid=base256(-2, 8))),
    ("gid of 4294967295", header("f", gid=base256(0xFFFFFFFF, 8))),
    ("uid or gid of 4294967295", pax({"uid": "4294967295"}) + file("f")),
    ("time", pax({"mtime": "soon"}) + file("f")),
    ("time", pax({"mtime": "--1"}) + file("f")),
    ("NUL", pax({"path": b"a\0b"}) + file("f")),
    ("NUL", pax({"linkpath": b"a\0b"}) + symlink("s", "x")),
    ("symlink to ''", symlink("s", "")),
    ("symlink to", pax({"linkpath": "x" * 4096}) + symlink("s", "x")),
    ("damaged record", pax(b"5 a=b\n\n") + file("f")),
    ("damaged record", pax(b"6 a=bX") + file("f")),
    ("damaged record", pax(b"6 a+b\n") + file("f")),
    ("damaged record", pax(b"6 =ab\n") + file("f")),
    ("damaged record", pax(b"-6 a=b\n") + file("f")),
    ("damaged record", pax(b"0 a=b\n") + file("f")),
    ("damaged record", pax(b"99 a=b\n") + file("f")),
    ("damaged record", pax(b"99999999999999999999 a=b\n") + file("f")),
    ("xattr", pax(record("SCHILY.xattr.", b"x")) + file("f")),
    ("xattr", pax(record("SCHILY.xattr.user." + "n" * 251, b"x")) + file("f")),
    ("xattr", pax(record("SCHILY.xattr.user.n", bytes(65537))) + file("f")),
    ("global", pax({"path": "everything"}, b"g") + file("f")),
    ("global", pax({"size": "1"}, b"g") + file("f")),
    ("0:0", device("c", 0, 0)),
    ("device number", device("c", 4096, 0)),
    ("device number", device("b", 1, 1 << 20, BLK)),
    ("only be a directory", file(".")),
    ("only be a directory", symlink("/", "x")),
    ("only be a directory", hardlink("", "x")),
    ("more than 255", gnu_long("n" * 256) + file("f")),
    ("more than 255", gnu_long("é" * 128) + file("f")),
    ("a path of", gnu_long("d/" * 2048 + "f") + file("f")),
    ("PAX header of", header("p", b"x", size=(1 << 20) + 1)),
    ("long name of", header("p", b"L", size=(1 << 16) + 1)),
    ("long link of", header("p", b"K", size=(1 << 16) + 1)),
    ("directory with", header("d/", b"\0", size=5) + bytes(BLOCK)),
    ("checksum", header("f", checksum=b"000000\0 ")),
    ("half an end mark", bytes(BLOCK) + file("f")),
])
def test_refusals(reason: str, members: bytes) -> None:
    with pytest.raises(InvalidLayer, match=reason) as caught:
        read(tar(members))
    assert "\n" not in str(caught.value)


def test_text_is_no_tar() -> None:
    with pytest.raises(InvalidLayer, match="not a tar"):
        read(b"<html>" + b"x" * 1000)
    with pytest.raises(TruncatedTar):
        read(b"<html>")


@pytest.mark.parametrize("cut", [1, 511, 513, 1000, 1024 + 5, 1024 + 600, 1536 + 600, 2048 + 100])
def test_cut_off(cut: int) -> None:
    whole = pax({"path": "x"}) + file("f", b"x" * 600) + file("g")
    with pytest.raises(TruncatedTar):
        read(whole[:cut])


@pytest.mark.parametrize("head", [pax({"path": "x"}), gnu_long("x"), gnu_long("x", b"K")])
def test_a_header_that_nothing_follows(head: bytes) -> None:
    for end in (b"", bytes(1024)):
        with pytest.raises(TruncatedTar):
            read(head + end)


@pytest.mark.parametrize(("limits", "members"), [
    (TarLimits(entries=2), [file("a"), file("b"), file("c")]),
    (TarLimits(pax=100), [pax({"comment": "c" * 100}), file("a")]),
    (TarLimits(pax=100), [pax({f"SCHILY.xattr.user.{n}": "c" * 50}, b"g") for n in range(3)]),
    (TarLimits(name=100), [gnu_long("n" * 100), file("a")]),
    (TarLimits(path=300), [gnu_long("d/" * 150 + "f"), file("a")]),
])
def test_limits(limits: TarLimits, members: list[bytes]) -> None:
    read(tar(*members))
    with pytest.raises(InvalidLayer):
        read(tar(*members), limits=limits)


def test_trailer_has_a_limit() -> None:
    with pytest.raises(InvalidLayer, match="after the end mark"):
        read(file("a") + bytes(10000), limits=TarLimits(trailer=5000))


# -- writing


def test_python_reads_what_is_written() -> None:
    made = [
        Entry("", Kind.DIRECTORY, 0o755), Entry("d", Kind.DIRECTORY, 0o1777, 5, 6, 7 * 10**9),
        Entry("d/f", Kind.FILE, 0o4755, 3_000_000_000, 2, 1_500_000_000, 700, xattrs={"user.b": b"\0", "user.a": b"1"},
              open=lambda: io.BytesIO(b"x" * 700)),
        Entry(LONG, Kind.SYMLINK, 0o777, linkname="l" * 120), Entry("é", Kind.HARDLINK, linkname="d/f"),
        Entry("c", Kind.CHAR, 0o600, major=5, minor=300), Entry("p" * 90 + "/" + "n" * 90, Kind.FIFO),
    ]
    out = io.BytesIO()
    write_entries(made, out)
    assert len(out.getvalue()) % BLOCK == 0
    with tarfile.open(fileobj=io.BytesIO(out.getvalue()), encoding="utf-8") as archive:
        found = archive.getmembers()
        assert archive.extractfile("d/f").read() == b"x" * 700  # type: ignore[union-attr]
    assert [info.name for info in found] == [".", "d", "d/f", LONG, "é", "c", "p" * 90 + "/" + "n" * 90]
    assert (found[1].mode, found[1].uid, found[1].gid, found[1].mtime) == (0o1777, 5, 6, 7)
    assert (found[2].uid, found[2].pax_headers["mtime"]) == (3_000_000_000, "1.5")
    assert found[2].pax_headers["SCHILY.xattr.user.a"] == "1"
    assert found[3].linkname == "l" * 120
    assert found[4].linkname == "d/f"
    assert (found[5].devmajor, found[5].devminor) == (5, 300)


def test_ordinary_entries_need_no_pax() -> None:
    out = io.BytesIO()
    write_entries([Entry("a/b", mtime=10**9), Entry("d" * 150 + "/f"), Entry("ü\udcff")], out)
    assert len(out.getvalue()) == 5 * BLOCK


def test_position_counts_what_was_written() -> None:
    out = io.BytesIO()
    writer = TarWriter(out)
    writer.write(Entry("f", size=3), io.BytesIO(b"abcdef"))
    assert writer.position == 2 * BLOCK
    writer.finish()
    assert writer.position == len(out.getvalue()) == 4 * BLOCK


def test_content_that_is_not_there() -> None:
    writer = TarWriter(io.BytesIO())
    with pytest.raises(TruncatedTar, match="expected 5 bytes, got 3"):
        writer.write(Entry("f", size=5), io.BytesIO(b"abc"))
    with pytest.raises(ValueError, match="nothing to read"):
        writer.write(Entry("f", size=5))


def test_names_that_cannot_be_written() -> None:
    with pytest.raises(InvalidLayer, match="no sequence of bytes"):
        TarWriter(io.BytesIO()).write(Entry("\ud800"))
    with pytest.raises(InvalidLayer, match="'='"):
        TarWriter(io.BytesIO()).write(Entry("f", xattrs={"user.a=b": b""}))


def test_lengths_of_records_count_themselves() -> None:
    for length in range(80, 120):
        entry = one_written(Entry("f", xattrs={"user.a": b"x" * length}))
        assert entry.xattrs == {"user.a": b"x" * length}


def one_written(entry: Entry) -> Entry:
    out = io.BytesIO()
    write_entries([entry], out)
    (found,) = read(out.getvalue())
    return found
