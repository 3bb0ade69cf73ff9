"""One layer onto a root: what each entry does, whoever carries it out.

image-spec layer.md, "Applying Changesets", with the practice of those who do it:

- A whiteout hides what lower layers have, never what its own layer has, wherever in the tar it stands. An
  opaque marker does so for all that is in its directory.
- A directory over a directory replaces its attributes only. Anything else takes the place of what was there.
- Directories that are not listed are there all the same (mode 0755, root's, from 1970), and those of lower
  layers stay what they were, times included.
- A symlink on the way to an entry is followed inside the root, a symlink at its end never. One of a lower
  layer is followed until its whiteout has been seen.
- A hard link has no attributes of its own; it may be one to a symlink.
- What AUFS kept in ``.wh..wh.plnk`` may be linked to, and then goes; its other files never come.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from functools import partial
from typing import NoReturn

from lamina.errors import Denied
from lamina.layer.entry import AUFS_PREFIX, WHITEOUT_PREFIX, Entry, InvalidLayer, Kind, ancestors
from lamina.layer.root import Content, Root, WhiteoutStyle, Write
from lamina.layer.tarstream import TarReader
from lamina.layer.way import MAX_HOPS
from lamina.values import dataclass

_CHUNK = 1 << 20
_AUFS_LINKS = ".wh..wh.plnk"
# Names read on the way through symlinks, in one layer: an honest one needs a few for an entry.
MAX_STEPS = 2_000_000
_LAYERS_FAULT = frozenset({errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EINVAL})


@dataclass(frozen=True, slots=True)
class Applied:
    """How many entries a layer had, whiteouts included, and how many bytes of content."""

    entries: int
    size: int


def apply(entries: Iterable[Entry], root: Root) -> Applied:
    """Not undone when it fails half way: the caller throws the root away, or works on a copy.

    Raises ``InvalidLayer`` and ``PathEscapes`` for what the layer must not say, ``Denied`` for what this
    process may not do.
    """
    applying = Applying(root)
    reader = entries if isinstance(entries, TarReader) else None
    for entry in entries:
        applying.take(entry, partial(_pump, entry) if reader is None else reader.copy_data)
    return applying.finish()


class Applying:
    """The acts of one layer. ``take`` every entry in order, then ``finish``."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._is_alone = root.begin()
        self._is_overlay = root.whiteouts is not WhiteoutStyle.REMOVE
        # Directories as entries spell them, and where they are. Forgotten when anything is removed.
        self.places: dict[str, str] = {"": ""}
        # What is of this layer, and the directories above it. Kept only where there is something else too.
        self._written: set[str] = set()
        # How directories are to be in the end: listed, implied by what is in them, or as they were before.
        self._listed: dict[str, Entry] = {}
        self._implied: dict[str, Entry] = {}
        self._touched: dict[str, Entry] = {"": root.look("")}
        # What the overlay styles have left in the root.
        self._whiteouts: set[str] = set()
        self._sealed: set[str] = set()
        self._pruned: set[str] = set()
        self._aufs: dict[str, None] = {}
        self._steps = 0
        self.count = 0
        self.size = 0

    def take(self, entry: Entry, content: Content) -> None:
        """``content`` gives the bytes of a file; it is called while the entry is current, or not at all."""
        self.count += 1
        self.size += entry.size
        try:
            self._take(entry, content)
        except OSError as error:
            explain(error, entry.path)

    def finish(self) -> Applied:
        """Directories' attributes, the deepest first: what is done in one changes its times."""
        for path in self._aufs:
            self._remove_tree(path)
        # overlayfs lists a directory that it does not merge as it is: with the whiteouts in it, as names that
        # lead nowhere.
        for path in self._whiteouts if self._sealed else ():
            if not self._sealed.isdisjoint(["", *ancestors(path)]):
                self._root.remove(path)
        for path, entry in sorted((self._touched | self._implied | self._listed).items(), reverse=True):
            try:
                self._root.describe(path, entry)
            except OSError as error:
                explain(error, path)
        return Applied(self.count, self.size)

    # -- what an entry is

    def _take(self, entry: Entry, content: Content) -> None:
        path = entry.path
        if not path:
            if entry.kind is not Kind.DIRECTORY:
                raise InvalidLayer("the root of a layer can only be a directory")
            self._listed[""] = entry
        elif WHITEOUT_PREFIX not in path:
            self._put(entry, content)
        elif entry.is_opaque:
            self._apply_opaque(entry.parent)
        elif any(part.startswith(AUFS_PREFIX) for part in path.split("/")):
            self._take_aufs(entry, content)
        else:
            hidden = entry.hides
            if hidden is None:
                self._put(entry, content)
            else:
                self._apply_whiteout(hidden)

    def _take_aufs(self, entry: Entry, content: Content) -> None:
        top, found, name = entry.path.partition(_AUFS_LINKS + "/")
        if entry.kind is Kind.FILE and found and name and AUFS_PREFIX not in top + name:
            self._aufs[top + _AUFS_LINKS] = None
            self._put(entry, content)

    # -- what an entry does

    def _put(self, entry: Entry, content: Content) -> None:
        parent, _, name = entry.path.rpartition("/")
        place = _join(self._directory(parent), name)
        target = self._link_target(entry, place) if entry.kind is Kind.HARDLINK else ""
        if target != place:
            try:
                self._make(place, entry, content, target)
            except FileExistsError:
                self._replace(place, entry, content, target)
        if not self._is_alone:
            self._written.add(place)
        if entry.kind is Kind.DIRECTORY:
            self._listed[place] = entry
            self._implied.pop(place, None)

    def _make(self, place: str, entry: Entry, content: Content, target: str | None) -> None:
        if entry.kind is not Kind.HARDLINK:
            self._root.make(place, entry, content)
        elif target is not None:
            self._root.link(place, target)
        elif self._root.kind(place) is not None:
            raise FileExistsError

    def _replace(self, place: str, entry: Entry, content: Content, target: str | None) -> None:
        is_directory = entry.kind is Kind.DIRECTORY
        if is_directory and self._root.kind(place) is Kind.DIRECTORY:
            return
        if target and target.startswith(place + "/"):
            raise InvalidLayer(f"{entry.path!r}: a hard link to {entry.linkname!r}, which it replaces")
        self._remove_tree(place)
        self._make(place, entry, content, target)
        if is_directory and self._is_overlay:
            # Whatever this layer had there before hid what lies below; a plain directory would show it.
            self._seal(place)

    def _link_target(self, entry: Entry, place: str) -> str | None:
        """Where the file is that a hard link names. ``None``: in a layer below, which cannot be seen."""
        parent, _, name = entry.linkname.rpartition("/")
        directory = self._resolve(parent, is_making=False) if name else ""
        target = _join(directory, name) if directory is not None else None
        kind = None if target is None or target in self._whiteouts else self._root.kind(target)
        if kind is Kind.DIRECTORY:
            raise InvalidLayer(f"{entry.path!r}: a hard link to a directory, {entry.linkname!r}")
        if kind is None:
            if not self._is_overlay or target == place:
                raise InvalidLayer(f"{entry.path!r}: a hard link to {entry.linkname!r}, which is not there")
            return None
        return target

    def _apply_whiteout(self, hidden: str) -> None:
        parent, _, name = hidden.rpartition("/")
        directory = self._resolve(parent, is_making=self._is_overlay, below_only=True)
        if directory is None:
            return
        place = _join(directory, name)
        kind = self._root.kind(place)
        if self._is_overlay:
            self._note_whiteout(place, kind)
        elif kind is None or self._is_alone:
            return
        elif place not in self._written:
            self._touch(directory)
            self._remove_tree(place)
        elif kind is Kind.DIRECTORY:
            self._keep_own(place)
            self._disown(place)

    def _note_whiteout(self, place: str, kind: Kind | None) -> None:
        if kind is Kind.DIRECTORY and place not in self._sealed:
            if not self._holds_only_marks(place):
                self._seal(place)
                return
            self._remove_tree(place)
            kind = None
        if kind is None:
            self._root.hide(place)
            self._whiteouts.add(place)

    def _holds_only_marks(self, directory: str) -> bool:
        """Whether a directory is there for whiteouts alone."""
        waiting = [directory]
        while waiting:
            place = waiting.pop()
            if place in self._implied:
                waiting.extend(_join(place, name) for name in self._root.names(place))
            elif place not in self._whiteouts:
                return False
        return True

    def _seal(self, place: str) -> None:
        self._root.seal(place)
        self._sealed.add(place)

    def _apply_opaque(self, path: str) -> None:
        place = self._resolve(path, is_making=self._is_overlay, below_only=True)
        if place is None:
            return
        if self._is_overlay:
            self._seal(place)
        elif not self._is_alone:
            self._keep_own(place)

    def _keep_own(self, place: str) -> None:
        """Removes from a directory, and from those in it, all that is not of this layer."""
        waiting = [place] if place not in self._pruned else []
        self._pruned.add(place)  # once is enough: what comes after is of this layer
        while waiting:
            directory = waiting.pop()
            for name in self._root.names(directory):
                child = _join(directory, name)
                if child not in self._written:
                    self._touch(directory)
                    self._remove_tree(child)
                elif self._root.kind(child) is Kind.DIRECTORY:
                    self._disown(child)
                    waiting.append(child)

    def _disown(self, directory: str) -> None:
        """If the layer does not list it, it is not the one of below any more."""
        if self._touched.pop(directory, None) is not None:
            self._implied[directory] = _implied(directory)

    def _remove_tree(self, place: str) -> None:
        self.places.clear()
        self.places[""] = ""
        waiting = [place]
        while waiting:
            path = waiting.pop()
            names = self._root.names(path) if self._root.kind(path) is Kind.DIRECTORY else []
            if names:
                waiting.append(path)
                waiting.extend(_join(path, name) for name in names)
                continue
            self._root.remove(path)
            self._written.discard(path)
            self._whiteouts.discard(path)
            self._sealed.discard(path)
            for directories in (self._listed, self._implied, self._touched):
                directories.pop(path, None)

    # -- where things are

    def _directory(self, path: str) -> str:
        """Where the directory ``path`` is; it and those above it are made where they are missing."""
        place = self.places.get(path)
        if place is None:
            found = self._resolve(path, is_making=True)
            assert found is not None
            place = self.places[path] = found
        return place

    def _resolve(self, path: str, *, is_making: bool, below_only: bool = False) -> str | None:
        """``None`` where there is no such directory. ``below_only``: through no symlink of this layer.

        A whiteout speaks of what was there before; where this layer has put a symlink, that is gone.
        """
        known = path
        while known not in self.places:
            known = known.rpartition("/")[0]
        levels = self.places[known].split("/") if self.places[known] else []
        kept = len(levels)  # directories that are known to be there, and to be noted as above an entry
        names = path[len(known) :].split("/")[::-1]
        hops = 0
        while names:
            name = names.pop()
            if name in ("", "."):
                continue
            if name == "..":
                del levels[-1:]
                kept = min(kept, len(levels))
                continue
            place = "/".join([*levels, name])
            kind = self._root.kind(place)
            if kind is Kind.SYMLINK:
                if below_only and (self._is_alone or place in self._written):
                    return None
                hops += 1
                text = self._follow(place, hops)
                if text[:1] == "/":
                    levels, kept = [], 0
                names.extend(text.split("/")[::-1])
                continue
            if kind is Kind.DIRECTORY:
                self._touch(place)
            elif not is_making or (below_only and kind is not None):
                return None
            else:
                self._imply(place, kind)
            levels.append(name)
        if is_making:
            self._note_above(levels, kept)
        return "/".join(levels)

    def _follow(self, place: str, hops: int) -> str:
        text = self._root.read_link(place)
        self._steps += text.count("/") + 1
        if hops > MAX_HOPS or self._steps > MAX_STEPS:
            raise InvalidLayer(f"{place!r}: too many symlinks on the way")
        return text

    def _imply(self, place: str, kind: Kind | None) -> None:
        """Makes a directory that the layer does not list, or has not listed yet."""
        is_whiteout = place in self._whiteouts
        if kind is not None:
            if not is_whiteout and (self._is_alone or place in self._written):
                raise InvalidLayer(f"{place!r}: an entry lies below it, but it is no directory")
            parent = place.rpartition("/")[0]
            self._touch(parent)
            self._remove_tree(place)
        elif not self._is_alone:
            self._touch(place.rpartition("/")[0])
        self._root.make(place, _implied(place), _nothing)
        if is_whiteout:
            self._seal(place)
        self._implied[place] = _implied(place)

    def _note_above(self, levels: list[str], known: int) -> None:
        if self._is_alone:
            return
        self._written.add("")
        for length in range(known + 1, len(levels) + 1):
            self._note("/".join(levels[:length]))

    def _note(self, directory: str) -> None:
        self._touch(directory)
        self._written.add(directory)

    def _touch(self, directory: str) -> None:
        """Remembers how a directory of below was, before it is opened and anything in it changes."""
        if self._is_alone or directory in self._written or directory in self._touched:
            return
        if directory not in self._implied and directory not in self._listed:
            self._touched[directory] = self._root.look(directory)


def explain(error: OSError, path: str) -> NoReturn:
    """Raises what went wrong with an entry as the kind of whoever's fault it is."""
    if isinstance(error, PermissionError):
        raise Denied(f"{path!r}: cannot be made with the rights of this process ({error.strerror})") from None
    if error.errno in _LAYERS_FAULT:
        raise InvalidLayer(f"{path!r}: cannot be made ({error.strerror})") from None
    error.add_note(f"while unpacking {path!r}")
    raise error


def _implied(path: str) -> Entry:
    return Entry(path, Kind.DIRECTORY, 0o755)


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def _nothing(_write: Write) -> None:
    pass


def _pump(entry: Entry, write: Write) -> None:
    if not entry.size:
        return
    if entry.open is None:
        raise ValueError(f"{entry.path!r}: {entry.size} bytes and nothing to read them from")
    with entry.open() as opened:
        while chunk := opened.read(_CHUNK):
            write(chunk)
