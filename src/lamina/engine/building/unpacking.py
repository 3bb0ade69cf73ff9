"""Archives that ADD unpacks become a layer: their members in their own order, over what is there already.

Later members replace earlier ones as if each were put in place in its turn. What comes of that is known after
a first reading, which keeps a number for each name; the second one hands out what is left, and holds nothing
else however many members there are.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, TypeGuard

from lamina.build.failure import printable
from lamina.build.placing import (
    Below,
    CannotReplace,
    Writing,
    insist_name,
    joined,
    kind_name,
    new_directory,
    no_directory,
    settle,
)
from lamina.engine.building.numbers import Numbers
from lamina.errors import InvalidInput
from lamina.layer.entry import OPAQUE_NAME, Entry, Kind, ancestors
from lamina.layer.tarstream import TarReader
from lamina.values import replace

# Beside the kinds of members: a directory that an archive speaks of only by what is in it.
_IMPLIED = 15
_DIRECTORIES = (Kind.DIRECTORY, _IMPLIED)
_BITS = 4


class Unpacking:
    """``spools`` hold plain tars, and are read twice."""

    def __init__(
        self, below: Below, destination: str, writing: Writing, spools: Sequence[BinaryIO]
    ) -> None:
        """Raises ``CannotReplace``, and ``InvalidInput`` for what no filesystem could hold."""
        self._below = below
        self._writing = writing
        self._spools = spools
        self._place = settle(below, destination)
        # What each name stands for so far: the number of its member, and the kind.
        self._standing = Numbers()
        # Directories that gave way to something else, and the number of that: what was in them is gone.
        self._cleared: dict[str, int] = {}
        # Directories that came after something else: nothing of those that were there shows in them.
        self._opaque: set[str] = set()
        # Directories that are listed, or listed again, after what is in them.
        self._late: dict[str, Entry] = {}
        # Numbers of links, and of the member whose content each has.
        self._roots: dict[int, int] = {}
        self._entered = ""
        self._left = bytearray()  # by number: members whose names nothing else has taken
        there = below.look(self._place)
        if there is not None and there.kind is not Kind.DIRECTORY:
            raise no_directory(self._place, there)
        self._survey()

    # -- the first reading

    def _survey(self) -> None:
        begin, current, number = 0, None, -1
        for number, spool, entry in self._members():
            if spool is not current:
                begin, current = number, spool
            if entry.path:
                path = joined(self._place, entry.path)
                insist_name(path)
                self._enter(path.rpartition("/")[0], number)
                self._take(path, number, entry, begin)
        self._left = bytearray(number + 1)
        for value in self._standing.numbers():
            if value & (1 << _BITS) - 1 != _IMPLIED:
                self._left[value >> _BITS] = 1

    def _members(self) -> Iterator[tuple[int, BinaryIO, Entry]]:
        number = 0
        for spool in self._spools:
            spool.seek(0)
            for entry in TarReader(spool):
                yield number, spool, entry
                number += 1

    def _enter(self, directory: str, number: int) -> None:
        """Nothing is written through a link, the archive's or the image's."""
        if directory == self._entered:
            return
        for above in (*ancestors(directory), directory):
            if len(above) <= len(self._place):
                continue
            known = self._known(above)
            if known is None:
                there = self._look(above)
                if there is None:
                    insist_name(above)
                elif there.kind is not Kind.DIRECTORY:
                    raise _closed(above, there.kind)
                self._standing.exchange(above, number << _BITS | _IMPLIED)
            elif known not in _DIRECTORIES:
                raise _closed(above, Kind(known))
        self._entered = directory

    def _take(self, path: str, number: int, entry: Entry, begin: int) -> None:
        """``begin`` is the number of the archive's first member: none links to another archive."""
        kind = self._link(entry, number, begin) if entry.kind is Kind.HARDLINK else entry.kind
        known = self._kind(path, self._standing.exchange(path, number << _BITS | kind))
        if kind is Kind.DIRECTORY:
            if known in _DIRECTORIES:
                self._late[path] = entry
                return
            self._late.pop(path, None)
            if known is not None:
                self._opaque.add(path)
        elif known in _DIRECTORIES:
            self._cleared[path] = number
            self._entered = ""

    def _link(self, entry: Entry, number: int, begin: int) -> Kind:
        target = joined(self._place, entry.linkname)
        known = self._known(target)
        original = (self._standing.get(target) or 0) >> _BITS
        if known is None or known in _DIRECTORIES or original < begin:
            raise InvalidInput(
                f"{printable(entry.path)}: links to {printable(entry.linkname)}, which the archive lacks"
            )
        self._roots[number] = self._roots.get(original, original)
        return Kind(known)

    # -- what is known

    def _known(self, path: str) -> int | None:
        """The kind of what the archive has put there, unless it is gone again."""
        return self._kind(path, self._standing.get(path))

    def _kind(self, path: str, value: int | None) -> int | None:
        if value is None or self._is_cleared(path, value >> _BITS):
            return None
        return value & (1 << _BITS) - 1

    def _is_cleared(self, path: str, number: int) -> bool:
        return bool(self._cleared) and any(self._cleared.get(above, -1) > number for above in ancestors(path))

    def _look(self, path: str) -> Entry | None:
        """What was there before, where it still shows."""
        if self._opaque and any(above in self._opaque for above in ancestors(path)):
            return None
        return self._below.look(path)

    # -- the second reading

    def entries(self) -> Iterator[Entry]:
        """Each may be read until the next one is asked for. Directories that something is written into are
        listed too, before it, if the archive does not do so itself.
        """
        leading = _Leading(self)
        originals = set(self._roots.values())
        kept: dict[int, tuple[BinaryIO, Entry]] = {}
        first: dict[int, str] = {}
        for number, spool, entry in self._members():
            if not entry.path:
                continue
            path = joined(self._place, entry.path)
            is_left = self._is_left(path, number)
            root = self._roots.get(number, number if number in originals else -1)
            if root == number:
                if is_left and entry.kind is Kind.FILE:
                    first[root] = path
                else:
                    kept[root] = spool, entry
            if not is_left:
                continue
            yield from leading.to(path.rpartition("/")[0])
            if entry.kind is Kind.HARDLINK:
                yield self._linked(path, root, first, kept)
                continue
            if path not in leading.told:
                if path in self._late:
                    leading.told.add(path)
                yield from self.marked(replace(entry, path=path))
        self._standing = Numbers()  # what comes next needs room as well

    def _is_left(self, path: str, number: int) -> bool:
        return bool(self._left[number]) and not self._is_cleared(path, number)

    @staticmethod
    def _linked(
        path: str, root: int, first: dict[int, str], kept: Mapping[int, tuple[BinaryIO, Entry]]
    ) -> Entry:
        """The first name that is left of a file has its content, also where the original's name has not."""
        if root in first:
            return Entry(path, Kind.HARDLINK, linkname=first[root])
        spool, original = kept[root]
        if original.kind is not Kind.FILE:
            return replace(original, path=path)
        first[root] = path
        return replace(original, path=path, open=lambda: io.BufferedReader(_Content(spool, original)))

    def led(self, directory: str) -> Iterator[Entry]:
        """What must come before something in a directory; nothing if the archive has listed it by then."""
        if self._known(directory) == Kind.DIRECTORY:
            if directory in self._late:
                yield from self.marked(replace(self._late[directory], path=directory))
            return
        there = self._look(directory)
        yield new_directory(directory, self._place, self._writing) if not _is_directory(there) else there

    def marked(self, entry: Entry) -> Iterator[Entry]:
        yield entry
        path = entry.path
        if entry.kind is Kind.DIRECTORY and path in self._opaque and _is_directory(self._look(path)):
            yield Entry(f"{path}/{OPAQUE_NAME}", mtime=entry.mtime)


class _Leading:
    """The directories above a member, each once. ``told`` are those that need no further line."""

    def __init__(self, unpacking: Unpacking) -> None:
        self.told = {""}
        self._unpacking = unpacking
        self._last = ""

    def to(self, directory: str) -> Iterator[Entry]:
        if directory == self._last:
            return
        self._last = directory
        for above in (*ancestors(directory), directory):
            if above not in self.told:
                for entry in self._unpacking.led(above):
                    self.told.add(above)
                    yield entry


class _Content(io.RawIOBase):
    """A member's bytes, while the archive is being read somewhere else."""

    def __init__(self, spool: BinaryIO, entry: Entry) -> None:
        super().__init__()
        self._descriptor = spool.fileno()
        self._at, self._end = entry.data_offset, entry.data_offset + entry.size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        chunk = os.pread(self._descriptor, min(len(buffer), self._end - self._at), self._at)
        buffer[: len(chunk)] = chunk
        self._at += len(chunk)
        return len(chunk)


def _is_directory(entry: Entry | None) -> TypeGuard[Entry]:
    return entry is not None and entry.kind is Kind.DIRECTORY


def _closed(path: str, kind: Kind) -> CannotReplace:
    return CannotReplace(f"/{printable(path)}: a {kind_name(Entry(path, kind))}, so nothing can be in it")
