"""Bytes that everybody downloads for nothing: what they are, which instruction stored them, what to do.

Each stored file is wasted for one reason at most. Of those that no container sees: its content is at the
same path of the layer that hides it (``metadata``), or at another path of the layer that deletes it
(``moved``), or it is ``replaced`` or ``deleted``; a ``marker`` is a whiteout with content. Of those that a
container does see: all its names lie in a ``cache``, or a lower layer has the same bytes (``duplicate``).
The first that applies counts, so no byte counts twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from lamina.image import Image
from lamina.insight import advice
from lamina.insight.caches import CacheFinder
from lamina.insight.duplicates import Copies, changes, find_copies
from lamina.insight.instruction import instruction_of
from lamina.insight.survey import LiveFile, OpenData, Survey, place_of, survey
from lamina.layer.tree import Hidden, Reason, Tree
from lamina.values import dataclass


class WasteKind(StrEnum):
    METADATA = "metadata"
    MOVED = "moved"
    REPLACED = "replaced"
    DELETED = "deleted"
    MARKER = "marker"
    CACHE = "cache"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True, kw_only=True)
class WasteItem:
    """One stored file that could be spared. ``bytes`` is never 0.

    ``path`` has no leading slash. ``layer`` is where the bytes are. ``other`` is the layer that hides them,
    or that has the first copy of a duplicate; ``None`` where no other is involved. ``other_path`` is the new
    place of what was moved, the first copy of a duplicate, the directory with which a file was deleted or
    that is the cache; else ``""``. ``changed`` says for ``metadata`` what is different: some of ``mode``,
    ``owner``, ``mtime``, ``xattrs``. ``fix`` is one line about the Dockerfile.
    """

    kind: WasteKind
    path: str
    bytes: int
    layer: int
    instruction: str
    fix: str
    other: int | None = None
    other_instruction: str = ""
    other_path: str = ""
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Waste:
    """``total_bytes`` is the content of all files of all layers. ``items`` come with the largest first.

    No byte is counted twice: the items add up to ``wasted_bytes``.
    """

    total_bytes: int
    wasted_bytes: int
    items: tuple[WasteItem, ...]

    @property
    def score(self) -> float:
        """Efficiency in percent: 100 where nothing is wasted."""
        return 100.0 - self.percent

    @property
    def percent(self) -> float:
        return 100.0 * self.wasted_bytes / self.total_bytes if self.total_bytes else 0.0

    def only(self, kinds: frozenset[WasteKind]) -> Waste:
        """As if nothing else were waste."""
        return _added_up(self.total_bytes, (item for item in self.items if item.kind in kinds))


def find_waste(image: Image, tree: Tree, open_data: OpenData) -> Waste:
    """Content is compared, not guessed: files of equal size are read, once, in the order of the layers."""
    found = survey(tree)
    caches = _Caches(found)
    copies = find_copies(tree, found.hidden, caches.others, open_data)
    return _added_up(found.total_bytes, _Judging(image, found, caches, copies).items())


def _added_up(total: int, items: Iterator[WasteItem]) -> Waste:
    ordered = tuple(sorted(items, key=lambda item: (-item.bytes, item.path, item.layer)))
    return Waste(total_bytes=total, wasted_bytes=sum(item.bytes for item in ordered), items=ordered)


class _Caches:
    """Live files told apart: those of caches, with the cache and its directory, and the others."""

    def __init__(self, found: Survey) -> None:
        self.finder = CacheFinder()
        self.cached: list[LiveFile] = []
        self.others: list[LiveFile] = []
        for file in found.live:
            # A name elsewhere keeps the bytes: conda and uv link what they install to their caches.
            is_cached = all(self.finder.find(path) is not None for path in file.paths)
            (self.cached if is_cached else self.others).append(file)


class _Judging:
    """From what is known of each file to its item."""

    def __init__(self, image: Image, found: Survey, caches: _Caches, copies: Copies) -> None:
        self._instructions = [instruction_of(layer.history) for layer in image.layers]
        self._found = found
        self._caches = caches
        self._copies = copies

    def items(self) -> Iterator[WasteItem]:
        yield from map(self._hidden, self._found.hidden)
        yield from map(self._cached, self._caches.cached)
        for file, first in self._copies.duplicates:
            yield self._duplicate(file, first)
        for layer, entry in self._found.markers:
            yield WasteItem(
                kind=WasteKind.MARKER, path=entry.path, bytes=entry.size, layer=layer,
                instruction=self._instructions[layer], fix=advice.for_marker(layer),
            )

    def _hidden(self, hidden: Hidden) -> WasteItem:
        layer, other = hidden.layer, hidden.hidden_by.layer
        mine, others = self._instructions[layer], self._instructions[other]
        changed: tuple[str, ...] = ()
        where = ""
        again = self._copies.again.get(place_of(hidden))
        moved = self._copies.moved.get(place_of(hidden))
        if again is not None:
            kind, changed = WasteKind.METADATA, changes(hidden.entry, again)
            fix = advice.for_metadata(layer, mine, other, others, changed, again)
        elif moved is not None:
            kind, where, fix = WasteKind.MOVED, moved, advice.for_moved(layer, mine)
        elif hidden.hidden_by.reason is Reason.REPLACED:
            kind, fix = WasteKind.REPLACED, advice.for_replaced(layer, mine, other, others)
        else:
            kind, fix = WasteKind.DELETED, self._fix_of_deleted(hidden)
            where = hidden.hidden_by.path if hidden.hidden_by.path != hidden.entry.path else ""
        return WasteItem(
            kind=kind, path=hidden.entry.path, bytes=hidden.size, layer=layer, instruction=mine, fix=fix,
            other=other, other_instruction=others, other_path=where, changed=changed,
        )

    def _fix_of_deleted(self, hidden: Hidden) -> str:
        found = self._caches.finder.find(hidden.entry.path)
        if found is not None:
            return found[0].fix
        layer = hidden.layer
        return advice.for_deleted(layer, self._instructions[layer], hidden.hidden_by.layer)

    def _cached(self, file: LiveFile) -> WasteItem:
        found = self._caches.finder.find(file.paths[0])
        assert found is not None
        cache, directory = found
        return WasteItem(
            kind=WasteKind.CACHE, path=file.paths[0], bytes=file.entry.size, layer=file.layer,
            instruction=self._instructions[file.layer], fix=cache.fix,
            other_path=directory if directory != file.paths[0] else "",
        )

    def _duplicate(self, file: LiveFile, first: LiveFile) -> WasteItem:
        return WasteItem(
            kind=WasteKind.DUPLICATE, path=file.paths[0], bytes=file.entry.size, layer=file.layer,
            instruction=self._instructions[file.layer], fix=advice.for_duplicate(first.layer),
            other=first.layer, other_instruction=self._instructions[first.layer], other_path=first.paths[0],
        )
