"""The kernel's interface to btrfs, as functions that raise ``OSError`` (linux/btrfs.h).

Layouts are the header's on machines of 64 bits. ``fcntl`` takes what is larger than 1,024 bytes only as a
buffer that may change. Descriptors are of directories; those of a subvolume's root stand for the subvolume.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import sys
import uuid
from collections.abc import Iterator

# BTRFS_FIRST_FREE_OBJECTID: the inode number of every subvolume's root directory, and the first subvolume's.
ROOT_INODE = 256
_FIRST_SUBVOLUME = 256
_LAST_SUBVOLUME = (1 << 64) - 256
_ROOT_TREE = 1
_ROOT_ITEM, _ROOT_REF = 132, 156
_MAX = (1 << 64) - 1

_WRITE, _READ, _BOTH = 1, 2, 3


def _number(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | 0x94 << 8 | number


_ARGUMENTS = 4096  # struct btrfs_ioctl_vol_args_v2, and others that are padded to a page
_SEARCH = 112  # struct btrfs_ioctl_search_args_v2 without its buffer
_SEARCH_BUFFER = 64 * 1024
_PATHS_BUFFER = 4096  # the kernel uses no more (btrfs_ioctl_ino_to_path)

_SYNC = _number(0, 8, 0)
_TREE_SEARCH = _number(_BOTH, 17, _SEARCH)
_INO_LOOKUP = _number(_BOTH, 18, _ARGUMENTS)
_SNAPSHOT_CREATE = _number(_WRITE, 23, _ARGUMENTS)
_SUBVOLUME_CREATE = _number(_WRITE, 24, _ARGUMENTS)
_GET_FLAGS = _number(_READ, 25, 8)
_SET_FLAGS = _number(_WRITE, 26, 8)
_FS_INFO = _number(_READ, 31, 1024)
_INO_PATHS = _number(_BOTH, 35, 56)
_SEND = _number(_WRITE, 38, 72)
_QUOTA_CONTROL = _number(_BOTH, 40, 16)
_QGROUP_CREATE = _number(_WRITE, 42, 16)
_QGROUP_LIMIT = _number(_READ, 43, 48)
_SUBVOLUME_REFERENCES = _number(_BOTH, 61, _ARGUMENTS)
_INO_LOOKUP_USER = _number(_BOTH, 62, _ARGUMENTS)
_SNAPSHOT_DESTROY = _number(_WRITE, 63, _ARGUMENTS)

_READ_ONLY = 1 << 1  # BTRFS_SUBVOL_RDONLY
_BY_ID = 1 << 4  # BTRFS_SUBVOL_SPEC_BY_ID
_NAME = 56  # where the name is in the arguments
_SEND_NO_FILE_DATA = 1
_ENABLE_SIMPLE_QUOTA = 4  # since Linux 6.7
_LIMIT_EXCLUSIVE = 1 << 1  # BTRFS_QGROUP_LIMIT_MAX_EXCL


# -- filesystems


def filesystem_of(directory: int) -> uuid.UUID | None:
    """Which btrfs this is; ``None`` for another filesystem, which does not know the call."""
    answer = bytearray(1024)
    try:
        fcntl.ioctl(directory, _FS_INFO, answer)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            return None
        raise
    return uuid.UUID(bytes=bytes(answer[16:32]))


# -- subvolumes


def create_subvolume(directory: int, name: str) -> None:
    fcntl.ioctl(directory, _SUBVOLUME_CREATE, _arguments(name=name))


def create_snapshot(source: int, directory: int, name: str, *, is_read_only: bool = False) -> None:
    """What was written to the source is in it, and on the disk with it: the transaction is committed.

    Subvolumes in the source are empty directories there.
    """
    flags = _READ_ONLY if is_read_only else 0
    fcntl.ioctl(directory, _SNAPSHOT_CREATE, _arguments(source, flags, name))


def destroy(directory: int, name: str) -> None:
    """What was in there is freed later. ENOTEMPTY if it holds another one (Linux 5.7).

    EPERM for who is not root of the machine, without the mount option ``user_subvol_rm_allowed``.
    """
    fcntl.ioctl(directory, _SNAPSHOT_DESTROY, _arguments(name=name))


def destroy_number(directory: int, number: int) -> None:
    """The same, wherever on the filesystem it is: there is no path to be too long, or to lead astray."""
    arguments = _arguments(flags=_BY_ID)
    struct.pack_into("=Q", arguments, _NAME, number)
    fcntl.ioctl(directory, _SNAPSHOT_DESTROY, arguments)


def sync(directory: int) -> None:
    """Commits a transaction, and wakes the kernel's thread that frees what was destroyed."""
    fcntl.ioctl(directory, _SYNC)


def is_freed(directory: int, number: int) -> bool:
    """Of one that was destroyed. Root's."""
    return not list(_search(directory, (number, number), _ROOT_ITEM))


def is_subvolume(path: str) -> bool:
    """Of a path on btrfs."""
    return os.lstat(path).st_ino == ROOT_INODE


def number_of(directory: int) -> int:
    """The subvolume's number, never given again."""
    answer = bytearray(_ARGUMENTS)
    struct.pack_into("=QQ", answer, 0, 0, ROOT_INODE)
    fcntl.ioctl(directory, _INO_LOOKUP, answer)
    number: int = struct.unpack_from("=Q", answer)[0]
    return number


def is_read_only(subvolume: int) -> bool:
    answer = bytearray(8)
    fcntl.ioctl(subvolume, _GET_FLAGS, answer)
    return bool(int.from_bytes(answer, sys.byteorder) & _READ_ONLY)


def set_read_only(subvolume: int, value: bool) -> None:
    """Commits a transaction, but not what is still to be written of files."""
    fcntl.ioctl(subvolume, _SET_FLAGS, struct.pack("=Q", _READ_ONLY if value else 0))


def subvolumes_below(directory: int, number: int) -> list[int]:
    """The numbers of those right inside another one. Root's."""
    return [offset for _object, offset in _search(directory, (number, number), _ROOT_REF)]


def all_subvolumes(directory: int) -> set[int]:
    """Of the whole filesystem, with those that are deleted and not freed yet. Root's."""
    return {item for item, _offset in _search(directory, (_FIRST_SUBVOLUME, _LAST_SUBVOLUME), _ROOT_ITEM)}


def places_below(subvolume: int) -> list[str]:
    """The paths of those right inside. For everybody (Linux 4.18)."""
    return [_place(subvolume, *each) for each in _references(subvolume)]


def _references(subvolume: int) -> Iterator[tuple[int, int]]:
    """Numbers of subvolumes, and of the directories that they are in."""
    lowest = 0
    while True:
        answer = bytearray(_ARGUMENTS)
        struct.pack_into("=Q", answer, 0, lowest)
        try:
            fcntl.ioctl(subvolume, _SUBVOLUME_REFERENCES, answer)
        except OSError as error:
            if error.errno != errno.EOVERFLOW:  # there are more: they are asked for next
                raise
            is_last = False
        else:
            is_last = True
        count = answer[8 + 255 * 16]
        yield from (struct.unpack_from("=QQ", answer, 8 + 16 * number) for number in range(count))
        if is_last or not count:
            return
        lowest = struct.unpack_from("=Q", answer, 8 + 16 * (count - 1))[0] + 1


def _place(subvolume: int, number: int, directory: int) -> str:
    answer = bytearray(_ARGUMENTS)
    struct.pack_into("=QQ", answer, 0, directory, number)
    fcntl.ioctl(subvolume, _INO_LOOKUP_USER, answer)
    name, above = (bytes(part).split(b"\0", 1)[0] for part in (answer[16:272], answer[272:]))
    return os.fsdecode(above + name)


# -- files


def names_of(subvolume: int, inode: int) -> list[str] | None:
    """All paths of a file; ``None`` for more than the kernel says at once (4 KiB). Root's."""
    buffer = ctypes.create_string_buffer(_PATHS_BUFFER)
    question = struct.pack("=7Q", inode, _PATHS_BUFFER, 0, 0, 0, 0, ctypes.addressof(buffer))
    fcntl.ioctl(subvolume, _INO_PATHS, bytearray(question))
    _left, _missing, count, missed = struct.unpack_from("=4I", buffer)
    if missed:
        return None
    # Each is counted from the end of the head, of 16 bytes.
    offsets = struct.unpack_from(f"={count}Q", buffer, 16)
    return [os.fsdecode(buffer.raw[16 + offset :].split(b"\0", 1)[0]) for offset in offsets]


def send(subvolume: int, parent: int, out: int) -> None:
    """Writes what makes ``subvolume`` out of the subvolume with the number ``parent``, but no data of files.

    Both are read-only. Returns when all is written. Root's.
    """
    fcntl.ioctl(subvolume, _SEND, bytearray(struct.pack(
        "=qQQQQI28x", out, 0, 0, parent, _SEND_NO_FILE_DATA, 0
    )))


# -- quotas


def enable_simple_quotas(directory: int) -> None:
    """EINVAL before Linux 6.7. Does nothing where quotas of any kind are on."""
    fcntl.ioctl(directory, _QUOTA_CONTROL, bytearray(struct.pack("=QQ", _ENABLE_SIMPLE_QUOTA, 0)))


def limit_exclusive(directory: int, number: int, size: int) -> None:
    """What a subvolume may take without what it shares with others."""
    question = struct.pack("=6Q", number, _LIMIT_EXCLUSIVE, 0, size, 0, 0)
    fcntl.ioctl(directory, _QGROUP_LIMIT, bytearray(question))


def remove_qgroup(directory: int, number: int) -> None:
    """EBUSY while bytes are counted for it."""
    fcntl.ioctl(directory, _QGROUP_CREATE, struct.pack("=QQ", 0, number))


# -- arguments and answers


def _arguments(descriptor: int = 0, flags: int = 0, name: str = "") -> bytearray:
    made = bytearray(_ARGUMENTS)
    struct.pack_into("=qQQ", made, 0, descriptor, 0, flags)
    encoded = os.fsencode(name)
    made[_NAME : _NAME + len(encoded)] = encoded
    return made


def _search(directory: int, objects: tuple[int, int], kind: int) -> Iterator[tuple[int, int]]:
    """Object and offset of each item of one kind in the tree of trees.

    The kernel compares object, kind and offset as one number: between two objects are items of any kind.
    """
    (item, highest), found, offset = objects, kind, 0
    while True:
        answer = bytearray(_SEARCH + _SEARCH_BUFFER)
        struct.pack_into(
            "=7Q3I", answer, 0, _ROOT_TREE, item, highest, offset, _MAX, 0, _MAX, found, kind, _SEARCH_BUFFER
        )
        struct.pack_into("=Q", answer, _SEARCH - 8, _SEARCH_BUFFER)
        fcntl.ioctl(directory, _TREE_SEARCH, answer)
        count = struct.unpack_from("=I", answer, 64)[0]
        place = _SEARCH
        for _ in range(count):
            _transaction, item, offset, found, length = struct.unpack_from("=3Q2I", answer, place)
            place += 32 + length
            if found == kind:
                yield item, offset
        if not count:
            return
        offset += 1
