"""``cp``'s rules, and its giving half: a tree becomes a tar. ``extraction`` is the other one.

docker's rules ("docker container cp"): what a destination is decides where things go and what they are
called there. Both halves work from open directories, so whoever changes names meanwhile (CVE-2018-15664)
gets an error, or a file of the same container.
"""

from __future__ import annotations

import io
import os
import posixpath
import stat
from collections.abc import Callable, Container, Hashable, Mapping
from typing import Any

from lamina.errors import InvalidInput, NotFound, Unavailable
from lamina.layer.entry import Entry, Kind
from lamina.layer.root import DirectoryRoot, Ownership, SocketFound
from lamina.layer.tarstream import TarWriter, Writable
from lamina.values import dataclass, replace

_MAX_HOPS = 40  # path_resolution(7)
# Files of /proc and /sys have no size until they are read.
_MAX_SYNTHETIC = 16 << 20

# Opens a path: the host's, or one in a container's root.
Open = Callable[[str, int], int]


class PathNotFound(NotFound):
    pass


class CannotCopy(InvalidInput):
    """The source and the destination do not fit."""


# -- where things go


@dataclass(frozen=True, slots=True)
class Found:
    """What is at a path. ``path`` is where it is after links, if they were to be followed."""

    path: str
    mode: int
    size: int
    link: str = ""

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, "mode": self.mode, "size": self.size, "link": self.link}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Found:
        return cls(**document)


@dataclass(frozen=True, slots=True)
class Placement:
    """Into which directory, and under which name; an empty name means the contents alone."""

    directory: str
    name: str


def is_content(path: str) -> bool:
    """``dir/.``: what is in the directory, without it."""
    return posixpath.basename(path) == "."


def asserts_directory(path: str) -> bool:
    return path.endswith("/") or is_content(path)


def source_name(path: str) -> str:
    """What a source is called at its destination: empty for ``dir/.`` and for the root."""
    return "" if is_content(path) else posixpath.basename(cleaned(path))


def cleaned(path: str) -> str:
    """By text, as docker does: ``..`` goes back before any link is followed. Absolute."""
    return "/" + posixpath.normpath("/" + path).lstrip("/")


def place(source: str, found: Found, destination: str, there: Found | None) -> Placement:
    """``found`` is what the source is, ``there`` what the destination is. Raises :class:`CannotCopy`."""
    if there is not None and there.is_directory:
        return Placement(there.path, source_name(source))
    if there is not None and found.is_directory:
        raise CannotCopy(f"{destination}: a file: cannot copy the directory {source} to it")
    if there is None and not found.is_directory and asserts_directory(destination):
        raise CannotCopy(f"{destination}: no such directory")
    if there is not None and asserts_directory(destination):
        raise CannotCopy(f"{destination}: not a directory")
    path = there.path if there is not None else cleaned(destination)
    return Placement(posixpath.dirname(path), posixpath.basename(path))


# -- finding


@dataclass(frozen=True, slots=True)
class Located:
    """``directory`` is open; ``name`` is what is meant in it, or empty for the directory itself."""

    directory: int
    name: str
    found: Found


def locate(opener: Open, path: str, *, follow: bool) -> Located:
    """The caller closes the directory. A path that says "directory" is followed, as its last name says so.

    Raises ``FileNotFoundError``, :class:`CannotCopy`.
    """
    wants_directory = asserts_directory(path)
    where = cleaned(path)
    for _hop in range(_MAX_HOPS):
        directory = opener(posixpath.dirname(where), os.O_PATH | os.O_DIRECTORY)
        try:
            located = _look(directory, where)
            if stat.S_ISLNK(located.found.mode) and (follow or wants_directory):
                where = cleaned(posixpath.join(posixpath.dirname(where), located.found.link))
                continue
            if located.found.is_directory:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                inside = os.open(located.name or ".", flags, dir_fd=directory)
                return Located(inside, "", located.found)
            if not wants_directory:
                return replace(located, directory=os.dup(directory))
        finally:
            os.close(directory)
        raise CannotCopy(f"{path}: not a directory")
    raise CannotCopy(f"{path}: too many symlinks on the way")


def _look(directory: int, where: str) -> Located:
    name = posixpath.basename(where)
    status = os.stat(name, dir_fd=directory, follow_symlinks=False) if name else os.fstat(directory)
    link = os.readlink(name, dir_fd=directory) if stat.S_ISLNK(status.st_mode) else ""
    return Located(directory, name, Found(where, status.st_mode, status.st_size, link))


def final_place(opener: Open, path: str) -> tuple[str, Found | None]:
    """Where a destination is in the end, and what is there: a symlink stands for what it leads to."""
    where = path
    for _hop in range(_MAX_HOPS):
        try:
            located = locate(opener, where, follow=False)
        except (FileNotFoundError, NotADirectoryError):
            return where, None
        os.close(located.directory)
        if not stat.S_ISLNK(located.found.mode):
            return where, located.found
        where = posixpath.join(posixpath.dirname(located.found.path), located.found.link)
    raise CannotCopy(f"{path}: too many symlinks on the way")


# -- a tree becomes a tar


def write_tree(
    located: Located, name: str, out: Writable, owner: Ownership, *, without: Container[int] = ()
) -> int:
    """Everything that was located, called ``name``; the answer is the tar's size.

    Sockets, which no tar can hold, are left out, and so is what lies on the devices ``without``.
    """
    writer = TarWriter(out)
    links: dict[Hashable, str] = {}
    with DirectoryRoot(opened(located.directory), owner=owner) as root:
        waiting = [(located.name, name)]
        while waiting:
            path, shown = waiting.pop()
            try:
                entry = root.look(path)
                _write_entry(writer, root, path, replace(entry, path=shown), links)
                if entry.kind is Kind.DIRECTORY and not (path and _device(root, path) in without):
                    names = root.names(path)
                    waiting += [(_join(path, each), _join(shown, each)) for each in reversed(names)]
            except SocketFound:
                continue
            except FileNotFoundError:
                if path == located.name:
                    raise
    writer.finish()
    return writer.position


def _device(root: DirectoryRoot, path: str) -> int:
    return os.fstat(root.directories.get(path)).st_dev


def _write_entry(
    writer: TarWriter, root: DirectoryRoot, path: str, entry: Entry, links: dict[Hashable, str]
) -> None:
    identity = root.identity(path) if path else None
    if identity is not None and entry.kind is not Kind.DIRECTORY:
        first = links.setdefault(identity, entry.path)
        if first != entry.path:
            writer.write(replace(entry, kind=Kind.HARDLINK, linkname=first, size=0, open=None))
            return
    if entry.kind is not Kind.FILE:
        writer.write(entry)
        return
    with root.open(path) as file:
        entry.size = os.fstat(file.fileno()).st_size  # it may have grown since it was looked at
        if entry.size:
            writer.write(entry, file)
            return
        data = b""
        while len(data) < _MAX_SYNTHETIC and (chunk := file.read(1 << 20)):
            data += chunk
    entry.size = len(data)
    writer.write(entry, io.BytesIO(data))


def opened(descriptor: int) -> str:
    """A path for what is open. The dot makes the kernel look behind the link, which is never followed."""
    return f"/proc/self/fd/{descriptor}/."


def retried(opener: Open) -> Open:
    """openat2(2) gives up with EAGAIN where ``..`` meets a rename at the same time."""

    def act(path: str, flags: int) -> int:
        for _attempt in range(256):
            try:
                return opener(path, flags)
            except BlockingIOError:
                continue
        raise Unavailable(f"{path}: changed all the time while it was looked up; try again")

    return act


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name
