"""Where the entries of one layer land: at their own paths as a rule, and what that rule leaves out.

A layer's tar is a list of acts, done in order on what lies below. Most layers list every directory before
what is in it and every path once; for them this is a dictionary that exists already. The rest is here:
the same path twice, directories that are not listed, names below a symlink (which is followed inside the
root, LAYER-CASES 1-5 and 112), hard links to the layers below. Whiteouts hide what is below the layer, never
what is in it, wherever they stand (image-spec layer.md, "Whiteouts").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from lamina.layer.entry import AUFS_PREFIX, WHITEOUT_PREFIX, InvalidLayer, Kind
from lamina.layer.index import LayerIndex
from lamina.layer.way import MAX_HOPS
from lamina.values import dataclass, field

# A directory that the layer does not list, where an entry's number would stand.
IMPLIED = -1
# Parts of paths that one layer may make us walk because of symlinks: so many, and so many more an entry.
MAX_STEPS = 100_000
MAX_STEPS_AN_ENTRY = 50

_FILE = Kind.FILE.value
_DIRECTORY = Kind.DIRECTORY.value
_SYMLINK = Kind.SYMLINK.value
_HARDLINK = Kind.HARDLINK.value


@dataclass(frozen=True, slots=True)
class Inode:
    """Content and attributes that names share: entry ``number`` of layer ``layer``, counted from the base.

    ``layer`` is -1 for the layer that is being placed.
    """

    layer: int
    number: int


class Below(Protocol):
    """What a placement asks of the layers below it."""

    def standing(self, path: str) -> Inode | None:
        """What the union has at exactly this path, hard links resolved; no symlink is followed."""

    def kind_of(self, inode: Inode) -> int: ...

    def link_text(self, inode: Inode) -> str: ...


@dataclass(slots=True, kw_only=True)
class Placement:
    """A layer with every path resolved.

    ``live``: what the layer itself puts there, path to entry number or :data:`IMPLIED`. ``whiteouts``: paths
    whose content in lower layers it hides, with the entry that says so (a whiteout, or a directory that
    took the place of something else). ``opaques``: directories of which it hides the lower content.
    ``links``: the inode of each hard link, by entry number. ``kept``: implied directories that exist below,
    and so keep what they are. ``replaced``: entries of files that later entries of the same layer replaced,
    with the number of that entry.
    """

    index: LayerIndex
    live: Mapping[str, int]
    whiteouts: Mapping[str, int]
    opaques: Mapping[str, int]
    links: Mapping[int, Inode] = field(default_factory=dict)
    kept: Mapping[str, Inode] = field(default_factory=dict)
    replaced: Mapping[int, int] = field(default_factory=dict)


def place(index: LayerIndex, below: Below | None = None) -> Placement:
    """Raises :class:`InvalidLayer` for a hard link to nothing or to a directory, or endless symlinks."""
    if not _is_plain(index):
        return _Placing(index, below).run()
    whiteouts = {hidden: number for number, hidden in index.whiteouts.items()}
    opaques = {directory: number for number, directory in index.opaques.items()}
    live = index.positions
    if index.markers:
        live = dict(live)
        for number in index.markers:
            del live[index.paths[number]]
    return Placement(index=index, live=live, whiteouts=whiteouts, opaques=opaques, links=_own_links(index))


def _is_plain(index: LayerIndex) -> bool:
    """Every directory listed, every path once, hard links to files listed before them."""
    return (
        index.is_self_contained
        and not index.has_duplicates
        and not any(_is_below_marker(index.paths[number]) for number in index.markers)
    )


def _is_below_marker(path: str) -> bool:
    return any(part.startswith(WHITEOUT_PREFIX) for part in path.split("/")[:-1])


def _is_aufs(path: str) -> bool:
    """What AUFS kept for itself in a layer: ``.wh..wh.plnk`` and what is in it, and the like."""
    return any(part.startswith(AUFS_PREFIX) for part in path.split("/"))


def _is_aufs_link(path: str) -> bool:
    """Files with several names had one more in there, which the others are links to (LAYER-CASES 62)."""
    return f"{AUFS_PREFIX}plnk/" in path


def _own_links(index: LayerIndex) -> dict[int, Inode]:
    links: dict[int, Inode] = {}
    if _HARDLINK in index.kinds:
        for number, target in index.linknames.items():
            if index.kinds[number] == _HARDLINK:
                first = index.positions[target]
                if index.kinds[first] == _DIRECTORY:
                    raise InvalidLayer(f"{index.paths[number]!r}: a hard link to the directory {target!r}")
                links[number] = links.get(first) or Inode(-1, first)
    return links


class _Placing:
    """The acts of one layer, one after the other."""

    def __init__(self, index: LayerIndex, below: Below | None) -> None:
        self._index = index
        self._below = below
        self._live: dict[str, int] = {}
        self._children: dict[str, dict[str, None]] = {}
        self._whiteouts: dict[str, int] = {}
        self._opaques: dict[str, int] = {}
        self._links: dict[int, Inode] = {}
        self._kept: dict[str, Inode] = {}
        self._replaced: dict[int, int] = {}
        self._aufs: dict[str, int] = {}
        # Where a directory named in the layer is, until something stands in the way of what was found.
        self._places: dict[str, str] = {}
        self._followed: set[str] = set()
        # While whiteouts are looked at: what this layer lists itself is not what they speak of, if a symlink.
        self._listed: Mapping[str, int] = index.positions
        self._steps_left = MAX_STEPS + MAX_STEPS_AN_ENTRY * len(index)

    def run(self) -> Placement:
        whiteouts = {self._lower_place(hidden): number for number, hidden in self._index.whiteouts.items()}
        opaques = {self._lower_directory(path): number for number, path in self._index.opaques.items()}
        self._whiteouts, self._opaques = whiteouts, opaques
        self._forget_places()
        self._listed = {}
        markers = set(self._index.markers)
        for number, path in enumerate(self._index.paths):
            if number not in markers:
                self._put(number, path)
            elif _is_aufs(path):
                if _is_aufs_link(path) and self._index.kinds[number] == _FILE:
                    self._aufs[path] = number
            elif not path.rpartition("/")[2].startswith(WHITEOUT_PREFIX):
                self._put(number, path)  # in a directory that merely looks like a whiteout (LAYER-CASES 27)
        return Placement(
            index=self._index, live=self._live, whiteouts=self._whiteouts, opaques=self._opaques,
            links=self._links, kept=self._kept, replaced=self._replaced,
        )

    def _lower_place(self, path: str) -> str:
        parent, _, name = path.rpartition("/")
        return _join(self._lower_directory(parent), name)

    def _lower_directory(self, path: str) -> str:
        """Where a directory is before this layer did anything; the text itself if there is none."""
        found = self._places.get(path)
        if found is None:
            walked = self._walk(path, is_making=False)
            found = self._places[path] = path if walked is None else walked
        return found

    def _put(self, number: int, path: str) -> None:
        kind = self._index.kinds[number]
        if not path:
            self._live[""] = number
            return
        parent, _, name = path.rpartition("/")
        directory = self._directory(parent)
        here = _join(directory, name)
        if kind == _HARDLINK:
            inode = self._target(self._index.linknames.get(number, ""), path, here)
            if here in self._live and inode == self._inode(self._live[here]):
                return  # linked to itself
            self._links[number] = inode
        if here in self._followed:
            self._forget_places()
        old = self._live.get(here)
        if old is not None:
            if kind == _DIRECTORY and self._is_directory(old):
                self._live[here] = number  # attributes only
                self._kept.pop(here, None)
                return
            self._remove(here, number)
            # What lay below was hidden by what is now gone again.
            self._whiteouts.setdefault(here, number)
        self._live[here] = number
        self._children.setdefault(directory, {})[name] = None

    def _remove(self, path: str, number: int) -> None:
        """Takes a name and all below it out of the layer again, because entry ``number`` stands there now."""
        self._forget_places()
        waiting = [path]
        while waiting:
            place = waiting.pop()
            gone = self._live.pop(place)
            self._kept.pop(place, None)
            if gone != IMPLIED and not self._is_directory(gone):
                self._replaced[gone] = number
            waiting.extend(_join(place, name) for name in self._children.pop(place, ()))

    def _forget_places(self) -> None:
        self._places.clear()
        self._followed.clear()

    def _directory(self, path: str) -> str:
        """Where the directory ``path`` is; it and those above it are made where they are missing."""
        found = self._places.get(path)
        if found is None:
            made = self._walk(path, is_making=True)
            assert made is not None
            found = self._places[path] = made
        return found

    def _walk(self, path: str, *, is_making: bool) -> str | None:
        """Resolves a directory inside the root, one name at a time, following symlinks.

        Each level remembers whether the layers below can be seen through it.
        """
        levels: list[tuple[str, bool]] = [("", self._below is not None and "" not in self._opaques)]
        names = path.split("/")[::-1]
        hops = 0
        while names:
            name = names.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if len(levels) > 1:
                    levels.pop()
                continue
            place = _join(levels[-1][0], name)
            text = self._symlink(place, is_through=levels[-1][1])
            if text is not None:
                hops += 1
                if text.startswith("/"):
                    del levels[1:]
                names.extend(text.split("/")[::-1])
                self._count_steps(hops, len(names), place)
                continue
            is_through = self._enter(place, is_through=levels[-1][1], is_making=is_making)
            if is_through is None:
                return None
            levels.append((place, is_through))
        return levels[-1][0]

    def _count_steps(self, hops: int, length: int, place: str) -> None:
        self._steps_left -= length
        if hops > MAX_HOPS or self._steps_left < 0:
            raise InvalidLayer(f"{place!r}: too many symlinks on the way")

    def _symlink(self, place: str, *, is_through: bool) -> str | None:
        """The text of the symlink that stands at a place, if one does."""
        number = self._live.get(place)
        if number is not None:
            if number == IMPLIED:
                return None
            inode = self._inode(number)
        else:
            lower = self._lower(place) if is_through and place not in self._listed else None
            if lower is None:
                return None
            inode = lower
        if self._kind(inode) != _SYMLINK:
            return None
        self._followed.add(place)
        if inode.layer < 0:
            return self._index.linknames.get(inode.number, "")
        assert self._below is not None
        return self._below.link_text(inode)

    def _enter(self, place: str, *, is_through: bool, is_making: bool) -> bool | None:
        """Into a directory: whether what is below shows in it; ``None`` where there is none to enter."""
        number = self._live.get(place)
        lower = self._lower(place) if is_through else None
        is_lower_directory = lower is not None and self._kind(lower) == _DIRECTORY
        if number is not None and not self._is_directory(number):
            if not is_making:
                return None
            raise InvalidLayer(f"{place!r}: an entry lies below it, but it is no directory")
        if number is None:
            if is_making:
                self._imply(place, lower if is_lower_directory else None)
            elif not is_lower_directory:
                return None
        return is_lower_directory and place not in self._opaques

    def _imply(self, place: str, lower: Inode | None) -> None:
        self._live[place] = IMPLIED
        if lower is not None:
            self._kept[place] = lower
        directory, _, name = place.rpartition("/")
        self._children.setdefault(directory, {})[name] = None

    def _target(self, path: str, link: str, here: str) -> Inode:
        """What a hard link names. Its last part is never followed: a symlink can have two names too."""
        if path in self._aufs:
            return Inode(-1, self._aufs[path])
        parent, _, name = path.rpartition("/")
        directory = self._walk(parent, is_making=False)
        if directory is not None and name:
            place = _join(directory, name)
            if place.startswith(here + "/"):
                raise InvalidLayer(f"{link!r}: a hard link to {path!r}, which it replaces")
            number = self._live.get(place)
            inode = None
            if number is not None:
                inode = None if number == IMPLIED else self._inode(number)
            elif self._is_seen_through(directory):
                inode = self._lower(place)
            if inode is not None:
                if self._kind(inode) == _DIRECTORY:
                    raise InvalidLayer(f"{link!r}: a hard link to the directory {path!r}")
                return inode
        raise InvalidLayer(f"{link!r}: a hard link to {path!r}, which does not exist")

    def _is_seen_through(self, directory: str) -> bool:
        if self._below is None or "" in self._opaques:
            return False
        parts = directory.split("/") if directory else []
        return not any(
            place in self._whiteouts or place in self._opaques
            for place in ("/".join(parts[: length + 1]) for length in range(len(parts)))
        )

    def _lower(self, place: str) -> Inode | None:
        if self._below is None or place in self._whiteouts:
            return None
        return self._below.standing(place)

    def _inode(self, number: int) -> Inode:
        return self._links.get(number) or Inode(-1, number)

    def _kind(self, inode: Inode) -> int:
        if inode.layer < 0:
            return self._index.kinds[inode.number]
        assert self._below is not None
        return self._below.kind_of(inode)

    def _is_directory(self, number: int) -> bool:
        return number == IMPLIED or self._index.kinds[number] == _DIRECTORY


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name
