"""One layer as overlayfs must be given it: inodes, the names in each directory, and marks.

Whiteouts are character devices 0:0, what hides the lower content of a directory is an attribute of it.
Directories that the layer does not list are as they are in the layers below.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from lamina.layer.entry import Entry, Kind, ancestors
from lamina.layer.index import LayerIndex
from lamina.layer.placement import IMPLIED, Inode, Placement
from lamina.layer.tree import Tree

OPAQUE_XATTR = "trusted.overlay.opaque"
# overlayfs lists a directory that only one layer has as it is there, whiteouts and all, and then says "no
# such file" of them. This attribute, empty for "origin unknown", makes it look for whiteouts (ovl_get_inode).
ORIGIN_XATTR = "trusted.overlay.origin"

_FILE, _DIRECTORY = Kind.FILE.value, Kind.DIRECTORY.value
_WHITEOUT = Entry("", Kind.CHAR, 0)


class LowerLayer:
    """What goes into an image of a layer. Inodes have keys, names are whole paths.

    A key below the number of the layer's entries is that entry; others are in ``extras``. ``devices`` are
    the layers with the bytes of files, this one first; ``extra_devices`` says whose an extra file's are.
    ``marks`` are attributes for overlayfs, by key.
    """

    def __init__(self, placement: Placement, below: Tree | None, without: Collection[str] = ()) -> None:
        self.index = placement.index
        self.devices: list[LayerIndex] = [placement.index]
        self.extras: list[Entry] = []
        self.extra_devices: dict[int, int] = {}
        self.directories: dict[str, int] = {}
        self.children: dict[str, list[str]] = {}
        self.marks: dict[int, dict[str, bytes]] = {}
        self._placement = placement
        self._below = below
        self._keys: dict[str, int] = {}  # of paths that are not simply one of the layer's entries
        self._foreign: dict[Inode, int] = {}
        self._add_live()
        if "" not in self.directories:
            root = None if below is None else below.standing("")
            self.directories[""] = self._add_extra(self._lower_entry(root))
        self._add_whiteouts(path for path in placement.whiteouts if path not in without)
        for directory in placement.opaques:
            if self._has_directory(directory):
                self._mark(directory, OPAQUE_XATTR, b"y")

    def entry(self, key: int) -> Entry:
        count = len(self.index)
        return self.index.entry(key) if key < count else self.extras[key - count]

    def key(self, path: str) -> int:
        key = self._keys.get(path)
        return self._placement.live[path] if key is None else key

    def kinds(self) -> bytes:
        """By key."""
        return self.index.kinds + bytes([extra.kind for extra in self.extras])

    def _add_live(self) -> None:
        kinds, links, directories = self.index.kinds, self._placement.links, self.directories
        children = self.children
        for path, number in self._placement.live.items():
            if number == IMPLIED:
                self._add_directory(path, self._placement.kept.get(path))
                continue
            if kinds[number] == _DIRECTORY:
                directories[path] = number
            elif number in links:
                self._keys[path] = self._linked(links[number])
            if path:
                parent = path.rpartition("/")[0]
                if parent in children:
                    children[parent].append(path)
                else:
                    children[parent] = [path]

    def _add_extra(self, entry: Entry) -> int:
        self.extras.append(entry)
        return len(self.index) + len(self.extras) - 1

    def _add_name(self, path: str, key: int) -> None:
        self._keys[path] = key
        self.children.setdefault(path.rpartition("/")[0], []).append(path)

    def _add_directory(self, path: str, lower: Inode | None) -> None:
        key = self.directories[path] = self._add_extra(self._lower_entry(lower))
        self._add_name(path, key)

    def _lower_entry(self, inode: Inode | None) -> Entry:
        if inode is None or self._below is None:
            return Entry("", Kind.DIRECTORY, 0o755)
        return self._below.entry_of(inode)

    def _linked(self, inode: Inode) -> int:
        """The key of what a hard link shares; a lower layer's file brings that layer's tar along."""
        if inode.layer < 0:
            return inode.number
        key = self._foreign.get(inode)
        if key is None:
            assert self._below is not None
            key = self._foreign[inode] = self._add_extra(self._below.entry_of(inode))
            if self._below.kind_of(inode) == _FILE:
                self.extra_devices[key] = self._device(self._below.indexes[inode.layer])
        return key

    def _device(self, index: LayerIndex) -> int:
        for number, device in enumerate(self.devices):
            if device.diff_id == index.diff_id:
                return number
        self.devices.append(index)
        return len(self.devices) - 1

    def _add_whiteouts(self, paths: Iterable[str]) -> None:
        """One inode does for all. A directory of the layer itself is opaque instead, a file enough."""
        shared = -1
        for path in paths:
            if path in self.directories:
                self._mark(path, OPAQUE_XATTR, b"y")
            elif path not in self._placement.live and self._has_directory(parent := path.rpartition("/")[0]):
                shared = self._add_extra(_WHITEOUT) if shared < 0 else shared
                self._add_name(path, shared)
                self._mark(parent, ORIGIN_XATTR, b"")

    def _mark(self, directory: str, name: str, value: bytes) -> None:
        self.marks.setdefault(self.directories[directory], {})[name] = value

    def _has_directory(self, path: str) -> bool:
        """For a mark in a directory that only the layers below have: it comes along as it is there."""
        missing: list[tuple[str, Inode]] = []
        for place in [*ancestors(path), path]:
            if place not in self.directories:
                lower = self._lower_directory(place)
                if lower is None:
                    return False
                missing.append((place, lower))
        for place, lower in missing:
            self._add_directory(place, lower)
        return True

    def _lower_directory(self, path: str) -> Inode | None:
        """One of below that shows through this layer, whatever is above it."""
        placement = self._placement
        if self._below is None or path in placement.live or path in placement.whiteouts:
            return None
        if path.rpartition("/")[0] in placement.opaques:
            return None
        lower = self._below.standing(path)
        return lower if lower is not None and self._below.kind_of(lower) == _DIRECTORY else None
