"""What changed between two trees, as the entries of a layer.

Explicit whiteouts, never opaque markers: not every reader honours those. Files are compared by content when
all their attributes agree, so that nothing depends on clocks. A hard link is written only to a file that
the same layer has: links into lower layers are refused by docker, podman and containerd (LAYER-CASES 81).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from lamina.layer.entry import WHITEOUT_PREFIX, Entry, InvalidLayer, Kind
from lamina.layer.root import ReadableRoot, SocketFound
from lamina.values import dataclass, field, replace

_CHUNK = 1 << 20
_Names = tuple[str, ...]


def diff(lower: ReadableRoot, upper: ReadableRoot) -> Iterator[Entry]:
    """Applied to ``lower``, the entries give ``upper``. In path order, parents before what is in them.

    Both trees stand still meanwhile. Sockets are left out: they live no longer than their process. Raises
    ``InvalidLayer`` for what a layer cannot say, such as a name that begins with ``.wh.``.
    """
    before, after = Links.of(lower), Links.of(upper)
    yield from _Comparison(lower, upper, before, after).entries()


@dataclass(slots=True)
class Links:
    """Names that share an inode, in path order; only of files that have several."""

    by_inode: dict[Hashable, list[str]] = field(default_factory=dict)
    by_path: dict[str, Hashable] = field(default_factory=dict)

    @classmethod
    def of(cls, root: ReadableRoot) -> Links:
        found = cls()
        waiting = [""]
        while waiting:
            directory = waiting.pop()
            for name in root.names(directory):
                path = join(directory, name)
                kind = kind_of(root, path)
                if kind is Kind.DIRECTORY:
                    waiting.append(path)
                    continue
                inode = root.identity(path)
                if kind is not None and inode is not None:
                    found.by_inode.setdefault(inode, []).append(path)
                    found.by_path[path] = inode
        for names in found.by_inode.values():
            names.sort()
        return found

    def group(self, path: str) -> _Names:
        inode = self.by_path.get(path)
        return (path,) if inode is None else tuple(self.by_inode[inode])


class _Comparison:
    def __init__(self, lower: ReadableRoot, upper: ReadableRoot, before: Links, after: Links) -> None:
        self._lower = lower
        self._upper = upper
        self._before = before
        self._after = after
        self._is_kept: dict[_Names, bool] = {}
        # Of each group of lower names, the group of upper names that stays what it is: there can be one.
        self._heirs: dict[_Names, _Names] = {}
        self._written: dict[_Names, str] = {}
        self._lower_directories: dict[str, bool] = {"": True}

    def entries(self) -> Iterator[Entry]:
        old, new = self._lower.look(""), self._upper.look("")
        if not is_alike(old, new):
            yield new
        # Pairs of a path and whether the lower tree has a directory there; last in, first out.
        waiting = self._children("", is_below=True)
        while waiting:
            path, is_below = waiting.pop()
            new_kind = kind_of(self._upper, path)
            if new_kind is None:
                yield whiteout_of(path)
                continue
            old_kind = kind_of(self._lower, path) if is_below else None
            if new_kind is Kind.DIRECTORY:
                new = self._upper.look(path)
                if old_kind is not Kind.DIRECTORY or not is_alike(self._lower.look(path), new):
                    yield new
                waiting.extend(self._children(path, is_below=old_kind is Kind.DIRECTORY))
            elif not self._keeps(self._after.group(path)):
                yield self._changed(path)

    def _children(self, directory: str, *, is_below: bool) -> list[tuple[str, bool]]:
        """In reverse order."""
        names = set(self._upper.names(directory))
        for name in names:
            if name.startswith(WHITEOUT_PREFIX):
                raise InvalidLayer(f"{join(directory, name)!r}: in a layer, this would remove another file")
        below = set(self._lower.names(directory)) if is_below else set()
        found = [
            name for name in sorted(names | below, reverse=True)
            if (name in names and kind_of(self._upper, join(directory, name)) is not None)
            or (name in below and kind_of(self._lower, join(directory, name)) is not None)
        ]
        return [(join(directory, name), name in below) for name in found]

    def _keeps(self, group: _Names) -> bool:
        """Whether all names of a file of the upper tree are, in the lower tree, names of one like it."""
        known = self._is_kept.get(group)
        if known is None:
            known = self._is_kept[group] = self._is_inherited(group)
            if len(group) == 1:
                del self._is_kept[group]  # asked once: not worth keeping
        return known

    def _is_inherited(self, group: _Names) -> bool:
        first = group[0]
        ancestor = self._before.group(first)
        if not set(group) <= set(ancestor) or not self._is_in_lower_directory(first):
            return False
        if kind_of(self._lower, first) is not kind_of(self._upper, first):
            return False
        old, new = self._lower.look(first), self._upper.look(first)
        if not is_alike(old, new) or not has_same_content(old, new):
            return False
        return len(ancestor) == 1 or self._heirs.setdefault(ancestor, group) == group

    def _is_in_lower_directory(self, path: str) -> bool:
        """False where something on the way to a name is no directory in the lower tree."""
        parent = path.rpartition("/")[0]
        steps = [parent]
        while steps[-1] not in self._lower_directories:
            steps.append(steps[-1].rpartition("/")[0])
        found = self._lower_directories[steps[-1]]
        for step in reversed(steps[:-1]):
            found = found and kind_of(self._lower, step) is Kind.DIRECTORY
            self._lower_directories[step] = found
        return found

    def _changed(self, path: str) -> Entry:
        group = self._after.group(path)
        first = self._written.setdefault(group, path) if len(group) > 1 else path
        entry = self._upper.look(path)
        if first != path:
            return replace(entry, kind=Kind.HARDLINK, linkname=first, size=0, open=None, major=0, minor=0)
        if entry.kind is Kind.CHAR and entry.major == entry.minor == 0:
            raise InvalidLayer(f"{path!r}: a character device 0:0, which overlayfs would take for a whiteout")
        return entry


def kind_of(root: ReadableRoot, path: str) -> Kind | None:
    """A socket is nothing."""
    try:
        return root.kind(path)
    except SocketFound:
        return None


def whiteout_of(path: str) -> Entry:
    """What says in a layer that a path is gone."""
    parent, _, name = path.rpartition("/")
    return Entry(join(parent, WHITEOUT_PREFIX + name), mode=0o600)


def join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def is_alike(old: Entry, new: Entry) -> bool:
    """All that an entry says but for content."""
    return _attributes(old) == _attributes(new)


def _attributes(entry: Entry) -> tuple[object, ...]:
    mode = 0 if entry.kind is Kind.SYMLINK else entry.mode  # which means nothing
    return (
        entry.kind, mode, entry.uid, entry.gid, entry.mtime, entry.size, entry.linkname, entry.xattrs,
        entry.major, entry.minor,
    )


def has_same_content(old: Entry, new: Entry) -> bool:
    """Of two that are alike."""
    if old.kind is not Kind.FILE or not old.size:
        return True
    assert old.open is not None
    assert new.open is not None
    with old.open() as one, new.open() as other:
        while True:
            chunk = one.read(_CHUNK)
            if chunk != other.read(_CHUNK):
                return False
            if not chunk:
                return True
