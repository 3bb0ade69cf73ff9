"""What a stream of ``zfs send -i`` says has changed: the inodes that are not as they were.

A stream is a sequence of records of 312 bytes, some with a payload (OpenZFS: include/sys/zfs_ioctl.h). zfs
finds what to send by blocks, and 32 inodes share one: so an inode that is in a stream need not have changed.
Attributes of a file are an inode each, in a directory that has no name. Neither the file nor that directory
tells when one of them is written to: so of these what counts is content that was sent, and the file is
found upwards.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Protocol

from lamina.errors import IntegrityError
from lamina.values import dataclass

_SIZE, _HEAD, _MAGIC = 312, 8, 0x2F5BACBAC
# dmu_object_type_t: what a file and a directory hold, and what stands beside it: the inode as it was before
# pool version 24, which came with attributes that a stream alone does not explain.
_FILE, _DIRECTORY, _ZNODE = 19, 20, 17
# znode_phys_t begins with these, and others between: mode, parent, flags.
_INODE = struct.Struct("72xQ8xQ24xQ")
_IS_ATTRIBUTE = 1
# Comes with each OBJECT: nothing is beyond its last block.
_EVERYTHING = (1 << 64) - 1
_MAX_BONUS = 1 << 16
_MAX_DATA = 1 << 27
_CHUNK = 1 << 20


class SentUnknown(IntegrityError):
    """A stream that does not say what changed, as far as we know; or one that ends early."""


class Record(IntEnum):
    """Those that are known here. What is gone needs no telling: a directory has changed with it."""

    BEGIN = 0
    OBJECT = 1
    FREE_OBJECTS = 2
    WRITE = 3
    FREE = 4
    END = 5


class Readable(Protocol):
    def read(self, size: int, /) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class _Inode:
    """``parent`` is the directory that it is in; of a directory of attributes, the file that has them."""

    parent: int
    is_directory: bool
    is_attribute: bool


def read_sent(stream: Readable) -> frozenset[int]:
    """Inodes of all files and directories that changed, and maybe of others. Raises :class:`SentUnknown`."""
    inodes: dict[int, _Inode] = {}
    written: set[int] = set()
    for kind, body, bonus in _records(stream):
        if kind is Record.OBJECT:
            number, content, bonus_kind = struct.unpack_from("=QII", body)
            if content in (_FILE, _DIRECTORY):
                inodes[number] = _inode(number, bonus_kind, bonus)
        elif kind is Record.WRITE or (kind is Record.FREE and _length_of_free(body) != _EVERYTHING):
            written.add(*struct.unpack_from("=Q", body))
    files = {number for number, inode in inodes.items() if not inode.is_attribute}
    return frozenset(files.union(_file_of(number, inodes) for number in written & inodes.keys() - files))


def _inode(number: int, kind: int, bonus: bytes) -> _Inode:
    if kind != _ZNODE or len(bonus) < _INODE.size:
        raise SentUnknown(f"zfs stream: object {number}: expected a znode, got type {kind}")
    mode, parent, flags = _INODE.unpack_from(bonus)
    return _Inode(parent, stat.S_ISDIR(mode), bool(flags & _IS_ATTRIBUTE))


def _length_of_free(body: bytes) -> int:
    length: int
    (length,) = struct.unpack_from("=16xQ", body)
    return length


def _file_of(number: int, inodes: Mapping[int, _Inode]) -> int:
    """Whose attribute it is, or whose directory of attributes."""
    inode = inodes[number]
    if not inode.is_directory:
        found = inodes.get(inode.parent)
        if found is None:
            raise SentUnknown(f"zfs stream: object {number}: an attribute of a file that was not sent")
        inode = found
    return inode.parent


def _records(stream: Readable) -> Iterator[tuple[Record, bytes, bytes]]:
    """Each record but the first and the last: its kind, its numbers, and the inode that is in an OBJECT."""
    kind, body = _next(stream)
    if kind is not Record.BEGIN or struct.unpack_from("=Q", body) != (_MAGIC,):
        raise SentUnknown("zfs stream: it does not begin as one of this machine's does")
    while True:
        kind, body = _next(stream)
        if kind is Record.END:
            return
        bonus = b""
        if kind is Record.OBJECT:
            (size,) = struct.unpack_from("=20xI", body)
            bonus = _exactly(stream, _known_size(size, _MAX_BONUS))
        elif kind is Record.WRITE:
            (size,) = struct.unpack_from("=24xQ", body)
            _skip(stream, _known_size(size, _MAX_DATA))
        yield kind, body, bonus


def _next(stream: Readable) -> tuple[Record, bytes]:
    record = _exactly(stream, _SIZE)
    number, size = struct.unpack_from("=II", record)
    try:
        kind = Record(number)
    except ValueError:
        raise SentUnknown(f"zfs stream: a record of the unknown kind {number}") from None
    if kind is Record.BEGIN and size:
        raise SentUnknown(f"zfs stream: it begins with {size} bytes that nobody knows here")
    return kind, record[_HEAD:]


def _known_size(size: int, most: int) -> int:
    """Payloads are padded to eight bytes."""
    if size > most:
        raise SentUnknown(f"zfs stream: a payload of {size} bytes")
    return -(-size // 8) * 8


def _skip(stream: Readable, size: int) -> None:
    while size:
        size -= len(_exactly(stream, min(size, _CHUNK)))


def _exactly(stream: Readable, size: int) -> bytes:
    """A pipe gives what is in it."""
    parts = []
    while size:
        part = stream.read(size)
        if not part:
            raise SentUnknown("zfs stream: it ends early")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
