"""The index of one layer: everything about its tar but the files' bytes, written once while it streams in.

``ls``, ``blame``, the union of a stack, EROFS images and the exact tar again all come from here, so
nobody inflates a layer twice. The file holds, in this order, all little-endian::

    magic       16 bytes: name and version
    skeleton    zstd: every byte of the tar that is not file data, in order
    sections    names, then one array a column, then what few entries have: link texts, xattrs, devices
    trailer     fixed size: where the sections are, how many entries, of which layer, a sha256 of it all

It is written front to back without seeking and read from the end. The sections are verified when they
are loaded; the skeleton is verified by what it is for: :meth:`LayerIndex.rebuild` must give the diff id.
An index that fails either way raises an ``IntegrityError``, and is made again from the layer's blob.

Columns are written a batch at a time and loaded with one copy each: adding costs 1 to 2 µs an entry,
loading 77,000 entries some 25 ms.
"""

from __future__ import annotations

import hashlib
import io
import struct
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from os import PathLike
from typing import BinaryIO, Final, cast

from lamina.errors import IntegrityError
from lamina.layer.entry import (
    AUFS_PREFIX,
    NO_XATTRS,
    OPAQUE_NAME,
    WHITEOUT_PREFIX,
    Entry,
    InvalidLayer,
    Kind,
    ancestors,
)
from lamina.layer.skeleton import Bounded, RebuildMismatch, SkeletonWriter, rebuild
from lamina.oci.digest import Digest
from lamina.values import dataclass

MAX_ENTRIES = 10_000_000
# Characters. Each entry of a path of 4 KiB can imply 2,000 directories, whose paths take megabytes together.
MAX_IMPLIED = 64 << 20
# Larger than any index of MAX_ENTRIES with names of ordinary length: what a damaged trailer may make us read.
MAX_SECTIONS = 4 << 30

_MAGIC: Final = b"lamina layer\0\0\0\1"
_BATCH = 1024
_CHUNK = 1 << 20
# kind, mode, uid, gid, mtime, size, header offset, data offset
_COLUMNS: Final = "BHIIqqqq"
_SPARSE = 3
_SECTIONS = 1 + len(_COLUMNS) + _SPARSE
# section lengths; sections' start; entries; tar size; skeleton's raw length; diff id, NUL-padded
_TRAILER: Final = struct.Struct(f"<{_SECTIONS}QQQQQ160s")
_XATTR_OWNER = struct.Struct("<II")
_XATTR = struct.Struct("<II")
_DEVICE = struct.Struct("<III")
_LINK = struct.Struct("<I")
_KINDS = tuple(Kind)


class IndexDamaged(IntegrityError):
    """Not an index, cut short, changed on disk, or written by another version: make it again."""


class IndexBuilder:
    """Collects a layer's entries and skeleton in the order of its tar, and writes them to ``out``.

    ``out`` is written front to back and stays open. Memory holds the columns, never the skeleton.
    Give ``skeleton`` to the tar reader, and :meth:`add` every entry that it yields.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._start = out.write(_MAGIC)
        self._skeleton = SkeletonWriter(out)
        self.skeleton = self._skeleton.write
        self._batch: list[Entry] = []
        self._count = 0
        self._names = bytearray()
        self._columns: tuple[array[int], ...] = tuple(array(code) for code in _COLUMNS)
        self._links = bytearray()
        self._xattrs = bytearray()
        self._devices = bytearray()
        self._data_size = 0

    def __len__(self) -> int:
        return self._count + len(self._batch)

    @property
    def content_size(self) -> int:
        """Bytes of file data so far."""
        self._flush()
        return self._data_size

    def add(self, entry: Entry) -> None:
        """The entry is read a little later: it must not change afterwards."""
        self._batch.append(entry)
        if len(self._batch) >= _BATCH:
            self._flush()

    def finish(self, diff_id: Digest, tar_size: int) -> None:
        """Writes what is left. Without any skeleton the index answers everything but ``rebuild``."""
        self._flush()
        self._skeleton.finish()
        between = self._skeleton.size
        if between and between + self._data_size != tar_size:
            raise InvalidLayer(
                f"{diff_id}: {between} bytes of skeleton and {self._data_size} of data "
                f"do not make a tar of {tar_size}"
            )
        if sys.byteorder == "big":
            for column in self._columns:
                column.byteswap()
        sections: tuple[bytearray | array[int], ...] = (
            self._names, *self._columns, self._links, self._xattrs, self._devices
        )
        lengths = [memoryview(section).nbytes for section in sections]
        digest = hashlib.sha256()
        for section in sections:
            digest.update(section)
            self._out.write(section)
        trailer = _TRAILER.pack(
            *lengths, self._start + self._skeleton.written, self._count, tar_size, between, diff_id.encode()
        )
        digest.update(trailer)
        self._out.write(trailer + digest.digest() + _MAGIC)

    def _flush(self) -> None:
        batch, self._batch = self._batch, []
        if not batch:
            return
        if self._count + len(batch) > MAX_ENTRIES:
            raise InvalidLayer(f"layer: more than {MAX_ENTRIES} entries")
        self._add_names([entry.path for entry in batch])
        kinds, modes, uids, gids, mtimes, sizes, headers, offsets = self._columns
        try:
            kinds.extend([entry.kind for entry in batch])
            modes.extend([entry.mode for entry in batch])
            uids.extend([entry.uid for entry in batch])
            gids.extend([entry.gid for entry in batch])
            mtimes.extend([entry.mtime for entry in batch])
            sizes.extend([entry.size for entry in batch])
            headers.extend([entry.header_offset for entry in batch])
            offsets.extend([entry.data_offset for entry in batch])
        except OverflowError as error:
            # The kernel has 32 bits for an owner and 64 for a time: no filesystem could hold this.
            where = f"{batch[0].path!r} or one of {len(batch)} entries after it"
            raise InvalidLayer(f"{where}: {error}") from None
        self._data_size += sum([entry.size for entry in batch])
        for number, entry in enumerate(batch, self._count):
            if entry.linkname:
                self._links += _LINK.pack(number) + _encode(entry.linkname) + b"\0"
            if entry.xattrs:
                self._add_xattrs(number, entry.xattrs)
            if entry.major or entry.minor:
                self._devices += _DEVICE.pack(number, entry.major, entry.minor)
        self._count += len(batch)

    def _add_names(self, paths: list[str]) -> None:
        joined = _encode("\0".join(paths))
        if joined.count(b"\0") != len(paths) - 1:
            raise InvalidLayer(f"{paths[0]!r} or one of {len(paths)} entries after it: a NUL in a name")
        self._names += joined + b"\0"

    def _add_xattrs(self, number: int, xattrs: Mapping[str, bytes]) -> None:
        self._xattrs += _XATTR_OWNER.pack(number, len(xattrs))
        for name, value in xattrs.items():
            encoded = _encode(name)
            self._xattrs += _XATTR.pack(len(encoded), len(value)) + encoded + value


def _encode(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidLayer(f"{text[:200]!r}: a name that is no sequence of bytes") from None


@dataclass(frozen=True, slots=True)
class _Trailer:
    lengths: tuple[int, ...]
    start: int
    count: int
    tar_size: int
    skeleton_size: int
    diff_id: Digest
    raw: bytes
    digest: bytes


class LayerIndex:
    """One layer's index in memory. Columns are public for those who go through all entries at once.

    ``paths[i]``, ``kinds[i]`` and so on are entry ``i`` in the order of the tar; ``linknames``,
    ``xattrs`` and ``devices`` (major, minor) have only the entries that have any.
    """

    def __init__(self, trailer: _Trailer, file: BinaryIO, reopen: Callable[[], BinaryIO]) -> None:
        self._trailer = trailer
        self._reopen = reopen
        self.diff_id = trailer.diff_id
        self.tar_size = trailer.tar_size
        sections = (file.read(length) for length in trailer.lengths)  # one after the other: they are large
        self.paths: list[str] = _decode(next(sections)).split("\0")[:-1]
        self.kinds = next(sections)
        self.modes, self.uids, self.gids, self.mtimes, self.sizes, self.header_offsets, self.data_offsets = (
            _column(code, next(sections)) for code in _COLUMNS[1:]
        )
        columns = (self.kinds, self.modes, self.uids, self.gids, self.mtimes, self.sizes,
                   self.header_offsets, self.data_offsets)
        if any(len(column) != trailer.count for column in (self.paths, *columns)):
            raise IndexDamaged(f"{self.diff_id}: index: columns of different lengths")
        try:
            self.linknames = dict(_read_links(next(sections)))
            self.xattrs = dict(_read_xattrs(next(sections)))
            devices = _DEVICE.iter_unpack(next(sections))
            self.devices = {number: (major, minor) for number, major, minor in devices}
        except (struct.error, ValueError) as error:
            raise IndexDamaged(f"{self.diff_id}: index: {error}") from None

    @classmethod
    def load(cls, path: str | PathLike[str]) -> LayerIndex:
        """Raises :class:`IndexDamaged`, or ``FileNotFoundError`` where there is none."""
        with open(path, "rb") as file:
            return cls._read(file, lambda: open(path, "rb"))

    @classmethod
    def from_bytes(cls, data: bytes) -> LayerIndex:
        return cls._read(io.BytesIO(data), lambda: io.BytesIO(data))

    @classmethod
    def _read(cls, file: BinaryIO, reopen: Callable[[], BinaryIO]) -> LayerIndex:
        trailer = _read_trailer(file)
        digest, left = hashlib.sha256(), sum(trailer.lengths)
        file.seek(trailer.start)
        while left and (chunk := file.read(min(left, _CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
        digest.update(trailer.raw)
        if digest.digest() != trailer.digest:
            raise IndexDamaged(f"{trailer.diff_id}: index: its checksum does not match")
        file.seek(trailer.start)
        return cls(trailer, file, reopen)

    def __len__(self) -> int:
        return self._trailer.count

    def entry(self, number: int) -> Entry:
        """Without ``open``: the bytes are wherever the layer is kept."""
        major, minor = self.devices.get(number, (0, 0))
        return Entry(
            path=self.paths[number], kind=_KINDS[self.kinds[number]], mode=self.modes[number],
            uid=self.uids[number], gid=self.gids[number], mtime=self.mtimes[number],
            size=self.sizes[number], linkname=self.linknames.get(number, ""),
            xattrs=self.xattrs.get(number, NO_XATTRS), major=major, minor=minor,
            header_offset=self.header_offsets[number], data_offset=self.data_offsets[number],
        )

    def entries(self) -> Iterator[Entry]:
        """In the order of the tar, duplicates and whiteouts included."""
        return map(self.entry, range(len(self)))

    def find(self, path: str) -> int | None:
        """The entry with exactly this path; the last of several, as tar has it."""
        return self.positions.get(path)

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Path to entry, the last one of duplicates. Made when first asked for."""
        return dict(zip(self.paths, range(len(self.paths)), strict=True))

    @property
    def has_duplicates(self) -> bool:
        return len(self.positions) != len(self.paths)

    @cached_property
    def implied_parents(self) -> tuple[str, ...]:
        """Directories that entries lie in but that are not listed as directories, outermost first.

        The root is never among them. What stands at such a path in a lower layer decides what it is: its
        mode and owner if it is a directory, the place itself if it is a symlink. Raises
        :class:`InvalidLayer` where their paths take more than :data:`MAX_IMPLIED`.
        """
        if not self._unlisted:
            return ()
        is_directory = Kind.DIRECTORY.value
        listed = {path for path, kind in zip(self.paths, self.kinds, strict=True) if kind == is_directory}
        implied = self._unlisted - listed
        size = sum(map(len, implied))
        for parent in implied | {path for path in listed if "/" in path}:
            for above in ancestors(parent):
                if above not in listed and above not in implied:
                    implied.add(above)
                    size += len(above)
            if size > MAX_IMPLIED:
                raise InvalidLayer(
                    f"{parent[:80]!r}…: the layer lies in directories that it does not list, "
                    f"with paths of more than {MAX_IMPLIED} characters in all"
                )
        return tuple(sorted(implied))

    @cached_property
    def _unlisted(self) -> set[str]:
        """Directories of which an entry comes before they are listed, if they are at all."""
        is_directory = Kind.DIRECTORY.value
        listed, unlisted = {""}, set()
        for path, kind in zip(self.paths, self.kinds, strict=True):
            parent = path.rpartition("/")[0]
            if parent not in listed:
                unlisted.add(parent)
            if kind == is_directory:
                listed.add(path)
        return unlisted

    @cached_property
    def foreign_links(self) -> tuple[Entry, ...]:
        """Hard links to a path that is not listed before them in this layer.

        Some of them may lead, through a symlink of this layer, to a file of it after all.
        """
        return tuple(self.entry(number) for number in self._foreign())

    def _foreign(self) -> list[int]:
        is_link = Kind.HARDLINK.value
        if is_link not in self.kinds:
            return []
        first: dict[str, int] = {}
        for number, path in enumerate(self.paths):
            first.setdefault(path, number)
        return [
            number for number, target in self.linknames.items()
            if self.kinds[number] == is_link and first.get(target, number) >= number
        ]

    @property
    def is_root_opaque(self) -> bool:
        """Hides everything below it. overlayfs ignores such a mark on a layer's root."""
        return OPAQUE_NAME in self.positions

    @property
    def is_self_contained(self) -> bool:
        """Whether it unpacks to the same files whatever lies below, so that stacks can share the result.

        Every directory must be listed before what is in it: until it is, a symlink below could lead away.
        """
        return not self._unlisted and not self._foreign()

    @cached_property
    def whiteouts(self) -> Mapping[int, str]:
        """Entry number to the path that it hides. Raises :class:`InvalidLayer` as ``Entry.hides`` does."""
        found: dict[int, str] = {}
        for number in self.markers:
            hidden = self.entry(number).hides
            if hidden is not None:
                found[number] = hidden
        return found

    @cached_property
    def opaques(self) -> Mapping[int, str]:
        """Entry number to the directory whose lower content it hides."""
        suffix = "/" + OPAQUE_NAME
        return {
            number: self.paths[number].removesuffix(OPAQUE_NAME).rstrip("/")
            for number in self.markers
            if self.paths[number].endswith(suffix) or self.paths[number] == OPAQUE_NAME
        }

    @cached_property
    def markers(self) -> list[int]:
        """Entries with ``.wh.`` at the start of any part of their path."""
        inside = "/" + WHITEOUT_PREFIX
        return [
            number for number, path in enumerate(self.paths)
            if inside in path or path.startswith(WHITEOUT_PREFIX)
        ]

    def is_metadata(self, number: int) -> bool:
        """Not a file of the image: a whiteout, an opaque marker, or what AUFS kept for itself."""
        name = self.paths[number].rpartition("/")[2]
        return name.startswith((WHITEOUT_PREFIX, AUFS_PREFIX))

    def rebuild(self, open_data: Callable[[Entry], BinaryIO], out: BinaryIO) -> None:
        """Writes the layer's tar again, byte for byte; ``open_data`` gives a file's content.

        What came out is compared with the diff id at the end: :class:`RebuildMismatch` means that
        what was written is not the layer.
        """
        with self._reopen_with_skeleton() as file:
            rebuild(self.diff_id, self.tar_size, self._skeleton(file), self._files(), open_data, out)

    def open_tar(self, open_data: Callable[[Entry], BinaryIO]) -> BinaryIO:
        """The same as a stream that is made while it is read (see :class:`RebuiltTar`)."""
        from lamina.layer.rebuilt import RebuiltTar  # noqa: PLC0415 - where no tar and no blob is left

        file = self._reopen_with_skeleton()
        tar = RebuiltTar(self.diff_id, self.tar_size, self._skeleton(file), self._files(), open_data, file)
        return cast("BinaryIO", tar)

    def _files(self) -> Iterator[Entry]:
        """Those with content."""
        return (self.entry(number) for number, size in enumerate(self.sizes) if size)

    def _reopen_with_skeleton(self) -> BinaryIO:
        if not self._trailer.skeleton_size:
            raise RebuildMismatch(f"{self.diff_id}: this index holds no skeleton")
        return self._reopen()

    def _skeleton(self, file: BinaryIO) -> BinaryIO:
        file.seek(len(_MAGIC))
        return io.BufferedReader(Bounded(file, self._trailer.start - len(_MAGIC)), 1 << 18)


def _read_trailer(file: BinaryIO) -> _Trailer:
    size = file.seek(0, io.SEEK_END)
    fixed = _TRAILER.size + hashlib.sha256().digest_size + len(_MAGIC)
    if size < len(_MAGIC) + fixed:
        raise IndexDamaged(f"index: {size} bytes are too few for one")
    file.seek(0)
    begin = file.read(len(_MAGIC))
    file.seek(size - fixed)
    raw, digest, end = (file.read(length) for length in (_TRAILER.size, fixed - _TRAILER.size - 16, 16))
    if begin != _MAGIC or end != _MAGIC:
        raise IndexDamaged(f"index: begins with {begin!r} and ends with {end!r}, expected {_MAGIC!r}")
    *lengths, start, count, tar_size, skeleton_size, diff_id = _TRAILER.unpack(raw)
    if start + sum(lengths) + fixed != size or sum(lengths) > MAX_SECTIONS or count > MAX_ENTRIES:
        raise IndexDamaged(f"index: its sections do not fit a file of {size} bytes")
    try:
        name = Digest.parse(diff_id.rstrip(b"\0").decode("ascii"))
    except ValueError as error:
        raise IndexDamaged(f"index: {error}") from None
    return _Trailer(tuple(lengths), start, count, tar_size, skeleton_size, name, raw, digest)


def _column(code: str, part: bytes) -> array[int]:
    column = array(code)
    if len(part) % column.itemsize:
        raise IndexDamaged(f"index: {len(part)} bytes are no column of {column.itemsize} each")
    column.frombytes(part)
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _read_links(data: bytes) -> Iterator[tuple[int, str]]:
    position = 0
    while position < len(data):
        (number,) = _LINK.unpack_from(data, position)
        end = data.index(b"\0", position + _LINK.size)
        yield number, _decode(data[position + _LINK.size : end])
        position = end + 1


def _read_xattrs(data: bytes) -> Iterator[tuple[int, dict[str, bytes]]]:
    position = 0
    while position < len(data):
        number, count = _XATTR_OWNER.unpack_from(data, position)
        position += _XATTR_OWNER.size
        found = {}
        for _ in range(count):
            name_size, value_size = _XATTR.unpack_from(data, position)
            name_end = position + _XATTR.size + name_size
            found[_decode(data[position + _XATTR.size : name_end])] = data[name_end : name_end + value_size]
            position = name_end + value_size
        yield number, found
