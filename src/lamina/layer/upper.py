"""What was changed above a tree, as the entries of a layer: from overlayfs' own notes where there are any.

An upper directory holds what a container wrote, what it only opened for writing, the directories above all
that, and marks for what is gone. So it alone is walked; the tree below is asked about those names and no
others. Where no driver keeps such notes, both trees are compared (``lamina.layer.diff``). What comes out is
the same: explicit whiteouts, never opaque markers, and nothing that is as it was.

Every directory above an entry is listed too: engines disagree about those that a layer leaves out
(LAYER-CASES 73), and a layer that lists them unpacks alike on every base.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Hashable, Iterator, Mapping
from enum import StrEnum

from lamina.layer.diff import Links, diff, has_same_content, is_alike, join, kind_of, whiteout_of
from lamina.layer.entry import (
    AUFS_PREFIX,
    NO_XATTRS,
    OPAQUE_NAME,
    WHITEOUT_PREFIX,
    Entry,
    InvalidLayer,
    Kind,
    PathEscapes,
)
from lamina.layer.exactly import unsayable
from lamina.layer.root import DirectoryRoot, ReadableRoot, SocketFound
from lamina.layer.tarheader import MAX_NAME, encode
from lamina.values import dataclass, replace

# What this machine says of its files: labels and signatures mean nothing on another one.
_MACHINE_XATTRS = (
    "security.apparmor", "security.evm", "security.ima", "security.selinux", "security.SMACK64",
)
_PLAIN_ROOT = Entry("", Kind.DIRECTORY, 0o755)
_NOTHING = Entry("", Kind.CHAR, 0)
_GONE = (FileNotFoundError, NotADirectoryError, PathEscapes)
# What fuse-overlayfs writes: the kernel's marks, one of its own where it may not set those, and files.
FUSE = "fuse"
_FUSE_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque")
_FUSE_FILES = frozenset({OPAQUE_NAME, ".wh..opq"})


class ChangeKind(StrEnum):
    """Docker's letters."""

    ADDED = "A"
    CHANGED = "C"
    DELETED = "D"


@dataclass(frozen=True, slots=True)
class Changed:
    """``entry`` is how a layer says it: for what is gone, the whiteout."""

    kind: ChangeKind
    path: str
    entry: Entry


class ContainerRoot(DirectoryRoot):
    """A container's files, or those below them, without what this machine alone says of them.

    ``is_exact``: what no layer can say is told too, as attributes of no namespace, for who makes the same
    files elsewhere (see ``exactly``).
    """

    is_exact = False
    _last: tuple[str, os.stat_result] | None = None

    def _status(self, path: str) -> os.stat_result:
        """Kind, attributes and inode of a path are asked for one after the other: one answer does for all."""
        if self._last is None or self._last[0] != path:
            self._last = path, super()._status(path)
        return self._last[1]

    def is_touched(self, path: str, entry: Entry) -> bool:
        """Whether size or time alone show that a regular file is not what it was; cheap, and often enough."""
        status = self._status(path)
        return status.st_size != entry.size or status.st_mtime_ns != entry.mtime

    def look(self, path: str) -> Entry:
        entry = super().look(path)
        if any(name.startswith(_MACHINE_XATTRS) for name in entry.xattrs):
            entry.xattrs = {
                name: value for name, value in entry.xattrs.items() if not name.startswith(_MACHINE_XATTRS)
            }
        if self.is_exact:
            parent, name = self._parent(path) if path else (self.directories.top, ".")
            entry.xattrs = {**entry.xattrs, **unsayable(parent, name, self._status(path))}
        return entry

    def kind_of(self, path: str, status: os.stat_result) -> Kind:
        return Kind.FIFO if self.is_exact and stat.S_ISSOCK(status.st_mode) else super().kind_of(path, status)

    def is_opaque(self, path: str, namespace: str) -> bool:
        """Whether overlayfs hides all that is below a directory."""
        marks = _FUSE_OPAQUE if namespace == FUSE else (f"{namespace}.overlay.opaque",)
        return any(self._has_mark(path, mark) for mark in marks)

    def _has_mark(self, path: str, xattr: str) -> bool:
        try:
            return os.getxattr(self.directories.get(path), xattr) == b"y"
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
                return False
            raise


def upper_changes(
    upper: ContainerRoot, lower: ContainerRoot | None, namespace: str, *, is_root_plain: bool = False
) -> Iterator[Changed]:
    """What an upper directory changes in the tree below it; without one, everything is new.

    ``namespace`` is that of overlayfs' xattrs, or :data:`FUSE`. With ``is_root_plain``, no layer says what
    the root is like. In path order, parents before what is in them. The upper directory may change
    meanwhile: what goes away under our hands is left out.
    """
    yield from _Walk(upper, lower, namespace, is_root_plain=is_root_plain).changes()


def tree_changes(upper: ReadableRoot, lower: ReadableRoot) -> Iterator[Changed]:
    """The same by comparing two trees: slower, and what the other is measured by."""
    directories = {"": True}
    for entry in diff(lower, upper):
        path = entry.path if (hidden := entry.hides) is None else hidden
        if hidden is not None:
            yield Changed(ChangeKind.DELETED, path, entry)
            continue
        is_below = bool(path) and _is_directory(lower, path.rpartition("/")[0], directories)
        is_new = path and not (is_below and kind_of(lower, path) is not None)
        yield Changed(ChangeKind.ADDED if is_new else ChangeKind.CHANGED, path, entry)


def listed(changes: Iterator[Changed], upper: ReadableRoot, without: Mapping[str, str]) -> Iterator[Changed]:
    """With the directories above them, and without those of ``without`` that are new and empty still.

    ``without`` names what was made only so that something could be mounted there: ``"file"`` or
    ``"directory"`` by path.
    """
    known = {""}
    held: dict[str, Changed] = {}
    for change in changes:
        stub = without.get(change.path) if change.kind is ChangeKind.ADDED else None
        if stub == "directory" and change.entry.kind is Kind.DIRECTORY:
            held[change.path] = change
            continue
        if stub == "file" and change.entry.kind is Kind.FILE and not change.entry.size:
            continue
        for parent in _unlisted(change.path, known):
            known.add(parent)
            # A directory `.wh.x` that only holds files is none of the marks, but would be one if it were
            # listed.
            if not parent.rpartition("/")[2].startswith(WHITEOUT_PREFIX):
                yield held.get(parent) or _as_it_is(upper, parent)
        if change.entry.kind is Kind.DIRECTORY:
            known.add(change.path)
        yield change


def _as_it_is(root: ReadableRoot, directory: str) -> Changed:
    return Changed(ChangeKind.CHANGED, directory, root.look(directory))


def sayable(change: Changed) -> Entry:
    """The entry as a layer can hold it. Raises ``InvalidLayer`` for what none can say (SECURITY-CASES 32)."""
    entry = change.entry
    name = entry.path.rpartition("/")[2]
    if change.kind is ChangeKind.DELETED:
        if name.startswith(AUFS_PREFIX) or len(encode(name)) > MAX_NAME:
            raise InvalidLayer(f"{change.path!r}: gone, and no whiteout can have such a name; keep the file")
        return entry
    if name.startswith(WHITEOUT_PREFIX):
        raise InvalidLayer(
            f"{change.path!r}: in a layer, this would remove another file; rename or remove it first"
        )
    if entry.kind is Kind.CHAR and entry.major == entry.minor == 0:
        raise InvalidLayer(f"{change.path!r}: a character device 0:0, which overlayfs takes for a whiteout")
    if entry.kind is Kind.HARDLINK and entry.xattrs:
        return replace(entry, xattrs=NO_XATTRS)
    return entry


class _Walk:
    def __init__(
        self, upper: ContainerRoot, lower: ContainerRoot | None, namespace: str, *, is_root_plain: bool
    ) -> None:
        self._upper = upper
        self._lower = lower
        self._namespace = namespace
        self._is_root_plain = is_root_plain or lower is None
        self._written: dict[Hashable, str] = {}
        self._links: Links | None = None
        # A path, whether the tree below has the directory that it is in, and whether that one shows through.
        # Last in, first out.
        self._waiting: list[tuple[str, bool, bool]] = []

    def changes(self) -> Iterator[Changed]:
        root = self._upper.look("")
        below = _PLAIN_ROOT if self._is_root_plain or self._lower is None else self._lower.look("")
        if self._namespace == FUSE:  # which changes the time of a directory when it copies a file into it
            root = replace(root, mtime=below.mtime)
        if not is_alike(below, root):
            yield Changed(ChangeKind.CHANGED, "", root)
        has_lower = self._lower is not None
        self._enter("", is_below=has_lower, is_merged=has_lower)
        while self._waiting:
            path, is_below, is_merged = self._waiting.pop()
            try:
                found = self._change(path, is_below=is_below, is_merged=is_merged)
            except _GONE:
                continue
            if found is not None:
                yield found

    def _enter(self, directory: str, *, is_below: bool, is_merged: bool) -> None:
        names = set(self._upper.names(directory))
        if self._namespace == FUSE:
            names -= _FUSE_FILES
        if is_below and not is_merged:
            assert self._lower is not None
            names.update(self._lower.names(directory))
        self._waiting += [
            (join(directory, name), is_below, is_merged) for name in sorted(names, reverse=True)
        ]

    def _change(self, path: str, *, is_below: bool, is_merged: bool) -> Changed | None:
        entry = self._seen(path, is_merged=is_merged)
        old = kind_of(self._lower, path) if is_below and self._lower is not None else None
        if entry is _NOTHING or self._is_whiteout(path, entry):
            return None if old is None else Changed(ChangeKind.DELETED, path, whiteout_of(path))
        kind = ChangeKind.ADDED if old is None else ChangeKind.CHANGED
        if entry.kind is Kind.DIRECTORY:
            change = Changed(kind, path, entry)
            return self._directory(change, is_below=old is Kind.DIRECTORY, is_merged=is_merged)
        inode = self._upper.identity(path)
        if inode is None:
            return None if old is not None and self._is_as_it_was(path, entry) else Changed(kind, path, entry)
        first = self._written.setdefault(inode, path)
        if first != path:
            entry = replace(
                entry, kind=Kind.HARDLINK, linkname=first, size=0, open=None, major=0, minor=0,
                xattrs=NO_XATTRS,
            )
        return Changed(kind, path, entry)

    def _seen(self, path: str, *, is_merged: bool) -> Entry:
        """A socket is nothing, and what was there before it is gone."""
        try:
            return self._upper.look(path)
        except SocketFound:
            return _NOTHING
        except FileNotFoundError:
            if is_merged:
                raise
            return _NOTHING  # only the tree below has the name, and its directory is hidden

    def _is_whiteout(self, path: str, entry: Entry) -> bool:
        """Really on disk: what an empty file is noted to stand for is no mark of the kernel's."""
        if entry.kind is not Kind.CHAR or entry.major or entry.minor or self._lower is None:
            return False
        return self._upper.kind(path) is Kind.CHAR

    def _directory(self, change: Changed, *, is_below: bool, is_merged: bool) -> Changed | None:
        path = change.path
        if is_below and is_merged:
            is_merged = not self._upper.is_opaque(path, self._namespace)
        self._enter(path, is_below=is_below, is_merged=is_merged)
        assert self._lower is not None or not is_below
        if is_below and self._lower is not None and is_alike(self._lower.look(path), change.entry):
            return None
        return change

    def _is_as_it_was(self, path: str, entry: Entry) -> bool:
        """Copied up, and nothing more. A file with other names below is none of them any more."""
        assert self._lower is not None
        if entry.kind is Kind.FILE and self._lower.is_touched(path, entry):
            return False
        old = self._lower.look(path)
        return is_alike(old, entry) and not self._has_other_names(path) and has_same_content(old, entry)

    def _has_other_names(self, path: str) -> bool:
        """In the tree below, which is walked for it: directories for other stacks share its inodes."""
        assert self._lower is not None
        if self._lower.identity(path) is None:
            return False
        if self._links is None:
            self._links = Links.of(self._lower)
        return len(self._links.group(path)) > 1


def _unlisted(path: str, known: set[str]) -> list[str]:
    """Directories above a path that are not listed, the outermost first."""
    found = []
    parent = path.rpartition("/")[0]
    while parent not in known:
        found.append(parent)
        parent = parent.rpartition("/")[0]
    return found[::-1]


def _is_directory(root: ReadableRoot, path: str, known: dict[str, bool]) -> bool:
    """False where anything on the way is no directory in that tree."""
    for step in [*_unlisted(path, set(known)), path]:
        if step not in known:
            parent = step.rpartition("/")[0]
            known[step] = known[parent] and kind_of(root, step) is Kind.DIRECTORY
    return known[path]
