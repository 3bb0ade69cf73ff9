"""Every stored file of an image, once: under which names a container sees it, or who hides it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

from lamina.layer.entry import Entry, Kind
from lamina.layer.tree import Hidden, Tree
from lamina.values import dataclass

# Layer number, counted from the base, and an entry of that layer, to the content of the file.
OpenData = Callable[[int, Entry], BinaryIO]
# Where content is: layer number, and offset in its tar. No two files that hold a byte have the same.
Place = tuple[int, int]

_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFile:
    """Content that a container sees. ``paths`` are its names, in order; ``entry`` is as its layer has it."""

    layer: int
    entry: Entry
    paths: tuple[str, ...]

    @property
    def place(self) -> Place:
        return self.layer, self.entry.data_offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """All files with a byte in them. ``markers`` have bytes that are no file's: whiteouts, AUFS's own names.

    Their sizes, with those of the live and the hidden ones, add up to ``total_bytes``.
    """

    total_bytes: int
    live: tuple[LiveFile, ...]
    hidden: tuple[Hidden, ...]
    markers: tuple[tuple[int, Entry], ...]


def survey(tree: Tree) -> Survey:
    """In the order of paths."""
    total = sum(sum(index.sizes) for index in tree.indexes)
    live = _live_files(tree)
    hidden = tuple(each for each in tree.obscured() if each.size)
    counted = sum(each.entry.size for each in live) + sum(each.size for each in hidden)
    markers = () if counted == total else tuple(_neither(tree, live, hidden))
    return Survey(total_bytes=total, live=live, hidden=hidden, markers=markers)


def place_of(hidden: Hidden) -> Place:
    return hidden.layer, hidden.entry.data_offset


def hash_contents(wanted: Mapping[Place, Entry], open_data: OpenData) -> dict[Place, bytes]:
    """Each file is read once, in the order of the layers and of their tars, so that no one must seek back."""
    digests = {}
    for place in sorted(wanted):
        digest = hashlib.sha256()
        with open_data(place[0], wanted[place]) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        digests[place] = digest.digest()
    return digests


def _live_files(tree: Tree) -> tuple[LiveFile, ...]:
    contents: dict[tuple[int, int], tuple[int, Entry]] = {}
    names: dict[tuple[int, int], list[str]] = {}
    for node in tree.walk():
        if node.content.size and node.content.kind is Kind.FILE:
            contents[node.inode] = node.content_layer, node.content
            names.setdefault(node.inode, []).append(node.path)
    return tuple(
        LiveFile(layer=layer, entry=entry, paths=tuple(names[inode]))
        for inode, (layer, entry) in contents.items()
    )


def _neither(
    tree: Tree, live: tuple[LiveFile, ...], hidden: tuple[Hidden, ...]
) -> Iterator[tuple[int, Entry]]:
    known = {each.place for each in live} | {place_of(each) for each in hidden}
    for layer, index in enumerate(tree.indexes):
        for number, size in enumerate(index.sizes):
            if size and (layer, index.data_offsets[number]) not in known:
                yield layer, index.entry(number)
