"""Which layers have an entry at a path or below it, however the path is spelled in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lamina.layer.entry import Entry, InvalidLayer, PathEscapes
from lamina.layer.index import LayerIndex
from lamina.layer.placement import IMPLIED
from lamina.layer.tree import Tree


def entries_at(path: str, indexes: Sequence[LayerIndex | None]) -> Iterator[tuple[int, Entry]]:
    """Layer number and entry. Whiteouts do not count: they are what is left of an erased path.

    A layer may spell the path as it is, or through symlinks that lead there when the layer is applied; and
    the path itself may lead through symlinks to where the entry is. Without all indexes only the spelling
    counts.
    """
    tree = Tree()
    for number, index in enumerate(indexes):
        if index is None:
            continue
        before = _place(tree, path)
        found = set(_named(index, {path, before}))
        if len(tree) == number:
            found.update(_placed(tree, index, path))
        for entry in sorted(found):
            if not index.is_metadata(entry):
                yield number, index.entry(entry)


def _placed(tree: Tree, index: LayerIndex, path: str) -> Iterator[int]:
    """The same with the layer on the stack; nothing where it cannot be stacked."""
    try:
        live = tree.add(index).live
    except (InvalidLayer, PathEscapes):
        return
    places = {path, _place(tree, path)}
    yield from _named(index, places)
    for place, number in live.items():
        if number != IMPLIED and _is_at(place, places):
            yield number


def _named(index: LayerIndex, places: set[str]) -> Iterator[int]:
    return (number for number, path in enumerate(index.paths) if _is_at(path, places))


def _is_at(path: str, places: set[str]) -> bool:
    return any(path == place or path.startswith(place + "/") for place in places)


def _place(tree: Tree, path: str) -> str:
    """Where symlinks above the last part lead, as far as the layers so far have them."""
    parent, slash, name = path.rpartition("/")
    found = tree.resolve(parent, follow=True) if slash and len(tree) else None
    if found is None:
        return path
    return f"{found}/{name}" if found else name
