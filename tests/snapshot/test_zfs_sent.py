"""What is read from a stream of ``zfs send -i``: made here record by record, as the real ones of the driver's tests."""

from __future__ import annotations

import contextlib
import io
import stat
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.snapshot.zfs.sent import SentUnknown, read_sent

FILE, DIRECTORY, MASTER = stat.S_IFREG, stat.S_IFDIR, 0
ALL = (1 << 64) - 1


def record(kind: int, body: bytes, payload: bytes = b"", head: int = 0) -> bytes:
    return struct.pack("=II", kind, head) + body.ljust(304, b"\0") + payload


BEGIN = record(0, struct.pack("=Q", 0x2F5BACBAC))
END = record(5, bytes(32))


def entry(number: int, kind: int, parent: int, *, is_attribute: bool = False, bonus: int = 17) -> bytes:
    """An OBJECT, and the FREE that comes with it."""
    content = {FILE: 19, DIRECTORY: 20, MASTER: 21}[kind]
    znode = struct.pack("=9QQQQ3QQQQ", *range(9), kind | 0o644, 3, parent, *range(3), is_attribute, 0, 0).ljust(264, b"\7")
    if kind == MASTER:
        bonus, znode = 0, b""
    head = struct.pack("=QIIII", number, content, bonus, 512, len(znode))
    return record(1, head, znode.ljust(-(-len(znode) // 8) * 8)) + free(number, 512, ALL)


def free(number: int, begin: int, length: int) -> bytes:
    return record(4, struct.pack("=QQQ", number, begin, length))


def write(number: int, size: int = 512) -> bytes:
    return record(3, struct.pack("=QIIQQ", number, 19, 0, 0, size), bytes(size))


def read(*records: bytes) -> set[int]:
    return set(read_sent(io.BytesIO(BEGIN + b"".join(records) + END)))


def test_files_and_directories() -> None:
    assert read(entry(1, MASTER, 0), entry(7, FILE, 3), write(7), entry(9, DIRECTORY, 3), record(2, bytes(24))) == {7, 9}


def test_an_attribute_is_its_files() -> None:
    """Which was not sent itself; only the directory of its attributes was, as it is among the same 32."""
    records = entry(20, DIRECTORY, 5, is_attribute=True), entry(21, FILE, 20, is_attribute=True)
    assert read(*records) == set()
    assert read(*records, write(21)) == {5}
    assert read(*records, free(21, 0, 512)) == {5}, "made empty"
    assert read(*records, write(20)) == {5}, "one more, or one less"


def test_an_attribute_of_nobody_knows_whom() -> None:
    record = entry(21, FILE, 20, is_attribute=True)
    assert read(record) == set()
    with pytest.raises(SentUnknown, match="object 21: an attribute of a file that was not sent"):
        read(record, write(21))


@pytest.mark.parametrize(("records", "message"), [
    ([entry(7, FILE, 3, bonus=44)], "object 7: expected a znode, got type 44"),
    ([record(7, bytes(304))], "unknown kind 7"),
    ([record(8, bytes(304))], "unknown kind 8"),
    ([record(1, struct.pack("=QIIII", 7, 19, 17, 512, 1 << 20))], "a payload of 1048576 bytes"),
    ([record(3, struct.pack("=QIIQQ", 7, 19, 0, 0, 1 << 40))], "a payload of"),
    ([record(1, struct.pack("=QIIII", 7, 19, 17, 512, 8), bytes(8))], "expected a znode"),
])
def test_what_is_not_known(records: list[bytes], message: str) -> None:
    with pytest.raises(SentUnknown, match=message):
        read(*records)


@pytest.mark.parametrize("data", [b"", END, record(0, struct.pack(">Q", 0x2F5BACBAC)), record(0, BEGIN[8:16], b"x" * 8, head=8)])
def test_what_does_not_begin_as_a_stream(data: bytes) -> None:
    with pytest.raises(SentUnknown):
        read_sent(io.BytesIO(data + END))


def test_one_that_ends_early() -> None:
    whole = BEGIN + entry(7, FILE, 3) + write(7) + END
    for size in range(0, len(whole), 13):
        with pytest.raises(SentUnknown, match="ends early"):
            read_sent(io.BytesIO(whole[:size]))


@given(st.binary(max_size=2000))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(SentUnknown):
        read_sent(io.BytesIO(BEGIN + data))


class Trickle(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 7))


def test_a_pipe_gives_what_is_in_it() -> None:
    assert read_sent(Trickle(BEGIN + entry(7, FILE, 3) + write(7) + END)) == {7}
