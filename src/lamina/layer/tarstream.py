"""Tar bytes to entries and back, streaming: memory stays the same whatever the size of a file.

Read are v7, ustar, GNU (long names and links, base-256 numbers) and PAX (global headers too), as layers in
the wild mix them. Refused, each in one sentence, are sparse members, types that no layer holds, members that
no Linux filesystem could hold, and archives that are cut off. What is no file content can be handed out as
it passes, so that the exact tar can be put together again.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from struct import Struct
from typing import BinaryIO, Protocol, TypeVar
from zlib import adler32

from lamina.layer import tarheader
from lamina.layer.entry import NO_XATTRS, Entry, InvalidLayer, Kind
from lamina.layer.tarheader import BLOCK, ZEROS, Extended, checked_path, encode_header
from lamina.values import dataclass

CHUNK = 1 << 20  # 64 KiB reads lose a quarter of the throughput (docs/performance.md)
_SMALL_CHUNK = 1 << 16
_WRITE = 1 << 18

# name; mode, uid and gid; size; mtime; checksum; type. The rest is looked at by those who need it.
_FIELDS = Struct("100s24s12s12s8sc")
_KINDS = {
    b"\0": Kind.FILE, b"0": Kind.FILE, b"7": Kind.FILE,  # 7 is "contiguous", which nobody ever was
    b"1": Kind.HARDLINK, b"2": Kind.SYMLINK, b"3": Kind.CHAR, b"4": Kind.BLOCK, b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}
# Distinct raw fields remembered at most: far more than honest layers have.
_MEMORY = 1 << 16
_SUSPECT = ("/", ".")

Write = Callable[[bytes | memoryview], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class TarLimits:
    """What a stranger's tar can make us hold, in bytes but for ``entries``.

    ``pax``: the extended header of one entry. ``name``: a GNU long name. ``path``: a path, as Linux limits
    one. ``trailer``: what follows the end mark; 10 KiB are usual.
    """

    pax: int = 1 << 20
    name: int = 1 << 16
    path: int = 4096
    entries: int = 10_000_000
    trailer: int = 1 << 26


class TruncatedTar(InvalidLayer):
    pass


class Readable(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


class Writable(Protocol):
    def write(self, chunk: bytes | memoryview, /) -> object: ...


class TarReader:
    """Iterates entries, once; what was not read of a file is skipped. Goes on to the very end of the stream.

    ``skeleton`` receives, in order, every byte that is not file content. It may lag behind the entries, but
    never behind content: what precedes a file's bytes has been handed out before its entry is.

    Raises ``InvalidLayer`` for what is not a layer's tar and ``PathEscapes`` for names that lead out of it.
    """

    def __init__(
        self, stream: Readable, *, skeleton: Write | None = None, limits: TarLimits | None = None
    ) -> None:
        self._stream = stream
        self._skeleton = skeleton
        self._limits = limits or TarLimits()
        # The stream's bytes from _base on; those before _at are consumed, those from _mark on are skeleton
        # that was not handed out. _left bytes of content begin at _at, and _padding follows them.
        self._buffer = b""
        self._base = self._at = self._mark = 0
        self._left = self._padding = 0
        self._content = -1  # where the content of the current file begins in the stream
        self._pax: Extended | None = None
        self._global: Extended | None = None
        self._long_name: bytes | None = None
        self._long_link: bytes | None = None
        self._entries = self._read()

    @property
    def position(self) -> int:
        """Bytes of the stream consumed."""
        return self._base + self._at

    def __iter__(self) -> Iterator[Entry]:
        return self._entries

    def copy_data(self, write: Write) -> int:
        """Hands what is left of the current file to ``write``, in large pieces; returns how many bytes."""
        total = left = self._left
        if not left:
            return 0
        while left > len(self._buffer) - self._at:
            if self._at < len(self._buffer):
                write(memoryview(self._buffer)[self._at :])
                left -= len(self._buffer) - self._at
            self._next_buffer(left)
        end = self._at + left
        write(memoryview(self._buffer)[self._at : end])
        self._left, self._at, self._mark = 0, end, end
        return total

    # -- bytes

    def _next_buffer(self, left: int) -> None:
        """The buffer after this one, in the middle of content."""
        self._base += len(self._buffer)
        self._buffer = self._stream.read(CHUNK)
        self._at = self._mark = 0
        self._left = left
        if not self._buffer:
            raise TruncatedTar(f"tar: cut off after {self._base} bytes, {left} before the end of a file")

    def _read_data(self, size: int) -> bytes:
        if not self._left or not size:
            return b""
        if self._at >= len(self._buffer):
            self._next_buffer(self._left)
        end = min(self._at + min(size, self._left), len(self._buffer))
        chunk = self._buffer[self._at : end]
        self._left -= end - self._at
        self._at = self._mark = end
        return chunk

    def _open(self, content: int) -> BinaryIO:
        return io.BufferedReader(_Member(self, content), _SMALL_CHUNK)

    def _read_member(self, content: int, size: int) -> bytes:
        if content != self._content:
            raise ValueError("this file's bytes have passed: the next entry was asked for")
        return self._read_data(size)

    def _have(self, size: int) -> bool:
        """Makes ``size`` bytes of skeleton lie in the buffer at ``_at``; false if the stream ends before."""
        if self._at + size <= len(self._buffer):
            return True
        if self._skeleton is not None and self._mark < self._at:
            self._skeleton(self._buffer[self._mark : self._at])
        parts = [self._buffer[self._at :]]
        length = len(parts[0])
        while length < size:
            parts.append(self._stream.read(CHUNK))
            if not parts[-1]:
                break
            length += len(parts[-1])
        self._base += self._at
        self._buffer = b"".join(parts) if parts[0] or len(parts) > 2 else parts[-1]
        self._at = self._mark = 0
        return length >= size

    def _take(self, size: int, what: str) -> bytes:
        """Content of a special member whose header is at ``_at``; then ``_at`` is behind it."""
        whole = BLOCK + size + -size % BLOCK
        if not self._have(whole):
            raise TruncatedTar(f"tar: cut off after {self._base + len(self._buffer)} bytes, in a {what}")
        data = self._buffer[self._at + BLOCK : self._at + BLOCK + size]
        self._at += whole
        return data

    def _hand_out(self) -> None:
        if self._skeleton is not None and self._mark < self._at:
            self._skeleton(self._buffer[self._mark : self._at])
        self._mark = self._at

    # -- entries

    def _read(self) -> Iterator[Entry]:
        """One turn for each header. What is done here is done for every file, so it is all in one place."""
        unpack, kinds, none = _FIELDS.unpack_from, _KINDS, NO_XATTRS
        file, directory = Kind.FILE, Kind.DIRECTORY
        sums: dict[bytes, int] = {}
        owners: dict[bytes, tuple[int, int, int]] = {}
        sizes: dict[bytes, int] = {}
        times: dict[bytes, int] = {}
        count, limit = 0, self._limits.entries
        start = -1
        while True:
            if self._left:
                self.copy_data(_nowhere)
            if self._padding:
                self._skip_padding()
            at = self._at
            if at + BLOCK > len(self._buffer):
                if not self._have(BLOCK):
                    self._finish(has_mark=False)
                    return
                at = 0
            buffer = self._buffer
            end = at + BLOCK
            raw_name, raw_owner, raw_size, raw_time, raw_sum, flag = unpack(buffer, at)
            expected = sums.get(raw_sum)
            if expected is None:
                expected = _remember(sums, raw_sum, tarheader.expected_sum(raw_sum))
            if adler32(buffer[at:end]) & 0xFFFF != expected and not self._is_header(at):
                self._finish(has_mark=True)
                return
            if start < 0:
                start = self._base + at
            size = sizes.get(raw_size)
            if size is None:
                size = _remember(sizes, raw_size, tarheader.size(raw_size))
            kind = kinds.get(flag)
            if kind is None:
                self._special(flag, size)
                continue
            count += 1
            if count > limit:
                raise InvalidLayer(f"tar: more than {limit} entries")
            ids = owners.get(raw_owner)
            if ids is None:
                ids = _remember(owners, raw_owner, tarheader.owner(raw_owner))
            mtime = times.get(raw_time)
            if mtime is None:
                mtime = _remember(times, raw_time, tarheader.mtime(raw_time))
            mode, uid, gid = ids
            xattrs = none
            if self._pax is None and self._long_name is None and not buffer[at + 345]:
                name = raw_name.partition(b"\0")[0]
            else:
                name = self._long_path(at, raw_name)
            if self._pax is not None or self._global is not None:
                found = self._extension()
                if found.size is not None:
                    size = found.size
                uid = uid if found.uid is None else found.uid
                gid = gid if found.gid is None else found.gid
                mtime = mtime if found.mtime is None else found.mtime
                xattrs = found.xattrs
            path = _path(name, self._limits.path)
            if kind is file:
                if flag == b"\0" and name[-1:] == b"/":
                    kind = directory  # v7 had no type for one
                    if size:
                        raise InvalidLayer(f"{path!r}: a directory with {size} bytes of content")
                elif not path:
                    raise InvalidLayer(f"{_shown(name)}: the root of a layer can only be a directory")
                self._at = end
                if size:
                    self._hand_out()
                    self._left, self._padding = size, -size % BLOCK
                self._content = content = self._base + end
                entry = Entry(
                    path, kind, mode, uid, gid, mtime, size, "", xattrs, 0, 0, start,
                    content, partial(self._open, content),
                )
            else:
                self._at = end
                entry = Entry(path, kind, mode, uid, gid, mtime, 0, "", xattrs, 0, 0, start)
                if kind is not directory:
                    self._complete(entry, buffer[at:end], name)
            self._pax = self._long_name = self._long_link = None
            start = -1
            yield entry

    def _skip_padding(self) -> None:
        if not self._have(self._padding):
            raise TruncatedTar(f"tar: cut off after {self._base + len(self._buffer)} bytes, behind a file")
        self._at += self._padding
        self._padding = 0

    def _is_header(self, at: int) -> bool:
        """Of a block whose checksum looked wrong: false for the mark of the end."""
        block = self._buffer[at : at + BLOCK]
        if block == ZEROS:
            return False
        if tarheader.has_signed_sum(block):
            return True
        raise InvalidLayer(f"tar: a wrong header checksum at byte {self._base + at}: damaged, or not a tar")

    def _special(self, flag: bytes, size: int) -> None:
        """A header that speaks of the entries after it."""
        if flag in (b"x", b"X", b"g"):  # X was Solaris' name for x
            found = Extended.parse(self._take(_within(size, self._limits.pax, "PAX header"), "PAX header"))
            if flag == b"g":
                self._global = self._global or Extended()
                self._global.add_global(found, self._limits.pax)
            else:
                self._pax = found
        elif flag == b"L":
            self._long_name = self._take(_within(size, self._limits.name, "long name"), "long name")
        elif flag == b"K":
            self._long_link = self._take(_within(size, self._limits.name, "long link"), "long link")
        else:
            name = _shown(self._buffer[self._at : self._at + 100].partition(b"\0")[0])
            if flag == b"S":
                raise InvalidLayer(f"{name}: sparse members are not possible in layers")
            raise InvalidLayer(f"{name}: a member of the type {flag!r}, which layers do not have")

    def _long_path(self, at: int, raw_name: bytes) -> bytes:
        """An entry's name, which may be in several places. GNU's wins, as it does in Go."""
        if self._long_name is not None:
            return self._long_name.partition(b"\0")[0]
        if self._pax is not None and self._pax.path is not None:
            return self._pax.path.encode("utf-8", "surrogateescape")
        name = raw_name.partition(b"\0")[0]
        # Only POSIX's own magic has a prefix there; GNU's ("ustar  ") keeps times in the same place.
        if self._buffer[at + 257 : at + 263] == b"ustar\0" and self._buffer[at + 345]:
            return self._buffer[at + 345 : at + 500].partition(b"\0")[0] + b"/" + name
        return name

    def _extension(self) -> Extended:
        if self._global is None:
            assert self._pax is not None
            return self._pax
        if self._pax is None:
            return self._global
        both, own = Extended(), self._pax
        both.size = own.size
        both.uid = self._global.uid if own.uid is None else own.uid
        both.gid = self._global.gid if own.gid is None else own.gid
        both.mtime = self._global.mtime if own.mtime is None else own.mtime
        both.xattrs = {**self._global.xattrs, **own.xattrs}
        return both

    def _complete(self, entry: Entry, block: bytes, name: bytes) -> None:
        """What links and devices have besides."""
        if not entry.path:
            raise InvalidLayer(f"{_shown(name)}: the root of a layer can only be a directory")
        if entry.kind in (Kind.SYMLINK, Kind.HARDLINK):
            if self._long_link is not None:
                link = tarheader.text(self._long_link)
            elif self._pax is not None and self._pax.link is not None:
                link = self._pax.link
            else:
                link = tarheader.text(block[157:257])
            if entry.kind is Kind.SYMLINK:
                entry.linkname = tarheader.symlink_text(entry.path, link)
            else:
                entry.linkname = tarheader.hard_link_target(link)
        elif entry.kind in (Kind.CHAR, Kind.BLOCK):
            entry.major, entry.minor = tarheader.device(entry.path, entry.kind, block[329:345])

    def _finish(self, *, has_mark: bool) -> None:
        """The end mark is two zero blocks; one is seen too, and none. Whatever follows is trailer."""
        if not has_mark:
            if self._at < len(self._buffer):
                raise TruncatedTar(f"tar: cut off after {self._base + len(self._buffer)} bytes, in a header")
        elif self._have(2 * BLOCK) and self._buffer[self._at + BLOCK : self._at + 2 * BLOCK] != ZEROS:
            raise InvalidLayer(f"tar: half an end mark at byte {self.position}, and more behind it")
        if self._pax is not None or self._long_name is not None or self._long_link is not None:
            raise TruncatedTar(f"tar: cut off after {self.position} bytes, between a header and its entry")
        began = self.position
        while True:
            self._at = len(self._buffer)
            self._hand_out()
            if self.position - began > self._limits.trailer:
                raise InvalidLayer(f"tar: more than {self._limits.trailer} bytes after the end mark")
            if not self._have(1):
                return


class _Member(io.RawIOBase):
    """The current file of a reader as a stream, until the next entry is asked for."""

    def __init__(self, reader: TarReader, content: int) -> None:
        super().__init__()
        self._reader = reader
        self._at_content = content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # io's own stubs say Buffer
        chunk = self._reader._read_member(self._at_content, len(buffer))  # noqa: SLF001 - two halves of one thing
        buffer[: len(chunk)] = chunk
        return len(chunk)


def read_entries(stream: Readable) -> Iterator[Entry]:
    return iter(TarReader(stream))


def _nowhere(_chunk: bytes | memoryview) -> None:
    pass


_T = TypeVar("_T")


def _remember(memory: dict[bytes, _T], field: bytes, value: _T) -> _T:
    if len(memory) >= _MEMORY:
        memory.clear()
    memory[field] = value
    return value


def _within(size: int, limit: int, what: str) -> int:
    if size > limit:
        raise InvalidLayer(f"tar: a {what} of {size} bytes; {limit} is the limit")
    return size


def _shown(name: bytes) -> str:
    return repr(name.decode("utf-8", "surrogateescape"))


def _path(raw: bytes, limit: int) -> str:
    """Most names need no more than their last slash taken off, and get no more."""
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        name = raw.decode("utf-8", "surrogateescape")
    if name[-1:] == "/":
        name = name[:-1]
    if name[:2] == "./":
        name = name[2:]
    if "/." in name or "//" in name or name[:1] in _SUSPECT or name[-1:] == "/" or len(raw) > 100:
        return checked_path(name, limit)
    return name


# -- writing


class TarWriter:
    """Writes entries as ustar, with PAX records where ustar has no room. Same entries, same bytes.

    What was written reaches ``out`` in large pieces, and all of it with ``finish``. ``out`` stays open.
    ``skeleton`` receives, in order, every byte that is not file content, as it does when a tar is read.
    """

    def __init__(self, out: Writable, *, skeleton: Write | None = None) -> None:
        self._out = out
        self._skeleton = skeleton or _nowhere
        self._pending: list[bytes] = []
        self._size = 0
        self._flushed = 0

    @property
    def position(self) -> int:
        """Bytes written."""
        return self._flushed + self._size

    def write(self, entry: Entry, data: Readable | None = None) -> int:
        """A file's content, ``entry.size`` bytes of it, comes from ``data``, or else from ``entry.open``.

        Answers where the content begins, or would. Raises :class:`TruncatedTar` when there is too little.
        """
        if entry.kind is not Kind.FILE or not entry.size:
            return self._put_header(entry)
        if data is not None:
            content = self._put_header(entry)
            self._copy(entry, data)
            return content
        if entry.open is None:
            raise ValueError(f"{entry.path!r}: {entry.size} bytes and nothing to read them from")
        with entry.open() as opened:
            content = self._put_header(entry)
            self._copy(entry, opened)
        return content

    def finish(self) -> None:
        """The end mark: two zero blocks."""
        self._skeleton(ZEROS + ZEROS)
        self._put(ZEROS + ZEROS)
        self._flush()

    def _put_header(self, entry: Entry) -> int:
        header = encode_header(entry)
        self._skeleton(header)
        self._put(header)
        return self.position

    def _copy(self, entry: Entry, data: Readable) -> None:
        left = entry.size
        while left:
            chunk = data.read(min(left, CHUNK))
            if not chunk:
                raise TruncatedTar(f"{entry.path!r}: expected {entry.size} bytes, got {entry.size - left}")
            self._put(chunk)
            left -= len(chunk)
        if entry.size % BLOCK:
            padding = ZEROS[: -entry.size % BLOCK]
            self._skeleton(padding)
            self._put(padding)

    def _put(self, chunk: bytes) -> None:
        if len(chunk) >= _WRITE:  # large enough to go as it is: joining would copy it
            self._flush()
            self._flushed += len(chunk)
            self._out.write(chunk)
            return
        self._pending.append(chunk)
        self._size += len(chunk)
        if self._size >= _WRITE:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        chunk = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
        self._pending.clear()
        self._flushed += self._size
        self._size = 0
        self._out.write(chunk)


def write_entries(entries: Iterable[Entry], out: Writable) -> None:
    """A whole archive. Each file's ``open`` gives its content, at the moment it is written."""
    writer = TarWriter(out)
    for entry in entries:
        writer.write(entry)
    writer.finish()
