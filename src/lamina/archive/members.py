"""What an archive holds, by path: a directory, or a tar whose members are found once and then read anywhere.

Everything here is foreign. A path that leads out of the archive is refused, a link is followed only to
another member, and nothing but a regular file is ever opened. No member is held in memory.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from lamina.errors import InvalidInput, NotFound
from lamina.layer.entry import InvalidLayer, Kind, PathEscapes, normalise
from lamina.layer.tarstream import TarReader
from lamina.values import dataclass

# A docker-archive has about four members a layer; the fullest registry mirror seen has 40,000 blobs.
MAX_MEMBERS = 500_000
# Docker wrote a layer that occurs twice as a link to its first copy; a link to a link has not been seen.
_MAX_LINKS = 8
_READ_AHEAD = 1 << 16
_ZEROS = bytes(1 << 20)


class InvalidArchive(InvalidInput):
    pass


class MemberNotFound(NotFound):
    pass


class Members(Protocol):
    """``size`` and ``open_at`` follow links within the archive and raise :class:`MemberNotFound`."""

    def has(self, path: str) -> bool: ...

    def size(self, path: str) -> int: ...

    def open_at(self, path: str, offset: int = 0) -> BinaryIO: ...

    def identity(self, path: str) -> object:
        """The same for two paths that lead to the same bytes."""

    def is_repeated(self, path: str) -> bool:
        """Whether two members bear this name, so that two readers may see two archives."""

    def close(self) -> None: ...


class Section(io.RawIOBase):
    """A stretch of an open file. Reads by position, so that any number of threads may share the file."""

    def __init__(self, descriptor: int, start: int, length: int, *, owns: bool = False) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._at = start
        self._end = start + length
        self._owns = owns

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer)[: self._end - self._at]
        if not view:
            return 0
        count = os.preadv(self._descriptor, [view], self._at)
        if count == 0:
            raise InvalidArchive(f"the archive ends {self._end - self._at} bytes before its member does")
        self._at += count
        return count

    def read(self, size: int = -1) -> bytes:
        wanted = self._end - self._at if size < 0 else min(size, self._end - self._at)
        data = os.pread(self._descriptor, wanted, self._at) if wanted else b""
        if wanted and not data:
            raise InvalidArchive(f"the archive ends {self._end - self._at} bytes before its member does")
        self._at += len(data)
        return data + self.read(-1) if size < 0 and self._at < self._end else data

    def close(self) -> None:
        if self._owns and not self.closed:
            os.close(self._descriptor)
        super().close()


@dataclass(frozen=True, slots=True)
class _Member:
    kind: Kind
    offset: int
    size: int
    link: str


class TarMembers:
    """Owns ``file``, a seekable plain tar with a file descriptor."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._members: dict[str, _Member] = {}
        self._repeated: set[str] = set()
        try:
            self._index()
        except InvalidLayer as error:
            file.close()
            raise InvalidArchive(f"not a readable tar archive: {error}") from None
        except BaseException:
            file.close()
            raise

    def _index(self) -> None:
        for path, member in _read_members(self._file):
            if path in self._members:
                self._repeated.add(path)
            self._members[path] = member  # the last one wins, as for everyone who unpacks the tar
            if len(self._members) > MAX_MEMBERS:
                raise InvalidArchive(f"the archive has more than {MAX_MEMBERS} members")

    def has(self, path: str) -> bool:
        try:
            self._find(path)
        except MemberNotFound:
            return False
        return True

    def size(self, path: str) -> int:
        return self._find(path).size

    def open_at(self, path: str, offset: int = 0) -> BinaryIO:
        member = self._find(path)
        begin = min(offset, member.size)
        section = Section(self._file.fileno(), member.offset + begin, member.size - begin)
        return cast("BinaryIO", section)

    def identity(self, path: str) -> object:
        return self._find(path).offset

    def is_repeated(self, path: str) -> bool:
        return path in self._repeated

    def close(self) -> None:
        self._file.close()

    def _find(self, path: str) -> _Member:
        wanted = normalise(path)
        for _ in range(_MAX_LINKS):
            member = self._members.get(wanted)
            if member is None:
                raise MemberNotFound(f"{path}: not in the archive")
            if member.kind is Kind.FILE:
                return member
            if member.kind not in (Kind.SYMLINK, Kind.HARDLINK):
                raise InvalidArchive(f"{path}: expected a file, the archive has a {member.kind.name.lower()}")
            wanted = member.link
        raise InvalidArchive(f"{path}: leads through more than {_MAX_LINKS} links in the archive")


class _Headers:
    """The tar as its reader wants it, with zeros for content that nobody looks at, which are not read at all.

    So a member costs one small read, whatever its size.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._descriptor = file.fileno()
        self._size = os.fstat(self._descriptor).st_size
        self._at = 0
        self._hole_end = 0

    def pass_over(self, end: int) -> None:
        self._hole_end = min(end, self._size)

    def read(self, size: int) -> bytes:
        hole = min(self._hole_end - self._at, size)
        chunk = _ZEROS[:hole] if hole > 0 else os.pread(self._descriptor, min(size, _READ_AHEAD), self._at)
        self._at += len(chunk)
        return chunk


def _read_members(file: BinaryIO) -> Iterator[tuple[str, _Member]]:
    headers = _Headers(file)
    for entry in TarReader(cast("BinaryIO", headers)):
        link = entry.linkname
        if entry.kind is Kind.SYMLINK:
            link = _link_target(entry.path, link)
        yield entry.path, _Member(entry.kind, entry.data_offset, entry.size, link)
        if entry.kind is Kind.FILE:
            headers.pass_over(entry.data_offset + entry.size)


def _link_target(path: str, text: str) -> str:
    """Where a symlink member leads inside the archive; an absolute one is taken from the archive's top."""
    return normalise(text if text.startswith("/") else f"{path.rpartition('/')[0]}/{text}")


class DirectoryMembers:
    """An archive unpacked, or an image layout that never was one.

    Symlinks may lead anywhere inside the directory. Where a layout was checked out with
    ``core.symlinks=false`` (git on filesystems without them), a link is a small file that holds its text:
    ``size`` and ``open_at`` see through those too, since digests decide in the end what the bytes are.
    """

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.realpath(root))

    def has(self, path: str) -> bool:
        try:
            return stat.S_ISREG(os.stat(self._resolve(path)).st_mode)
        except (MemberNotFound, OSError):
            return False

    def size(self, path: str) -> int:
        with self.open_at(path) as stream:
            return os.fstat(stream.fileno()).st_size

    def open_at(self, path: str, offset: int = 0) -> BinaryIO:
        found = self._resolve(path)
        try:
            descriptor = os.open(found, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise MemberNotFound(f"{path}: not in {self._root}") from None
        file = os.fdopen(descriptor, "rb", buffering=0)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            file.close()
            raise InvalidArchive(f"{path}: expected a file in {self._root}")
        file.seek(offset)
        return cast("BinaryIO", file)

    def identity(self, path: str) -> object:
        return self._resolve(path)

    def is_repeated(self, path: str) -> bool:  # noqa: ARG002 - a directory cannot hold two of a name
        return False

    def close(self) -> None:
        pass

    def _resolve(self, path: str) -> str:
        try:
            found = os.path.realpath(self._root / normalise(path), strict=True)
        except FileNotFoundError:
            raise MemberNotFound(f"{path}: not in {self._root}") from None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG):
                raise InvalidArchive(f"{path}: leads nowhere in {self._root} ({error.strerror})") from None
            raise
        self._confine(path, found)
        text = _written_link(found)
        if text is not None:
            found = os.path.realpath(os.path.join(os.path.dirname(found), text))
            self._confine(path, found)
        return found

    def _confine(self, path: str, found: str) -> None:
        if os.path.commonpath([found, self._root]) != str(self._root):
            raise PathEscapes(f"{path}: leads out of {self._root}")


def _written_link(found: str) -> str | None:
    """The text of a link that was written as a file: relative, upwards, and to something that exists."""
    status = os.lstat(found)
    if not stat.S_ISREG(status.st_mode) or not 4 <= status.st_size <= 1024:
        return None
    with open(found, "rb") as file:
        text = file.read(1024)
    if not text.startswith(b"../") or b"\0" in text or b"\n" in text:
        return None
    relative = os.fsdecode(text)
    return relative if os.path.isfile(os.path.join(os.path.dirname(found), relative)) else None
