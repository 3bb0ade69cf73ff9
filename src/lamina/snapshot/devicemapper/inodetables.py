"""Where on its device a filesystem keeps an inode: ext4's tables, and what xfs' numbers say."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Protocol

from lamina.errors import Unsupported

# So many bytes of the device from a place on.
Read = Callable[[int, int], bytes]

# fs/ext4/ext4.h: struct ext4_super_block.
_EXT4, _EXT4_LENGTH = 1024, 1024
# INCOMPAT_: FILETYPE, RECOVER, EXTENTS, 64BIT, FLEX_BG, EA_INODE, CSUM_SEED, LARGEDIR, INLINE_DATA. With
# others, as META_BG, descriptors or tables may be elsewhere.
_KNOWN = 0x0002 | 0x0004 | 0x0040 | 0x0080 | 0x0200 | 0x0400 | 0x2000 | 0x4000 | 0x8000
_64BIT = 0x0080
_SHORT, _LONG = 32, 64
# fs/xfs/libxfs/xfs_format.h: struct xfs_dsb.
_XFS_LENGTH = 512


class InodesUnknown(Unsupported):
    """A filesystem, or a form of one, whose inodes we do not find."""


class Inodes(Protocol):
    """``size`` of each in bytes; ``unsteady`` are parts of it that change when a file is only read."""

    @property
    def size(self) -> int: ...

    @property
    def unsteady(self) -> tuple[slice, ...]: ...

    def place(self, number: int) -> int:
        """In bytes from the device's beginning."""


def read_inodes(read: Read) -> Inodes:
    """Raises :class:`InodesUnknown`."""
    if read(0, 4) == b"XFSB":
        return _Xfs(read(0, _XFS_LENGTH))
    superblock = read(_EXT4, _EXT4_LENGTH)
    if superblock[0x38:0x3A] == b"\x53\xef":
        return _Ext4(superblock, read)
    raise InodesUnknown("a device has neither ext4 nor xfs on it")


class _Ext4:
    # struct ext4_inode: i_atime, both halves of the checksum, i_atime_extra.
    unsteady = slice(0x08, 0x0C), slice(0x7C, 0x7E), slice(0x82, 0x84), slice(0x8C, 0x90)

    def __init__(self, superblock: bytes, read: Read) -> None:
        inodes, shift = _number("<I", superblock, 0x00), _number("<I", superblock, 0x18)
        features, revision = _number("<I", superblock, 0x60), _number("<I", superblock, 0x4C)
        size = _number("<H", superblock, 0xFE) if features & _64BIT else _SHORT
        if features & ~_KNOWN or revision == 0 or size not in (_SHORT, _LONG):
            raise InodesUnknown(f"an ext4 with features {features:#x}: its inodes may be anywhere")
        self._per_group = _number("<I", superblock, 0x28)
        self.size = _number("<H", superblock, 0x58)
        block = 1024 << shift
        # They are in the block after the superblock's.
        descriptors = read((_EXT4 // block + 1) * block, inodes // self._per_group * size)
        self._tables = [_table(descriptors, at, size) * block for at in range(0, len(descriptors), size)]

    def place(self, number: int) -> int:
        group, index = divmod(number - 1, self._per_group)
        return self._tables[group] + index * self.size


def _table(descriptors: bytes, at: int, size: int) -> int:
    """struct ext4_group_desc: the first block of its inodes."""
    low = _number("<I", descriptors, at + 0x08)
    return low if size == _SHORT else _number("<I", descriptors, at + 0x28) << 32 | low


def _number(form: str, data: bytes, at: int) -> int:
    found: int
    (found,) = struct.unpack_from(form, data, at)
    return found


class _Xfs:
    """A number is that of an allocation group, of a block in it, and of an inode in that."""

    # struct xfs_dinode: di_atime; di_crc, di_changecount and di_lsn.
    unsteady = slice(32, 40), slice(100, 120)

    def __init__(self, superblock: bytes) -> None:
        self._block, self._group_blocks = (_number(">I", superblock, at) for at in (4, 84))
        self.size = _number(">H", superblock, 104)
        self._in_block, self._in_group = superblock[123], superblock[124]

    def place(self, number: int) -> int:
        group, rest = divmod(number, 1 << self._in_group + self._in_block)
        block, index = divmod(rest, 1 << self._in_block)
        return (group * self._group_blocks + block) * self._block + index * self.size
