"""Tars made byte by byte, so that they can say what no tar writer would. Shares no code with the product."""

from __future__ import annotations

from typing import Any

BLOCK = 512
FILE, HARD, SYM, CHR, BLK, DIR, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"


def octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def base256(value: int, width: int) -> bytes:
    """As GNU tar writes what does not fit: two's complement with the top bit set."""
    raw = (value % (1 << (8 * width - 1))).to_bytes(width, "big")
    return bytes([raw[0] | 0x80]) + raw[1:] if value >= 0 else (value % (1 << 8 * width)).to_bytes(width, "big")


def header(
    name: bytes | str, flag: bytes = FILE, *, mode: int | bytes = 0o644, uid: int | bytes = 0,
    gid: int | bytes = 0, size: int | bytes = 0, mtime: int | bytes = 0, link: bytes | str = b"",
    major: int = 0, minor: int = 0, magic: bytes = b"ustar\x0000", prefix: bytes = b"", checksum: bytes | None = None,
) -> bytes:
    def field(value: int | bytes, width: int) -> bytes:
        return value if isinstance(value, bytes) else octal(value, width)

    def text(value: bytes | str) -> bytes:
        return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")

    block = bytearray(BLOCK)
    for at, width, value in (
        (0, 100, text(name)), (100, 8, field(mode, 8)), (108, 8, field(uid, 8)), (116, 8, field(gid, 8)),
        (124, 12, field(size, 12)), (136, 12, field(mtime, 12)), (148, 8, b" " * 8), (156, 1, flag),
        (157, 100, text(link)), (257, 8, magic), (329, 8, octal(major, 8)), (337, 8, octal(minor, 8)),
        (345, 155, prefix),
    ):
        assert len(value) <= width, (at, value)
        block[at : at + len(value)] = value
    block[148:156] = checksum or b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def record(key: str, value: bytes | str) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    body = b" " + key.encode() + b"=" + raw + b"\n"
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def pax(records: dict[str, bytes | str] | bytes, flag: bytes = b"x") -> bytes:
    body = records if isinstance(records, bytes) else b"".join(record(*item) for item in records.items())
    return header("PaxHeaders/x", flag, size=len(body)) + padded(body)


def gnu_long(text: bytes | str, flag: bytes = b"L") -> bytes:
    raw = (text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")) + b"\0"
    return header("././@LongLink", flag, size=len(raw), magic=b"ustar  \0") + padded(raw)


def member(name: bytes | str, data: bytes = b"", flag: bytes = FILE, **fields: Any) -> bytes:
    fields.setdefault("size", len(data))
    return header(name, flag, **fields) + padded(data)


def tar(*members: bytes) -> bytes:
    return b"".join(members) + bytes(2 * BLOCK)


# -- the words of the table of layer cases


def file(name: bytes | str, data: bytes = b"", **fields: Any) -> bytes:
    return _long(name, lambda short: member(short, data, **fields))


def directory(name: str, mode: int = 0o755, **fields: Any) -> bytes:
    return _long(name, lambda short: header(short, DIR, mode=mode, **fields))


def symlink(name: str, target: str, **fields: Any) -> bytes:
    return header(name, SYM, mode=0o777, link=target, **fields)


def hardlink(name: str, target: str, **fields: Any) -> bytes:
    return header(name, HARD, link=target, **fields)


def fifo(name: str, **fields: Any) -> bytes:
    return header(name, FIFO, **fields)


def device(name: str, major: int, minor: int, flag: bytes = CHR, **fields: Any) -> bytes:
    return header(name, flag, major=major, minor=minor, **fields)


def _long(name: bytes | str, make: Any) -> bytes:
    raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    return make(raw) if len(raw) <= 100 else pax({"path": raw}) + make(raw[:100])
