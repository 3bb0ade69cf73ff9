"""Containers inside files: compressed files, tars and zips, searched level by level to a stated depth.

Everything streams. What a file inflates to is counted over all levels against a budget for the file and one
for the whole search, so that a bomb ends as a sentence: it could not be decided. A container that is merely
damaged, or encrypted, is searched as far as it can be read, and noted.
"""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from typing import IO, cast

from lamina.insight.inflating import HEAD, Container, NeedsMemory, container_of, inflated
from lamina.insight.needles import Needle
from lamina.insight.passing import Passing, Readable
from lamina.insight.scan import MAX_MATCHES, Match, Scanner
from lamina.insight.zipped import DirectoryTooLarge, is_stored, open_members
from lamina.layer.entry import InvalidLayer, PathEscapes
from lamina.layer.tarstream import TarLimits, TarReader
from lamina.values import dataclass, field, replace

DEPTH = 3
# Of one file and of one sort, told at most: a zip of a million damaged members is one damaged zip.
MAX_TROUBLES = 100

_CHUNK = 1 << 20
# A zip is read from its end: what is larger than this waits in a temporary file.
_IN_MEMORY = 8 << 20
# A tar's members are remembered until the search has passed them.
_MOST_MEMBERS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class NestedLimits:
    """What a file may make us do. All of its levels together may give ``free_bytes``, and beyond them
    ``max_ratio`` times its own size, but never more than ``max_bytes``; all files together ``total_bytes``.
    """

    depth: int = DEPTH
    free_bytes: int = 256 << 20
    max_ratio: int = 250
    max_bytes: int = 32 << 30
    total_bytes: int = 64 << 30
    entries: int = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NestedMatch:
    """``trail`` leads from the file inwards: names of members. ``match.offset`` counts in the last one named,
    or in what the file itself inflates to.
    """

    trail: tuple[str, ...]
    match: Match


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why something was not searched whole. ``is_undecided`` is false for what nobody can read."""

    trail: tuple[str, ...]
    reason: str
    is_undecided: bool


class _Spent(Exception):
    """More came out of a file than it may give."""


@dataclass(slots=True)
class _Found:
    """What one file gave, while it is searched."""

    left: int
    matches: list[NestedMatch] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)


class NestedSearch:
    """One for a whole search: its budget is shared by all files. ``inflated_bytes`` is what came out so far.

    ``scratch`` is a directory for zips that are too large to be held in memory.
    """

    def __init__(
        self, needles: Sequence[Needle], limits: NestedLimits | None = None, *, scratch: str | None = None
    ) -> None:
        self.inflated_bytes = 0
        self._needles = needles
        self._limits = limits or NestedLimits()
        self._scratch = scratch
        self._found = _Found(left=0)

    def search(
        self, stream: Readable, container: Container, size: int
    ) -> tuple[list[NestedMatch], list[Trouble]]:
        """Of a file of ``size`` bytes whose own bytes somebody else searches. Reads as much as it needs."""
        limits = self._limits
        allowed = min(limits.max_bytes, max(limits.free_bytes, limits.max_ratio * size))
        self._found = found = _Found(left=min(allowed, limits.total_bytes - self.inflated_bytes))
        try:
            self._open(stream, container, (), 1)
        except _Spent:
            reason = f"{container}: gives more than the {allowed} bytes that are searched of it"
            if allowed > limits.total_bytes - self.inflated_bytes:
                reason = f"{container}: the budget of {limits.total_bytes} bytes for all files is used up"
            self._note((), reason, is_undecided=True)
        return found.matches, found.troubles

    def _open(self, stream: Readable, container: Container, trail: tuple[str, ...], depth: int) -> None:
        """A container at a depth, counted from 1: its content is searched, containers in it are opened."""
        if depth > self._limits.depth:
            reason = f"{container}: more than {self._limits.depth} archives deep"
            self._note(trail, reason, is_undecided=True)
            return
        try:
            if container is Container.ZIP:
                self._zip(stream, trail, depth)
            elif container is Container.TAR:
                self._tar(Passing(stream, _nobody), trail, depth, None)
            else:
                self._content(inflated(stream, container), trail, depth)
        except (NeedsMemory, DirectoryTooLarge) as error:
            self._note(trail, f"{container}: {error}", is_undecided=True)
        except (InvalidLayer, PathEscapes) as error:
            self._note(trail, f"{container}: {error}", is_undecided=False)

    def _content(self, stream: Readable, trail: tuple[str, ...], depth: int) -> None:
        """What came out of a container: searched whole, and opened if it is a container itself."""
        passed = _Passed(Scanner(self._needles))
        passing = Passing(stream, lambda chunk: self._see(passed, chunk))
        try:
            container = container_of(passing.peek(HEAD))
            if container is Container.TAR:
                self._tar(passing, trail, depth + 1, passed)
            elif container is not None:
                self._open(passing, container, trail, depth + 1)
            passing.drain()
        finally:
            passed.scanner.finish()
            self._keep(passed, trail)

    def _see(self, passed: _Passed, chunk: bytes) -> None:
        self._spend(len(chunk))
        passed.scanner.feed(chunk)

    def _tar(self, stream: Passing, trail: tuple[str, ...], depth: int, passed: _Passed | None) -> None:
        """Its bytes are searched by whoever reads the stream; members give names to what is found."""
        reader = TarReader(stream, limits=TarLimits(entries=self._limits.entries))
        try:
            for entry in reader:
                if passed is not None:
                    passed.members.append((entry.header_offset, entry.data_offset, entry.path))
                    if len(passed.members) > _MOST_MEMBERS:
                        self._keep(passed, trail)
                if entry.open is not None and entry.size:
                    member = Passing(entry.open(), _nobody)
                    container = container_of(member.peek(HEAD))
                    if container is not None:
                        self._open(member, container, (*trail, entry.path), depth + 1)
        except (InvalidLayer, PathEscapes) as error:
            self._note(trail, str(error), is_undecided=False)

    def _zip(self, stream: Readable, trail: tuple[str, ...], depth: int) -> None:
        with tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=self._scratch) as spool:
            while chunk := stream.read(_CHUNK):
                spool.write(chunk)
            for info, member in open_members(cast("IO[bytes]", spool)):
                inner = (*trail, info.filename)
                try:
                    if is_stored(info):
                        self._stored(member, inner, depth)
                    else:
                        self._content(member, inner, depth)
                except InvalidLayer as error:
                    self._note(inner, f"zip: {error}", is_undecided=False)

    def _stored(self, member: Readable, trail: tuple[str, ...], depth: int) -> None:
        """Its bytes were searched with the archive's own: it is only opened."""
        passing = Passing(member, lambda chunk: self._spend(len(chunk)))
        container = container_of(passing.peek(HEAD))
        if container is not None:
            self._open(passing, container, trail, depth + 1)

    def _spend(self, size: int) -> None:
        self.inflated_bytes += size
        self._found.left -= size
        if self._found.left < 0:
            raise _Spent

    def _keep(self, passed: _Passed, trail: tuple[str, ...]) -> None:
        """Names what was found so far, and forgets members that nothing more can be found in."""
        for match in passed.scanner.matches:
            if len(self._found.matches) < MAX_MATCHES:
                self._found.matches.append(passed.named(match, trail))
        passed.scanner.matches.clear()
        del passed.members[: max(0, passed.member_at(passed.scanner.position))]

    def _note(self, trail: tuple[str, ...], reason: str, *, is_undecided: bool) -> None:
        alike = [each for each in self._found.troubles if each.is_undecided == is_undecided]
        if len(alike) < MAX_TROUBLES:
            self._found.troubles.append(Trouble(trail=trail, reason=reason, is_undecided=is_undecided))


class _Passed:
    """One inflated stream: its scanner, and the latest members of the tar that it is, if it is one."""

    def __init__(self, scanner: Scanner) -> None:
        self.scanner = scanner
        # header offset, data offset (-1 without), path
        self.members: list[tuple[int, int, str]] = []

    def member_at(self, offset: int) -> int:
        """-1 before the first."""
        return bisect_right(self.members, offset, key=lambda member: member[0]) - 1

    def named(self, match: Match, trail: tuple[str, ...]) -> NestedMatch:
        number = self.member_at(match.offset)
        if number < 0:
            return NestedMatch(trail=trail, match=match)
        _header, data, path = self.members[number]
        if 0 <= data <= match.offset:
            return NestedMatch(trail=(*trail, path), match=replace(match, offset=match.offset - data))
        return NestedMatch(trail=(*trail, path, "(header)"), match=match)


def _nobody(_chunk: bytes) -> None:
    pass
