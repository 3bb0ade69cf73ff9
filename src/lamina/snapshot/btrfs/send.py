"""What a send stream says was touched: the kernel's list of steps from one snapshot to another.

A stream is a program: each step's paths are those of the tree as the steps before have left it (the kernel's
fs/btrfs/send.h; there is no other specification). A file that is new, or in the way of another one, goes by
a name such as ``o257-8-0`` for a while. So a path that differs in the end is named in a step, or lies below a
directory that was renamed. What is named besides does no harm.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Protocol

from lamina.errors import IntegrityError
from lamina.snapshot.touched import Touched
from lamina.values import dataclass

_MAGIC = b"btrfs-stream\0"
_HEAD = struct.Struct("<13sI")
# Length of what follows, command, checksum.
_COMMAND = struct.Struct("<IHI")
_ATTRIBUTE = struct.Struct("<HH")
_SIZE, _PATH, _PATH_TO, _PATH_LINK = 4, 15, 16, 17
_WANTED = (_SIZE, _PATH, _PATH_TO, _PATH_LINK)
# Of a tree that is 400 directories deep the kernel makes a stream in 10 s, of 200 in 0.2 s (Linux 6.18).
_DEEPEST = 256
_MAX_COMMAND = 1 << 20  # data is left out, so the largest holds an xattr of 64 KiB


class SendStreamInvalid(IntegrityError):
    """What the kernel wrote is not what we know as a send stream, or takes it too long."""


class Command(IntEnum):
    """Those that somebody here asks about."""

    SUBVOLUME = 1
    SNAPSHOT = 2
    MAKE_FILE = 3
    MAKE_DIRECTORY = 4
    MAKE_DEVICE = 5
    MAKE_FIFO = 6
    MAKE_SOCKET = 7
    SYMLINK = 8
    RENAME = 9
    LINK = 10
    END = 21
    UPDATE_EXTENT = 22


_BEGINNINGS = (Command.SUBVOLUME, Command.SNAPSHOT)
_MAKING = frozenset(range(Command.MAKE_FILE, Command.SYMLINK + 1))


class Readable(Protocol):
    def read(self, size: int, /) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class Delta:
    """What one snapshot has that another has not: ``size`` bytes of content, and ``inodes``."""

    touched: Touched
    size: int
    inodes: int


def read_delta(stream: Readable) -> Delta:
    """Raises :class:`SendStreamInvalid`, also for one that ends early, or from a tree that is too deep."""
    paths: set[str] = set()
    trees: set[str] = set()
    size = inodes = 0
    for command, values in read_commands(stream):
        if command in _BEGINNINGS:
            continue
        path = os.fsdecode(values.get(_PATH, b""))
        if path.count("/") > _DEEPEST:
            raise SendStreamInvalid(f"send stream: a tree of more than {_DEEPEST} levels")
        if command == Command.RENAME:
            trees.update((path, os.fsdecode(values[_PATH_TO])))
            continue
        paths.add(path)
        if command == Command.LINK:
            paths.add(os.fsdecode(values[_PATH_LINK]))
        elif command == Command.UPDATE_EXTENT:
            size += int.from_bytes(values[_SIZE], "little")
        elif command in _MAKING:
            inodes += 1
    return Delta(Touched(paths=tuple(sorted(paths)), trees=tuple(sorted(trees))), size, inodes)


def read_commands(stream: Readable) -> Iterator[tuple[int, Mapping[int, bytes]]]:
    """Each command with those of its attributes that are paths or sizes; without the last, which ends it."""
    magic, version = _HEAD.unpack(_exactly(stream, _HEAD.size))
    if magic != _MAGIC or version != 1:
        raise SendStreamInvalid(f"send stream: expected version 1, got {magic!r} and version {version}")
    while True:
        length, command, _checksum = _COMMAND.unpack(_exactly(stream, _COMMAND.size))
        if length > _MAX_COMMAND:
            raise SendStreamInvalid(f"send stream: a command of {length} bytes")
        body = _exactly(stream, length)
        if command == Command.END:
            return
        yield command, _attributes(body)


def _attributes(body: bytes) -> dict[int, bytes]:
    found = {}
    place = 0
    while place < len(body):
        if len(body) - place < _ATTRIBUTE.size:
            raise SendStreamInvalid("send stream: an attribute is cut off")
        kind, length = _ATTRIBUTE.unpack_from(body, place)
        place += _ATTRIBUTE.size + length
        if place > len(body):
            raise SendStreamInvalid("send stream: an attribute is cut off")
        if kind in _WANTED:
            found[kind] = body[place - length : place]
    return found


def _exactly(stream: Readable, size: int) -> bytes:
    """A pipe gives what is in it."""
    parts = []
    while size:
        part = stream.read(size)
        if not part:
            raise SendStreamInvalid("send stream: it ends early")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
