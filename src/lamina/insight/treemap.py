"""Files as areas: a directory tree folded to a bounded number of nodes, and rectangles in proportion.

An image may have a million files, a page must not. The files that somebody asks for and the largest ones
stay; what is left of each directory is one node that stands for so many smaller files.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from lamina.layer.entry import Kind
from lamina.values import dataclass, replace

# About 800 kB of JSON. Every file of most images, the bulk of the largest ones.
MAX_NODES = 10_000
# Deeper paths count for the directory at this depth: names of one letter allow 2,048 in a path.
MAX_DEPTH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """Something that can be seen and is no directory. ``size`` counts bytes that no leaf before it counts."""

    path: str
    kind: Kind
    layer: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileNode:
    """``parent`` is the number of the node above, -1 for the root; parents come before their children.

    ``kind`` is ``None`` for what stands for the smaller files of its directory: it has no name and no layer
    (-1). ``size`` and ``files`` are those of everything below.
    """

    name: str
    parent: int
    kind: Kind | None
    layer: int
    size: int
    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rectangle:
    x: float
    y: float
    width: float
    height: float


@dataclass(slots=True)
class _Total:
    size: int = 0
    files: int = 0

    def add(self, size: int, files: int) -> None:
        self.size += size
        self.files += files


# -- folding


def fold(
    leaves: Sequence[Leaf],
    directories: Mapping[str, int],
    *,
    wanted: Collection[str] = (),
    limit: int = MAX_NODES,
) -> tuple[FileNode, ...]:
    """At most ``limit`` nodes (never less than two). ``directories`` maps paths to layers.

    ``wanted`` paths stay before larger ones. Directories without files are left out.
    """
    totals = _totals(leaves)
    # A directory may need a second node for what is left of it, unless nothing is left out.
    cost = 1 if len(leaves) + len(totals) <= limit else 2
    kept, places = _chosen(leaves, wanted, limit, cost)
    nodes = [FileNode(name="", parent=-1, kind=Kind.DIRECTORY, layer=directories.get("", 0),
                      size=totals[""].size, files=totals[""].files)]
    numbers = {"": 0}
    left = {"": replace(totals[""])}
    by_path = {leaf.path: leaf for leaf in kept}
    for path in sorted({*by_path, *places} - {""}):  # a directory's name sorts before what is in it
        parent, _, name = path.rpartition("/")
        leaf = by_path.get(path)
        if leaf is None:
            total, kind, layer = totals[path], Kind.DIRECTORY, directories.get(path, 0)
            numbers[path], left[path] = len(nodes), replace(total)
        else:
            total, kind, layer = _Total(leaf.size, 1), leaf.kind, leaf.layer
        nodes.append(FileNode(name=name, parent=numbers[parent], kind=kind, layer=layer,
                              size=total.size, files=total.files))
        left[parent].add(-total.size, -total.files)
    nodes += [
        FileNode(name="", parent=numbers[path], kind=None, layer=-1, size=rest.size, files=rest.files)
        for path, rest in left.items() if rest.files
    ]
    return tuple(nodes)


def _totals(leaves: Iterable[Leaf]) -> dict[str, _Total]:
    """Of every directory with files in it, all that is below it."""
    totals = {"": _Total()}
    for leaf in leaves:
        directory = _place(leaf.path)
        for above in _upwards(directory, totals):
            totals[above] = _Total()
        totals[directory].add(leaf.size, 1)
    for directory in sorted(totals, key=len, reverse=True):  # what is in a directory has a longer path
        if directory:
            totals[directory.rpartition("/")[0]].add(totals[directory].size, totals[directory].files)
    return totals


def _chosen(
    leaves: Sequence[Leaf], wanted: Collection[str], limit: int, cost: int
) -> tuple[list[Leaf], set[str]]:
    """Leaves that stay, and the directories above them, of which each costs so many nodes."""
    ranked = heapq.nsmallest(
        limit, (leaf for leaf in leaves if leaf.path.count("/") <= MAX_DEPTH),
        key=lambda leaf: (leaf.path not in wanted, -leaf.size, leaf.path),
    )
    kept: list[Leaf] = []
    places = {""}
    budget = limit - cost
    for leaf in ranked:
        above = list(_upwards(leaf.path.rpartition("/")[0], places))
        price = 1 + cost * len(above)
        if price <= budget:
            budget -= price
            places.update(above)
            kept.append(leaf)
    return kept, places


def _upwards(directory: str, known: Collection[str]) -> Iterator[str]:
    """A directory and those above it, as long as they are not known."""
    while directory not in known:
        yield directory
        directory = directory.rpartition("/")[0]


def _place(path: str) -> str:
    """The directory that a file counts for."""
    if path.count("/") <= MAX_DEPTH:
        return path.rpartition("/")[0]
    return "/".join(path.split("/", MAX_DEPTH)[:MAX_DEPTH])


# -- rectangles


def squarify(sizes: Sequence[int], width: float, height: float) -> list[Rectangle]:
    """One rectangle a size, in the order given, as square as a row at a time can make them.

    Sizes are positive and come with the largest first (Bruls, Huizing, van Wijk: Squarified Treemaps, 2000).
    """
    scale = width * height / sum(sizes) if sizes else 0.0
    free = Rectangle(x=0.0, y=0.0, width=width, height=height)
    areas = [size * scale for size in sizes]
    found: list[Rectangle] = []
    while len(found) < len(areas):
        side = min(free.width, free.height)
        end = start = len(found)
        total, worst = 0.0, float("inf")
        while end < len(areas):
            ratio = _worst(areas[start], areas[end], total + areas[end], side)
            if ratio > worst:
                break
            total, worst, end = total + areas[end], ratio, end + 1
        row, free = _row(areas[start:end], total, free)
        found += row
    return found


def _worst(largest: float, smallest: float, total: float, side: float) -> float:
    """The least square of a row's rectangles, were the row as long as the side."""
    if not total or not side or not smallest:
        return float("inf")
    return max(side**2 * largest / total**2, total**2 / (side**2 * smallest))


def _row(areas: Sequence[float], total: float, free: Rectangle) -> tuple[list[Rectangle], Rectangle]:
    """The row along the shorter side, and what is free beside it."""
    is_column = free.width >= free.height
    side = free.height if is_column else free.width
    depth = total / side if side else 0.0
    row, position = [], 0.0
    for area in areas:
        length = side * area / total if total else 0.0
        row.append(
            Rectangle(x=free.x, y=free.y + position, width=depth, height=length) if is_column
            else Rectangle(x=free.x + position, y=free.y, width=length, height=depth)
        )
        position += length
    if is_column:
        return row, replace(free, x=free.x + depth, width=max(0.0, free.width - depth))
    return row, replace(free, y=free.y + depth, height=max(0.0, free.height - depth))
