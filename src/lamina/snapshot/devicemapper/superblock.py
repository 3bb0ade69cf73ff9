"""What a filesystem's superblock says, read from its device: nothing is mounted for it."""

from __future__ import annotations

import contextlib
import os
import struct
import uuid
from pathlib import Path

from lamina.values import dataclass

# fs/ext4/ext4.h: struct ext4_super_block begins at byte 1024, and all its numbers are little-endian.
_BEGIN, _LENGTH = 1024, 1024
_MAGIC, _CHECKSUM = 0x38, 0x3FC
_STATE, _INCOMPATIBLE, _READ_ONLY_COMPATIBLE = 0x3A, 0x60, 0x64
_ERRORS, _RECOVER, _64BIT, _CHECKSUMS = 0x0002, 0x0004, 0x0080, 0x0400
_CASTAGNOLI = 0x82F63B78


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """As it was written last: true once the filesystem is unmounted. ``size`` and ``free`` are bytes."""

    uuid: str
    size: int
    free: int
    inodes: int
    is_at_rest: bool
    has_errors: bool


def read_superblock(node: Path) -> Superblock | None:
    """``None`` for what is neither ext4 nor xfs."""
    with open(node, "rb", buffering=0) as device:
        data = device.read(_BEGIN + _LENGTH)
    if data[:4] == b"XFSB":
        return _xfs(data)
    ext4 = data[_BEGIN:]
    return _ext4(ext4) if ext4[_MAGIC : _MAGIC + 2] == b"\x53\xef" else None


def _xfs(data: bytes) -> Superblock:
    """struct xfs_dsb (fs/xfs/libxfs/xfs_format.h), big-endian. Its log may hold more: never at rest."""
    block, blocks = struct.unpack_from(">IQ", data, 4)
    inodes, free_inodes, free = struct.unpack_from(">QQQ", data, 128)
    return Superblock(
        uuid=_spelled(data[32:48]), size=blocks * block, free=free * block, inodes=inodes - free_inodes,
        is_at_rest=False, has_errors=False,
    )


def _ext4(data: bytes) -> Superblock:
    (incompatible,) = struct.unpack_from("<I", data, _INCOMPATIBLE)
    (state,) = struct.unpack_from("<H", data, _STATE)
    inodes, blocks = struct.unpack_from("<II", data, 0)
    free, free_inodes = struct.unpack_from("<II", data, 12)
    (shift,) = struct.unpack_from("<I", data, 24)
    if incompatible & _64BIT:
        blocks |= struct.unpack_from("<I", data, 0x150)[0] << 32
        free |= struct.unpack_from("<I", data, 0x158)[0] << 32
    block = 1024 << shift
    return Superblock(
        uuid=_spelled(data[0x68:0x78]), size=blocks * block, free=free * block, inodes=inodes - free_inodes,
        is_at_rest=not incompatible & _RECOVER, has_errors=bool(state & _ERRORS),
    )


def _spelled(data: bytes) -> str:
    return str(uuid.UUID(bytes=data))


def mark_for_recovery(node: Path) -> None:
    """An ext4's journal will be read when it is mounted next. One that is empty does no harm."""
    with open(node, "r+b", buffering=0) as device:
        with contextlib.suppress(OSError):
            os.fsync(device.fileno())  # tells of writes that failed before, and tells it once
        device.seek(_BEGIN)
        data = bytearray(device.read(_LENGTH))
        (incompatible,) = struct.unpack_from("<I", data, _INCOMPATIBLE)
        struct.pack_into("<I", data, _INCOMPATIBLE, incompatible | _RECOVER)
        if struct.unpack_from("<I", data, _READ_ONLY_COMPATIBLE)[0] & _CHECKSUMS:
            struct.pack_into("<I", data, _CHECKSUM, checksum(bytes(data[:_CHECKSUM])))
        device.seek(_BEGIN)
        device.write(data)
        os.fsync(device.fileno())


def checksum(data: bytes) -> int:
    """CRC-32C as ext4 has it: not inverted at the end."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _bit in range(8):
            value = value >> 1 ^ (_CASTAGNOLI if value & 1 else 0)
    return value
