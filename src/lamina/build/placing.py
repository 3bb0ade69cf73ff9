"""Where a selection lands: what a ``COPY`` writes, as the entries of a layer over what is there already.

No file is read here and no filesystem is mounted: what is there is asked of the layers' indexes. BuildKit's
behaviour is the reference: a directory's contents go into what is at the destination; directories that are
there keep their mode and owner; a directory never replaces a file, nor a file a directory.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO, Protocol

from lamina.build.context import Node
from lamina.build.failure import printable
from lamina.errors import Conflict, InvalidInput
from lamina.layer.entry import NO_XATTRS, WHITEOUT_PREFIX, Entry, Kind, ancestors
from lamina.values import dataclass, replace

_MAX_HOPS = 40  # path_resolution(7)
_DIRECTORY_MODE = 0o755


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
    """``owner`` replaces that of every entry, ``mode`` that of all but symlinks. ``now`` is nanoseconds."""

    owner: tuple[int, int] | None = None
    mode: int | None = None
    now: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One thing to write: where it is to be, what it is, and for a file how to read it."""

    target: str
    node: Node
    xattrs: Callable[[], dict[str, bytes]]
    open: Callable[[], BinaryIO] | None = None


class Placing:
    """Collects what one instruction writes. A later source replaces what an earlier one wrote."""

    def __init__(self, below: Below, destination: str, writing: Writing) -> None:
        """``destination`` is absolute; what ends in a slash is a directory."""
        self._below = below
        self._writing = writing
        self._written: dict[str, Entry] = {}
        # Of files with several names. Which of them is the file is known when all are in order.
        self._names: dict[tuple[int, int], list[str]] = {}
        self._is_directory = posixpath.basename(destination) in ("", ".", "..")
        self.place = settle(below, destination)

    def add(self, sources: Iterable[Source], *, is_single: bool) -> None:
        """``is_single``: one file, and the destination may be its name."""
        there = self._below.look(self.place) if self.place not in self._written else None
        is_directory = self._is_directory or not is_single or (
            there is not None and there.kind is Kind.DIRECTORY
        )
        if is_directory and there is not None and there.kind is not Kind.DIRECTORY:
            raise CannotReplace(f"/{printable(self.place)}: a {_name(there)}, and no directory to copy into")
        for source in sources:
            self._add(source, _join(self.place, source.target) if is_directory else self.place)

    def _add(self, source: Source, path: str) -> None:
        node = source.node
        if path.rpartition("/")[2].startswith(WHITEOUT_PREFIX):
            raise InvalidInput(
                f"{printable(path)}: in a layer, a name that begins with .wh. removes another file; rename it"
            )
        there = self._standing(path)
        if node.kind is Kind.DIRECTORY:
            if there is not None and there.kind is not Kind.DIRECTORY:
                raise CannotReplace(_kept(path, there, node.kind))
            if there is None:
                self._written[path] = self._entry(source, path)
            return
        if there is not None and there.kind is Kind.DIRECTORY:
            raise CannotReplace(_kept(path, there, node.kind))
        self._written[path] = self._entry(source, path)

    def make_directories(self, path: str) -> None:
        """``WORKDIR``: what is missing of it, each with the owner that was asked for."""
        for each in (*ancestors(path), path):
            there = self._standing(each)
            if there is None:
                self._written[each] = self._new_directory(each)
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
                    there = self._below.look(parent)
                    found[parent] = self._new_directory(parent) if there is None else there
        ordered = [found[path] for path in sorted(found, key=lambda path: path.split("/"))]
        return self._linked(ordered)

    # -- parts

    def _standing(self, path: str) -> Entry | None:
        return self._written[path] if path in self._written else self._below.look(path)

    def _entry(self, source: Source, path: str) -> Entry:
        node, writing = source.node, self._writing
        uid, gid = (node.uid, node.gid) if writing.owner is None else writing.owner
        mode = node.mode if writing.mode is None or node.kind is Kind.SYMLINK else writing.mode
        is_file = node.kind is Kind.FILE
        entry = Entry(
            path, node.kind, mode, uid, gid, node.mtime_ns, node.size if is_file else 0, node.linkname,
            source.xattrs() or NO_XATTRS, open=source.open,
        )
        if node.kind in (Kind.CHAR, Kind.BLOCK):
            entry = replace(entry, major=os.major(node.rdev), minor=os.minor(node.rdev))
        if is_file and node.links > 1:
            self._names.setdefault((node.device, node.inode), []).append(path)
        return entry

    def _linked(self, ordered: Sequence[Entry]) -> list[Entry]:
        file_of: dict[str, str] = {}
        for names in self._names.values():
            still = sorted({*names}, key=lambda path: path.split("/"))
            file_of.update(dict.fromkeys(still[1:], still[0]))
        return [
            replace(entry, kind=Kind.HARDLINK, size=0, linkname=file_of[entry.path], open=None,
                    xattrs=NO_XATTRS)
            if entry.path in file_of and entry.kind is Kind.FILE else entry
            for entry in ordered
        ]

    def _new_directory(self, path: str) -> Entry:
        uid, gid = self._writing.owner or (0, 0)
        return Entry(path, Kind.DIRECTORY, _DIRECTORY_MODE, uid, gid, self._writing.now)


def settle(below: Below, path: str) -> str:
    """Where an absolute path leads, through the symlinks that are there; what is missing stays as it is said.

    Nothing leads out: ``..`` ends at the root. Raises ``InvalidInput`` for a file on the way, or a loop.
    """
    places = [""]
    names = path.split("/")[::-1]
    hops = 0
    while names:
        name = names.pop()
        if name in ("", "."):
            continue
        if name == "..":
            del places[max(1, len(places) - 1):]
            continue
        here = _join(places[-1], name)
        there = below.look(here)
        is_last = not any(each not in ("", ".") for each in names)
        if there is not None and there.kind is Kind.SYMLINK:
            hops += 1
            if hops > _MAX_HOPS:
                raise InvalidInput(f"{printable(path)}: too many symlinks on the way")
            if there.linkname.startswith("/"):
                del places[1:]
            names.extend(there.linkname.split("/")[::-1])
            continue
        if there is not None and there.kind is not Kind.DIRECTORY and not is_last:
            raise CannotReplace(f"/{printable(here)}: not a directory, so nothing can be in it")
        places.append(here)
    return places[-1]


_KINDS = {
    Kind.FILE: "file", Kind.DIRECTORY: "directory", Kind.SYMLINK: "symlink", Kind.HARDLINK: "file",
    Kind.CHAR: "device", Kind.BLOCK: "device", Kind.FIFO: "FIFO",
}


def _name(entry: Entry) -> str:
    return _KINDS[entry.kind]


def _kept(path: str, there: Entry, kind: Kind) -> str:
    return f"/{printable(path)}: a {_name(there)}, which a {_KINDS[kind]} does not replace"


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory and name else directory or name
