"""Where a selection lands: what a ``COPY`` writes, as the entries of a layer over what is there already.

No file is read here and no filesystem is mounted: what is there is asked of the layers' indexes. BuildKit's
behaviour is the reference: a directory's contents go into what is at the destination, which keeps its mode
and owner; directories below it that are there take those of their source; a directory never replaces a file,
nor a file a directory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO, Protocol

from lamina.build.context import Node
from lamina.build.failure import printable
from lamina.build.mode import Change
from lamina.errors import Conflict, InvalidInput
from lamina.layer.entry import NO_XATTRS, OPAQUE_NAME, WHITEOUT_PREFIX, Entry, Kind, ancestors
from lamina.layer.way import Way
from lamina.values import dataclass, replace

_DIRECTORY_MODE = 0o755
_MAX_NAME = 255  # NAME_MAX of Linux' filesystems


class CannotReplace(Conflict):
    """A directory where a file is, or the other way round."""


class Below(Protocol):
    """What a step begins with: the union of the layers so far."""

    def look(self, path: str) -> Entry | None:
        """A canonical path, a symlink as such; ``None`` where nothing is."""
        ...


class Nothing:
    """``FROM scratch``, and what ``COPY --link`` looks at."""

    def look(self, path: str) -> Entry | None:
        return None if path else Entry("", Kind.DIRECTORY, _DIRECTORY_MODE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """``owner`` replaces that of every entry, ``mode`` changes that of all but symlinks.

    ``now`` is nanoseconds. ``keeps_directories``: those that are there stay as they are, for ``--parents``.
    """

    owner: tuple[int, int] | None = None
    mode: Change | None = None
    now: int = 0
    keeps_directories: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One thing to write: where it is to be, what it is, and for a file how to read it.

    Names of one file are links to it within one ``group``.
    """

    target: str
    node: Node
    xattrs: Callable[[], dict[str, bytes]]
    open: Callable[[], BinaryIO] | None = None
    group: tuple[int, int] = (0, 0)


class Placing:
    """Collects what one instruction writes. A later source replaces what an earlier one wrote."""

    def __init__(self, below: Below, destination: str, writing: Writing) -> None:
        """``destination`` is absolute; what ends in a slash is a directory."""
        self._below = below
        self._writing = writing
        self._written: dict[str, Entry] = {}
        # Which file a path of several is. Which of them has the content is known when all are in order.
        self._files: dict[str, tuple[int, int, int, int]] = {}
        self._is_directory = destination.endswith("/")
        # Directories of archives in the place of something else that replaced a directory.
        self._opaque: set[str] = set()
        self.place = settle(below, destination)
        self._open = {"", self.place}  # directories, or what will be some

    def add(self, sources: Iterable[Source], *, is_single: bool, is_kept: bool = False) -> None:
        """``is_single``: one file, and the destination may be its name.

        ``is_kept``: owners and modes are the sources' own whatever was asked for, and anything replaces
        anything, as docker unpacks archives.
        """
        there = self._below.look(self.place) if self.place not in self._written else None
        is_directory = self._is_directory or not is_single or (
            there is not None and there.kind is Kind.DIRECTORY
        )
        if is_directory and there is not None and there.kind is not Kind.DIRECTORY:
            raise no_directory(self.place, there)
        for source in sources:
            path = joined(self.place, source.target) if is_directory else self.place
            self._add(source, path, is_kept)

    def _add(self, source: Source, path: str, is_kept: bool) -> None:
        node = source.node
        insist_name(path)
        self._insist_open(path)
        there = self._standing(path)
        is_directory = node.kind is Kind.DIRECTORY
        if there is not None and is_directory is not (there.kind is Kind.DIRECTORY):
            if not is_kept:
                raise CannotReplace(_kept(path, there, node.kind))
            if is_directory and path in self._written:
                self._opaque.add(path)
        elif there is not None and is_directory and (self._writing.keeps_directories or not source.target):
            return
        if is_kept and not is_directory and path in self._open:
            self._forget_below(path)
        self._written[path] = self._entry(source, path, Writing() if is_kept else self._writing)

    def _forget_below(self, path: str) -> None:
        """Something else takes the place of a directory, and of what was written into it."""
        for each in [each for each in self._written if each.startswith(f"{path}/")]:
            del self._written[each]
        self._open = {each for each in self._open if each != path and not each.startswith(f"{path}/")}

    def _insist_open(self, path: str) -> None:
        """Archives may name what is below a symlink, theirs or the image's: nothing is written through it."""
        if path.rpartition("/")[0] in self._open:
            return
        for above in ancestors(path):
            if len(above) <= len(self.place) or above in self._open:
                continue
            there = self._standing(above)
            if there is not None and there.kind is not Kind.DIRECTORY:
                raise CannotReplace(f"/{printable(above)}: a {kind_name(there)}, so nothing can be in it")
            self._open.add(above)

    def make_directories(self, path: str) -> None:
        """``WORKDIR``: what is missing of it, each with the owner that was asked for."""
        for each in (*ancestors(path), path):
            there = self._standing(each)
            if there is None:
                self._written[each] = new_directory(each, self.place, self._writing)
            elif there.kind is not Kind.DIRECTORY:
                raise CannotReplace(f"/{printable(each)}: not a directory, so nothing can be in it")

    def written(self) -> list[Entry]:
        """Only what is new; without any of it there is no need for a layer."""
        return self.entries() if self._written else []

    def entries(self) -> list[Entry]:
        """Parents first; the directories that something was written into are listed too.

        Several names of one file come as the file and links to it.
        """
        found = dict(self._written)
        for path in self._written:
            for parent in ancestors(path):
                if parent not in found:
                    there = self._there(parent)
                    found[parent] = there or new_directory(parent, self.place, self._writing)
        for path in self._opaque & self._written.keys():
            there = self._there(path)
            if there is not None and self._written[path].kind is there.kind is Kind.DIRECTORY:
                found[f"{path}/{OPAQUE_NAME}"] = Entry(f"{path}/{OPAQUE_NAME}", mtime=self._writing.now)
        ordered = [found[path] for path in sorted(found, key=lambda path: path.split("/"))]
        return self._linked(ordered)

    # -- parts

    def _standing(self, path: str) -> Entry | None:
        return self._written[path] if path in self._written else self._there(path)

    def _there(self, path: str) -> Entry | None:
        """What was there before, where it still shows."""
        if self._opaque and any(above in self._opaque for above in ancestors(path)):
            return None
        return self._below.look(path)

    def _entry(self, source: Source, path: str, writing: Writing) -> Entry:
        node = source.node
        uid, gid = (node.uid, node.gid) if writing.owner is None else writing.owner
        mode = node.mode
        # The destination itself is made, not copied.
        if writing.mode is not None and node.kind is not Kind.SYMLINK and source.target:
            mode = writing.mode(mode, node.kind is Kind.DIRECTORY)
        is_file = node.kind is Kind.FILE
        entry = Entry(
            path, node.kind, mode, uid, gid, node.mtime_ns, node.size if is_file else 0, node.linkname,
            source.xattrs() or NO_XATTRS, open=source.open,
        )
        if node.kind in (Kind.CHAR, Kind.BLOCK):
            entry = replace(entry, major=os.major(node.rdev), minor=os.minor(node.rdev))
        self._files.pop(path, None)
        if is_file and node.links > 1:
            self._files[path] = (*source.group, node.device, node.inode)
        return entry

    def _linked(self, ordered: Sequence[Entry]) -> list[Entry]:
        first: dict[tuple[int, int, int, int], str] = {}
        found = []
        for entry in ordered:
            file = self._files.get(entry.path)
            name = entry.path if file is None else first.setdefault(file, entry.path)
            found.append(entry if name == entry.path else replace(
                entry, kind=Kind.HARDLINK, size=0, linkname=name, open=None, xattrs=NO_XATTRS
            ))
        return found


def new_directory(path: str, place: str, writing: Writing) -> Entry:
    """What archives leave out below the destination, ``place``, is root's, as docker has it."""
    insist_name(path)
    is_of_archive = path.startswith(f"{place}/") if place else bool(path)
    uid, gid = (0, 0) if is_of_archive else writing.owner or (0, 0)
    return Entry(path, Kind.DIRECTORY, _DIRECTORY_MODE, uid, gid, writing.now)


def no_directory(path: str, there: Entry) -> CannotReplace:
    return CannotReplace(f"/{printable(path)}: a {kind_name(there)}, and no directory to copy into")


def insist_name(path: str) -> None:
    """The last name of a path: those before it are, or were, looked at when they are made."""
    name = path.rpartition("/")[2]
    if name.startswith(WHITEOUT_PREFIX):
        raise InvalidInput(
            f"{printable(path)}: in a layer, a name that begins with .wh. removes another file; rename it"
        )
    if path and name in ("", ".", ".."):
        raise InvalidInput(f"{printable(path)}: {name!r} is no name of a file")
    if len(os.fsencode(name)) > _MAX_NAME:
        raise InvalidInput(f"{printable(name[:40])}…: a name has at most {_MAX_NAME} bytes")


def settle(below: Below, path: str) -> str:
    """Where an absolute path leads, through the symlinks that are there; what is missing stays as it is said.

    Nothing leads out: ``..`` ends at the root. Raises ``InvalidInput`` for a file on the way, or a loop.
    """
    way = Way(path)
    for here in way:
        there = below.look(here)
        if there is not None and there.kind is Kind.SYMLINK:
            if not way.follow(there.linkname):
                raise InvalidInput(f"{printable(path)}: too many symlinks on the way")
            continue
        if there is not None and there.kind is not Kind.DIRECTORY and not way.is_last:
            raise CannotReplace(f"/{printable(here)}: not a directory, so nothing can be in it")
        way.enter(here)
    return way.place


_KINDS = {
    Kind.FILE: "file", Kind.DIRECTORY: "directory", Kind.SYMLINK: "symlink", Kind.HARDLINK: "file",
    Kind.CHAR: "device", Kind.BLOCK: "device", Kind.FIFO: "FIFO",
}


def kind_name(entry: Entry) -> str:
    return _KINDS[entry.kind]


def _kept(path: str, there: Entry, kind: Kind) -> str:
    return f"/{printable(path)}: a {kind_name(there)}, which a {_KINDS[kind]} does not replace"


def joined(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory and name else directory or name
