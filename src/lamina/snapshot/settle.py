"""Layers that depend on what lies below them, made ready for one stack, as overlayfs must see them.

Such a layer writes below directories that it does not list, perhaps through a symlink of a lower layer,
or links to a lower file, or holds a whiteout for something that is not there (see :func:`ghosts`). The
placement of its entries over the layers below says what stands where; files come out of the trees of the
layers that were unpacked alone, as hard links to the same data.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lamina.layer.entry import Entry, InvalidLayer, Kind
from lamina.layer.placement import IMPLIED, Inode, Placement, place
from lamina.layer.root import DirectoryRoot
from lamina.layer.tree import Tree
from lamina.oci.digest import Digest
from lamina.snapshot import syscalls, trees
from lamina.snapshot.layerdirectory import stage_usage
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.look import ownership, whiteout_style
from lamina.snapshot.snapshotter import Form, Reception, Usage

_DEFAULT_DIRECTORY = Entry("", Kind.DIRECTORY, 0o755)
_BLOCK = 4096


def dependent(layers: LayerStore, diff_ids: Sequence[Digest], numbers: Collection[int]) -> set[int]:
    """Which of some layers, by number in their stack, cannot use the form that all stacks share."""
    found: set[int] = set()
    unsure: set[int] = set()
    for number in numbers:
        facts = layers.facts(diff_ids[number])
        if not facts.is_self_contained:
            found.add(number)
        elif facts.has_deep_whiteouts:
            unsure.add(number)
    if unsure:
        union = Tree()
        for number, diff_id in enumerate(diff_ids[: max(unsure) + 1]):
            index = layers.index(diff_id)
            if number in unsure and ghosts(place(index, union), union):
                found.add(number)
            union.add(index)
    return found


def ghosts(placement: Placement, below: Tree) -> set[str]:
    """Whiteouts in directories that no layer below has too.

    They hide nothing, but overlayfs only looks for whiteouts in directories that it merges: a program
    that lists any other would be shown names that cannot be opened.
    """
    return {path for path in placement.whiteouts if not _is_merged(path.rpartition("/")[0], placement, below)}


def _is_merged(path: str, placement: Placement, below: Tree) -> bool:
    """Whether overlayfs shows a directory of this layer and of those below as one."""
    if not path:
        return True  # a stack is never mounted with one root alone where there are whiteouts
    if "" in placement.opaques:
        return False
    lower = below.standing(path)
    if lower is None or below.kind_of(lower) != Kind.DIRECTORY:
        return False
    while path:
        if path in placement.opaques or path in placement.whiteouts:
            return False
        path = path.rpartition("/")[0]
    return True


def settle_job(*, root: str, diff_ids: list[str], keys: dict[str, str], alone: dict[str, Any]) -> None:
    """What a worker does; see :func:`settle`."""
    reception = Reception(**{**alone, "form": Form(alone["form"])})
    settle(
        LayerStore(Path(root)), [Digest.parse(text) for text in diff_ids],
        {int(number): key for number, key in keys.items()}, reception,
    )


def settle(
    layers: LayerStore, diff_ids: Sequence[Digest], keys: Mapping[int, str], alone: Reception
) -> None:
    """Makes the trees ``keys`` (by the layer's number in the stack) for a stack, base first.

    Every layer up to the highest of those numbers has been unpacked as ``alone`` says. Raises
    ``InvalidLayer`` for a hard link to what no layer below has.
    """
    union = Tree()
    placements: list[Placement] = []
    with ExitStack() as stack:
        sources = _Sources(layers, diff_ids, placements, alone.key, stack)
        for number, diff_id in enumerate(diff_ids[: max(keys) + 1]):
            index = layers.index(diff_id)
            if number in keys:
                placement = place(index, union)
                _publish(layers, diff_id, keys[number], _Settling(placement, union, number, sources), alone)
            placements.append(union.add(index))


def _publish(layers: LayerStore, diff_id: Digest, key: str, settling: _Settling, alone: Reception) -> None:
    claimed = layers.claim(diff_id)
    assert claimed is not None
    with claimed:
        if layers.tree(diff_id, key).is_dir():
            return  # another process was faster
        with claimed.staging() as staging:
            tree = staging / "trees" / key
            tree.parent.mkdir(mode=0o700)
            trees.make_root(tree)
            owner = ownership(alone.keeps_owners)
            with DirectoryRoot(tree, owner=owner, whiteouts=whiteout_style(alone)) as root:
                settling.fill(root, tree)
            inodes = len(settling.directories)  # the rest are names of files that have others
            stage_usage(tree, Usage(inodes * _BLOCK, inodes))
            claimed.publish(staging)


class _Sources:
    """Files of layers that were unpacked alone: where the data of an inode can be linked from."""

    def __init__(
        self, layers: LayerStore, diff_ids: Sequence[Digest], placements: Sequence[Placement], key: str,
        stack: ExitStack,
    ) -> None:
        self._layers = layers
        self._diff_ids = diff_ids
        self._placements = placements
        self._key = key
        self._stack = stack
        self._tops: dict[int, int] = {}

    def link(self, layer: int, path: str, target: Path) -> None:
        """``path`` as an entry of the layer spells it: the symlinks on its way are the layer's own."""
        parent, _, name = path.rpartition("/")
        directory = syscalls.open_in_root(self._top(layer), parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            trees.link_or_copy(directory, name, target)
        finally:
            os.close(directory)

    def spelling(self, inode: Inode) -> str:
        """How some entry of the inode's layer, a hard link perhaps, calls it."""
        placement = self._placements[inode.layer]
        own = Inode(-1, inode.number)
        for number in placement.live.values():
            if number == inode.number or (number != IMPLIED and placement.links.get(number) == own):
                return placement.index.paths[number]
        raise InvalidLayer(f"{placement.index.paths[inode.number]!r}: linked to, but no longer in its layer")

    def _top(self, layer: int) -> int:
        if layer not in self._tops:
            tree = self._layers.tree(self._diff_ids[layer], self._key)
            self._tops[layer] = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._stack.callback(os.close, self._tops[layer])
        return self._tops[layer]


class _Settling:
    """One layer over those below it: what becomes of its directory."""

    def __init__(self, placement: Placement, below: Tree, number: int, sources: _Sources) -> None:
        self._placement = placement
        self._index = placement.index
        self._below = below
        self._number = number
        self._sources = sources
        self.directories: dict[str, Entry] = {}
        self._made: dict[Inode, str] = {}
        self._ghosts = ghosts(placement, below)

    def fill(self, root: DirectoryRoot, top: Path) -> None:
        for path, number in sorted(self._placement.live.items()):
            if number == IMPLIED or self._index.kinds[number] == Kind.DIRECTORY:
                self._make_directory(root, path, self._directory_entry(path, number))
            else:
                self._make_file(root, top, path, number)
        for path in self._placement.whiteouts:
            self._hide(root, path)
        for path in self._placement.opaques:
            if path and self._has_directory(root, path):
                root.seal(path)
        self.directories.setdefault("", _DEFAULT_DIRECTORY)
        for path, entry in sorted(self.directories.items(), reverse=True):
            root.describe(path, entry)

    def _directory_entry(self, path: str, number: int) -> Entry:
        if number != IMPLIED:
            return self._index.entry(number)
        inode = self._placement.kept.get(path)
        return _DEFAULT_DIRECTORY if inode is None else self._below.entry_of(inode)

    def _make_directory(self, root: DirectoryRoot, path: str, entry: Entry) -> None:
        if path:
            root.make(path, entry, _nothing)
        self.directories[path] = entry

    def _make_file(self, root: DirectoryRoot, top: Path, path: str, number: int) -> None:
        inode = self._placement.links.get(number) or Inode(-1, number)
        first = self._made.setdefault(inode, path)
        if first != path:
            root.link(path, first)
        elif inode.layer < 0:
            self._sources.link(self._number, self._index.paths[number], top / path)
        else:
            self._sources.link(inode.layer, self._sources.spelling(inode), top / path)

    def _hide(self, root: DirectoryRoot, path: str) -> None:
        """Nothing of the layers below shows at a path, whatever this layer has there itself."""
        if path in self.directories:
            root.seal(path)
        elif path in self._placement.live or path in self._ghosts:
            return
        elif self._has_directory(root, path.rpartition("/")[0]):
            root.hide(path)

    def _has_directory(self, root: DirectoryRoot, path: str) -> bool:
        """One that only the layers below have comes along as it is there, if it can be seen from here."""
        if path in self.directories:
            return True
        if not path or path in self._placement.live or path in self._placement.whiteouts:
            return not path
        lower = self._below.standing(path)
        parent = path.rpartition("/")[0]
        if lower is None or self._below.kind_of(lower) != Kind.DIRECTORY or parent in self._placement.opaques:
            return False
        if not self._has_directory(root, parent):
            return False
        self._make_directory(root, path, self._below.entry_of(lower))
        return True


def _nothing(_write: object) -> None:
    pass
