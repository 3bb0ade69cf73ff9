"""A mountable EROFS image of one layer: metadata only, the files' bytes stay in the layer's own tar.

The tar is the image's extra device. Its data is aligned to 512 bytes, so blocks are 512 bytes too: with
larger ones the mount succeeds and content is silently wrong. Every file is FLAT_PLAIN, starting at the
device's first block plus its offset in the tar. The format is Linux's fs/erofs/erofs_fs.h; file-backed
mounts with extra devices need Linux 6.12.

What is written is the layer alone, as a lower layer of overlayfs: whiteouts are character devices 0:0, a
directory that hides what lies below it has ``trusted.overlay.opaque``. overlayfs ignores that on a layer's
root: who mounts must cut the stack there. Mounted alone, without overlayfs, whiteouts would be seen.
"""

from __future__ import annotations

import stat
import struct
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import count as count_up
from os import PathLike
from typing import Final

from lamina.errors import Unsupported
from lamina.layer.entry import InvalidLayer, Kind
from lamina.layer.index import LayerIndex
from lamina.layer.lower import LowerLayer
from lamina.layer.placement import place
from lamina.layer.tree import Tree, shown_xattrs
from lamina.oci.digest import Digest
from lamina.values import dataclass

BLOCK: Final = 512

_BLOCK_BITS = 9
_SUPER_OFFSET = 1024
_MAGIC = 0xE0F5E1E2
_DEVICE_TABLE = 0x8  # feature_incompat
_CHECKED = 0x1  # feature_compat: the kernel compares the superblock with its checksum at every mount
_CASTAGNOLI = 0x82F63B78
# magic, checksum, feature_compat, blkszbits, extslots, root nid, inodes, build time s and ns, blocks,
# meta_blkaddr, xattr_blkaddr, uuid, volume name, feature_incompat, algorithms, extra_devices, devt_slotoff
_SUPER = struct.Struct("<IIIBBHQQIIII16s16sIHHH38x")
_SLOT = struct.Struct("<64sII56x")
# i_format, xattr_icount, mode, reserved, size, u, ino, uid, gid, mtime, mtime_nsec, nlink, reserved
_INODE = struct.Struct("<HHHHQIIIIqII16x")
_DIRENT = struct.Struct("<QHBB")
_NID = struct.Struct("<Q")
_XATTR_HEADER = struct.pack("<IB7x", 0, 0)
_XATTR = struct.Struct("<BBH")
_INODE_SIZE = 64
_SLOT_SIZE = 32  # a nid counts these
# i_format: bit 0 says the extended, 64-byte inode; the data layout follows
_FLAT_PLAIN = 1 | 0 << 1
_FLAT_INLINE = 1 | 2 << 1
# ACLs first: their names are their prefixes
_XATTR_PREFIXES: Final = (
    ("system.posix_acl_access", 2), ("system.posix_acl_default", 3), ("user.", 1), ("trusted.", 4),
    ("security.", 6),
)
_MAX_NAME = 255
_MAX_SYMLINK = 4095

_FILE, _DIRECTORY, _SYMLINK = Kind.FILE.value, Kind.DIRECTORY.value, Kind.SYMLINK.value
_MODES = {
    Kind.FILE: stat.S_IFREG, Kind.DIRECTORY: stat.S_IFDIR, Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHAR: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK, Kind.FIFO: stat.S_IFIFO,
}
# file_type of a dirent: include/linux/fs_types.h. A hard link has none: its file has.
_TYPES: Final[dict[int, int]] = {
    Kind.FILE: 1, Kind.DIRECTORY: 2, Kind.CHAR: 3, Kind.BLOCK: 4, Kind.FIFO: 5, Kind.SYMLINK: 7,
    Kind.HARDLINK: 0,
}


class TarTooLarge(Unsupported):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class ErofsImage:
    """``devices`` are the layers whose tars must be given to the mount, in this order: the layer's own
    first, then those that hard links lead to.
    """

    devices: tuple[Digest, ...]
    inodes: int
    size: int


def build(
    index: LayerIndex, out_path: str | PathLike[str], *, tree_below: Tree | None = None,
    without: Collection[str] = (),
) -> ErofsImage:
    """Writes the image of a layer. ``tree_below`` is the union of the layers below it in its stack.

    It may be left out for the lowest layer, and for one that is self-contained; the image then serves
    every stack. ``without`` are whiteouts to leave out: paths that hide nothing in this stack. Raises
    ``InvalidLayer`` for what no filesystem could hold.
    """
    layer = LowerLayer(place(index, tree_below), tree_below, without)
    image = _Image(layer)
    data = image.write()
    with open(out_path, "wb") as out:
        out.write(data)
    return ErofsImage(
        devices=tuple(device.diff_id for device in layer.devices), inodes=len(image.order), size=len(data)
    )


@dataclass(slots=True)
class _Directory:
    """A directory's blocks: the names of each are counted, their inodes' keys follow each other.

    ``data`` is as it will be on disk, but for the nids; the last block is not padded.
    """

    data: bytes
    counts: list[int]
    keys: array[int]
    subdirectories: int


class _Image:
    """The image in memory: first every inode gets its place, then everything is written there."""

    def __init__(self, layer: LowerLayer) -> None:
        self.layer = layer
        self.order: list[int] = []
        self._kinds = layer.kinds()
        self._types = bytes(map(_TYPES.__getitem__, self._kinds))
        self._offsets = array("Q", bytes(8 * len(self._kinds)))
        self._links = array("I", bytes(4 * len(self._kinds)))
        self._xattrs = dict(_encoded_xattrs(layer))
        self._directories: dict[int, _Directory] = {}
        self._inline: set[int] = set()
        self._outside: dict[int, int] = {}  # content that lies outside of its inode: key to offset
        self._end = _round(_SUPER_OFFSET + _SUPER.size + _SLOT.size * len(layer.devices), BLOCK)

    def write(self) -> bytearray:
        paths = sorted(self.layer.directories)
        for path in paths:
            self._lay_out(path)
        self._place_inodes(paths)
        self._place_outside()
        data = bytearray(self._end)
        starts = self._write_super(data)
        self._write_inodes(data, starts)
        self._write_directories(data)
        covered = data[_SUPER_OFFSET : _SUPER_OFFSET + BLOCK]
        struct.pack_into("<I", data, _SUPER_OFFSET + 4, _checksum(covered))
        return data

    # -- places

    def _lay_out(self, path: str) -> None:
        """Names sorted as bytes, which is the order that the kernel searches by."""
        layer, types = self.layer, self._types
        own = layer.directories[path]
        cut = len(path) + 1 if path else 0
        names = [
            (child[cut:].encode("utf-8", "surrogateescape"), layer.key(child))
            for child in layer.children.pop(path, ())
        ]
        above = layer.directories[path.rpartition("/")[0]]
        names += [(b".", own), (b"..", above)]
        names.sort()
        if max([len(name) for name, _key in names]) > _MAX_NAME:
            raise InvalidLayer(f"{path[:200]!r}: holds a name of more than {_MAX_NAME} bytes")
        counts = _fill([len(name) for name, _key in names])
        data, first = bytearray(), 0
        for count in counts:
            data += bytes(-len(data) % BLOCK)
            chosen = names[first : first + count]
            name_at = 12 * count
            for name, key in chosen:
                data += _DIRENT.pack(0, name_at, types[key], 0)
                name_at += len(name)
            data += b"".join([name for name, _key in chosen])
            first += count
        keys = array("I", [key for _name, key in names])
        subdirectories = sum([types[key] == _TYPES[_DIRECTORY] for key in keys]) - 2
        self._directories[own] = _Directory(bytes(data), counts, keys, subdirectories)

    def _place_inodes(self, paths: list[str]) -> None:
        """A directory's children lie together, as they will be looked at together. The root is first,
        since the superblock has 16 bits for its nid.
        """
        directories, links = self.layer.directories, self._links
        self._place(directories[""])
        links[directories[""]] = 1
        for path in paths:
            own = directories[path]
            above = directories[path.rpartition("/")[0]]
            for key in self._directories[own].keys:
                if key not in (own, above):  # itself and the one above: no others are directories twice
                    if not links[key]:
                        self._place(key)
                    links[key] += 1

    def _place(self, key: int) -> None:
        self.order.append(key)
        offset, size = self._end, _INODE_SIZE
        if key in self._xattrs:
            size += len(self._xattrs[key])
        if self._kinds[key] == _DIRECTORY or self._kinds[key] == _SYMLINK:
            tail = self._tail(key)
            if size + tail <= BLOCK:
                self._inline.add(key)
                # The inline part may begin on a block's border, but not cross one.
                if (offset + size) % BLOCK + tail > BLOCK:
                    offset = _round(offset, BLOCK)
                size += tail
            else:
                self._outside[key] = -1
        self._offsets[key] = offset
        self._end = _round(offset + size, _SLOT_SIZE)

    def _tail(self, key: int) -> int:
        """How many bytes would lie behind the inode: the last block of a directory, a symlink's text."""
        if self._kinds[key] == _SYMLINK:
            return len(self._text(key))
        directory = self._directories[key]
        if len(directory.counts) > 1:
            self._outside[key] = -1
        return len(directory.data) - (len(directory.counts) - 1) * BLOCK

    def _text(self, key: int) -> bytes:
        entry = self.layer.entry(key)
        text = entry.linkname.encode("utf-8", "surrogateescape")
        if not 0 < len(text) <= _MAX_SYMLINK:
            raise InvalidLayer(f"{entry.path!r}: a symlink of {len(text)} bytes")
        return text

    def _place_outside(self) -> None:
        self._end = _round(self._end, BLOCK)
        for key in self._outside:
            self._outside[key] = self._end
            if key in self._directories:
                self._end += BLOCK * (len(self._directories[key].counts) - (key in self._inline))
            else:
                self._end += _round(len(self._text(key)), BLOCK)

    # -- bytes

    def _write_super(self, data: bytearray) -> list[int]:
        """Returns the first block of each device, counted through all of them."""
        layer = self.layer
        diff_id = layer.index.diff_id
        at, starts = self._end // BLOCK, []
        for number, device in enumerate(layer.devices):
            blocks = _round(device.tar_size, BLOCK) // BLOCK
            if at + blocks >= 1 << 32:
                raise TarTooLarge(f"{diff_id}: tars of more than 2 TiB do not fit an EROFS image")
            tag = device.diff_id.encoded[:64].encode()
            _SLOT.pack_into(data, _SUPER_OFFSET + _SUPER.size + number * _SLOT.size, tag, blocks, at)
            starts.append(at)
            at += blocks
        root = self._offsets[layer.directories[""]] // _SLOT_SIZE
        _SUPER.pack_into(
            data, _SUPER_OFFSET, _MAGIC, 0, _CHECKED, _BLOCK_BITS, 0, root, len(self.order), 0, 0,
            self._end // BLOCK, 0, 0, bytes.fromhex(diff_id.encoded[:32]), b"lamina", _DEVICE_TABLE, 0,
            len(layer.devices), (_SUPER_OFFSET + _SUPER.size) // _SLOT.size,
        )
        return starts

    def _write_inodes(self, data: bytearray, starts: list[int]) -> None:
        index, offsets, links = self.layer.index, self._offsets, self._links
        count, first = len(index), starts[0]
        kinds, sizes, places = index.kinds, index.sizes, index.data_offsets
        modes, uids, gids, mtimes = index.modes, index.uids, index.gids, index.mtimes
        pack = _INODE.pack_into
        for number, key in enumerate(self.order, 1):
            if key < count and kinds[key] == _FILE:  # nearly all of them
                seconds, nanoseconds = divmod(mtimes[key], 1_000_000_000)
                size = sizes[key]
                start = first + places[key] // BLOCK if size else 0
                pack(data, offsets[key], _FLAT_PLAIN, 0, stat.S_IFREG | modes[key], 0, size, start,
                     number, uids[key], gids[key], seconds, nanoseconds, links[key])
            else:
                self._write_inode(data, key, number, starts)
        for key, encoded in self._xattrs.items():
            if at := offsets[key]:
                data[at + _INODE_SIZE : at + _INODE_SIZE + len(encoded)] = encoded
                struct.pack_into("<H", data, at + 2, (len(encoded) - 12) // 4 + 1)

    def _write_inode(self, data: bytearray, key: int, number: int, starts: list[int]) -> None:
        entry = self.layer.entry(key)
        size, start, links = 0, 0, self._links[key]
        if entry.kind is Kind.DIRECTORY:
            directory = self._directories[key]
            size, links = len(directory.data), 2 + directory.subdirectories
        elif entry.kind is Kind.SYMLINK:
            text = self._text(key)
            size = len(text)
            at = self._after_inode(key) if key in self._inline else self._outside[key]
            data[at : at + size] = text
        elif entry.kind is Kind.FILE:
            size = entry.size
            start = starts[self.layer.extra_devices[key]] + entry.data_offset // BLOCK if size else 0
        elif entry.kind is not Kind.FIFO:
            start = encode_device(entry.major, entry.minor)
        if key in self._outside:
            start = self._outside[key] // BLOCK
        seconds, nanoseconds = divmod(entry.mtime, 1_000_000_000)
        _INODE.pack_into(
            data, self._offsets[key], _FLAT_INLINE if key in self._inline else _FLAT_PLAIN, 0,
            _MODES[entry.kind] | entry.mode, 0, size, start, number, entry.uid, entry.gid, seconds,
            nanoseconds, links,
        )

    def _after_inode(self, key: int) -> int:
        return self._offsets[key] + _INODE_SIZE + len(self._xattrs.get(key, b""))

    def _write_directories(self, data: bytearray) -> None:
        offsets, pack = self._offsets, _NID.pack_into
        for key, directory in self._directories.items():
            at, first = self._outside.get(key, -1), 0
            last = len(directory.counts) - 1
            for number, count in enumerate(directory.counts):
                if number == last and key in self._inline:
                    at = self._after_inode(key)
                block = directory.data[number * BLOCK : (number + 1) * BLOCK]
                data[at : at + len(block)] = block
                for dirent_at, child in zip(count_up(at, 12), directory.keys[first : first + count]):
                    pack(data, dirent_at, offsets[child] // _SLOT_SIZE)
                first += count
                at += BLOCK


def _checksum(block: bytes | bytearray) -> int:
    """CRC-32C without the last inversion (fs/erofs/super.c), of a superblock whose checksum is still zero."""
    remainder = 0xFFFFFFFF
    for byte in block:
        remainder ^= byte
        for _bit in range(8):
            remainder = remainder >> 1 ^ (_CASTAGNOLI if remainder & 1 else 0)
    return remainder


def _fill(lengths: Sequence[int]) -> list[int]:
    """How many names go into each block of a directory. A name takes 12 bytes and itself."""
    counts, used, count = [], 0, 0
    for length in lengths:
        if used + 12 + length > BLOCK:
            counts.append(count)
            used = count = 0
        used += 12 + length
        count += 1
    return [*counts, count]


def _encoded_xattrs(layer: LowerLayer) -> Iterator[tuple[int, bytes]]:
    found: dict[int, Mapping[str, bytes]] = dict(layer.index.xattrs)
    for key, extra in enumerate(layer.extras, len(layer.index)):
        found[key] = extra.xattrs
    for key in {**found, **layer.marks}:
        encoded = encode_xattrs({**shown_xattrs(found.get(key, {})), **layer.marks.get(key, {})})
        if encoded:
            yield key, encoded


def encode_xattrs(xattrs: Mapping[str, bytes]) -> bytes:
    """The inline body behind an inode; empty if nothing is left.

    Names outside the namespaces that EROFS knows are left out, as a filesystem without support for
    them would.
    """
    parts = []
    for name, value in sorted(xattrs.items()):
        for prefix, number in _XATTR_PREFIXES:
            if name.startswith(prefix) and (name == prefix) != prefix.endswith("."):
                short = name[len(prefix):].encode("utf-8", "surrogateescape")
                if len(short) > _MAX_NAME or len(value) > 0xFFFF:
                    raise InvalidLayer(f"{name[:80]!r}: an extended attribute of {len(value)} bytes")
                part = _XATTR.pack(len(short), number, len(value)) + short + value
                parts.append(part + bytes(-len(part) % 4))
                break
    body = b"".join(parts)
    if len(body) > 0xFFFF * 4 - 4:
        raise InvalidLayer(f"{next(iter(xattrs))[:80]!r} and others: {len(body)} bytes of attributes")
    return _XATTR_HEADER + body if body else b""


def encode_device(major: int, minor: int) -> int:
    """Linux's new_encode_dev: 12 bits of major, 20 of minor."""
    if major >> 12 or minor >> 20:
        raise InvalidLayer(f"device {major}:{minor}: out of range")
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12


def _round(value: int, to: int) -> int:
    return (value + to - 1) // to * to
