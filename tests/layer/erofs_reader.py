"""Reads an EROFS image as the kernel would, from the format's description alone: no code of the product's.

Only what a metadata image over a tar can hold: extended inodes, flat layouts, a device table.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

PREFIXES = {1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security."}


@dataclass
class Inode:
    nid: int
    mode: int
    size: int
    uid: int
    gid: int
    mtime: int
    nlink: int
    layout: int
    raw: int
    xattrs: dict[str, bytes] = field(default_factory=dict)
    after: int = 0  # where inline data begins

    @property
    def device(self) -> tuple[int, int]:
        return (self.raw >> 8) & 0xFFF, (self.raw & 0xFF) | (self.raw >> 12) & 0xFFF00


class Reader:
    """``devices`` are the bytes of the extra devices, in order."""

    def __init__(self, image: bytes, devices: list[bytes]) -> None:
        self.image = image
        magic, _checksum, _compat, self.bits, _slots, root = struct.unpack_from("<IIIBBH", image, 1024)
        assert magic == 0xE0F5E1E2
        (self.inodes,) = struct.unpack_from("<Q", image, 1024 + 16)
        (self.blocks,) = struct.unpack_from("<I", image, 1024 + 36)
        (self.meta,) = struct.unpack_from("<I", image, 1024 + 40)
        (incompatible,) = struct.unpack_from("<I", image, 1024 + 80)
        count, slot = struct.unpack_from("<HH", image, 1024 + 86)
        assert incompatible == 0x8
        assert count == len(devices)
        assert self.blocks << self.bits == len(image)
        self.root = root
        self.tables: list[tuple[int, int, bytes]] = []
        for number, data in enumerate(devices):
            blocks, start = struct.unpack_from("<II", image, 128 * (slot + number) + 64)
            assert blocks == -(-len(data) // self.block)
            self.tables.append((start, blocks, data))

    @property
    def block(self) -> int:
        return 1 << self.bits

    def inode(self, nid: int) -> Inode:
        at = self.meta * self.block + nid * 32
        (form, icount, mode, _0, size, raw, _ino, uid, gid, seconds, nanoseconds, nlink) = struct.unpack_from(
            "<HHHHQIIIIqII", self.image, at
        )
        assert form & 1, "a compact inode keeps no time"
        found = Inode(nid, mode, size, uid, gid, seconds * 10**9 + nanoseconds, nlink, form >> 1 & 7, raw)
        length = 12 + 4 * (icount - 1) if icount else 0
        found.xattrs = dict(self._xattrs(self.image[at + 64 : at + 64 + length]))
        found.after = at + 64 + length
        return found

    def _xattrs(self, body: bytes) -> Iterator[tuple[str, bytes]]:
        at = 12
        while at < len(body):
            name_length, index, value_length = struct.unpack_from("<BBH", body, at)
            name_end = at + 4 + name_length
            name = PREFIXES[index] + body[at + 4 : name_end].decode("utf-8", "surrogateescape")
            yield name, body[name_end : name_end + value_length]
            at = (name_end + value_length + 3) // 4 * 4

    def data(self, inode: Inode) -> bytes:
        if not inode.size:
            return b""
        if inode.layout == 0:
            return self._read(inode.raw, inode.size)
        assert inode.layout == 2
        tail = inode.size % self.block or self.block
        assert inode.after % self.block + tail <= self.block, "inline data crosses a block"
        head = self._read(inode.raw, inode.size - tail) if inode.size > tail else b""
        return head + self.image[inode.after : inode.after + tail]

    def _read(self, start: int, size: int) -> bytes:
        if start < self.blocks:
            assert start * self.block + size <= len(self.image)
            return self.image[start * self.block : start * self.block + size]
        for first, blocks, data in self.tables:
            if first <= start < first + blocks:
                offset = (start - first) * self.block
                assert offset + size <= len(data)
                return data[offset : offset + size]
        raise AssertionError(f"block {start} is on no device")

    def listdir(self, inode: Inode) -> list[tuple[bytes, int, int]]:
        """Name, nid and type, ``.`` and ``..`` included."""
        data = self.data(inode)
        found = []
        for start in range(0, len(data), self.block):
            block = data[start : start + self.block]
            count = struct.unpack_from("<QHBB", block, 0)[1] // 12
            raw = [struct.unpack_from("<QHBB", block, 12 * number) for number in range(count)]
            ends = [offset for _nid, offset, _type, _0 in raw[1:]] + [len(block)]
            for (nid, offset, kind, _0), end in zip(raw, ends, strict=True):
                found.append((block[offset:end].rstrip(b"\0"), nid, kind))
        names = [name for name, _nid, _kind in found]
        assert names == sorted(set(names)), "the kernel searches by halving"
        return found

    def walk(self) -> Iterator[tuple[str, Inode]]:
        """Parents first, the root as ``""``."""
        waiting = [("", self.root, self.root)]
        while waiting:
            path, nid, above = waiting.pop()
            inode = self.inode(nid)
            yield path, inode
            if stat.S_ISDIR(inode.mode):
                names = {name: (child, kind) for name, child, kind in self.listdir(inode)}
                assert names.pop(b".")[0] == nid
                assert names.pop(b"..")[0] == above
                for name, (child, kind) in names.items():
                    assert kind == {8: 1, 4: 2, 2: 3, 6: 4, 1: 5, 10: 7}[self.inode(child).mode >> 12]
                    text = name.decode("utf-8", "surrogateescape")
                    waiting.append((f"{path}/{text}" if path else text, child, nid))
