"""Where in a layer an offset of its tar lies, and whether the image shows that, or hides it, and who does."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from enum import StrEnum
from functools import cached_property

from lamina.layer.entry import Entry, InvalidLayer, Kind, PathEscapes
from lamina.layer.index import LayerIndex
from lamina.layer.tree import Hider, Tree
from lamina.values import dataclass


class Place(StrEnum):
    """The kinds of place where an image holds bytes."""

    LIVE = "live file"
    OBSCURED = "obscured file"
    ENTRY = "entry"
    HEADER = "tar header"
    PADDING = "tar padding"
    TRAILER = "tar trailer"
    BLOB_HEADER = "gzip header"
    BLOB = "compressed bytes"
    CONFIG = "config"
    HISTORY = "history"
    LABEL = "label"
    ANNOTATION = "annotation"
    DOCUMENT = "document"
    ATTESTATION = "attestation"
    OTHER = "other content"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """``entry`` is the number of the one that the place belongs to, -1 if none.

    ``offset`` counts in a file's content, or else in the tar.
    """

    place: Place
    entry: int
    offset: int


def spot_of(index: LayerIndex, offset: int, end: int) -> Spot:
    """``end`` is where the trailer begins. Files are taken for live ones until :class:`Fates` is asked."""
    number = bisect_right(index.header_offsets, offset) - 1
    if number < 0 or offset >= end:
        return Spot(place=Place.TRAILER, entry=-1, offset=offset)
    data, size = index.data_offsets[number], index.sizes[number]
    if data < 0 or offset < data:
        return Spot(place=Place.HEADER, entry=number, offset=offset)
    if offset < data + size:
        return Spot(place=Place.LIVE, entry=number, offset=offset - data)
    return Spot(place=Place.PADDING, entry=number, offset=offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """``is_live``: a container sees it. ``hidden_by`` is ``None`` too for what is neither, as a whiteout."""

    is_live: bool
    hidden_by: Hider | None = None


class Fates:
    """What became of the entries of a stack. Nothing is computed before something is asked."""

    def __init__(self, indexes: Sequence[LayerIndex]) -> None:
        self._indexes = indexes

    def of(self, layer: int, entry: Entry) -> Fate:
        """``entry`` is as its layer has it. Of a stack that cannot be stacked nothing is known."""
        try:
            return self._of(layer, entry)
        except (InvalidLayer, PathEscapes):
            return Fate(is_live=True)

    def _of(self, layer: int, entry: Entry) -> Fate:
        if (layer, entry.header_offset) in self._live:
            return Fate(is_live=True)
        hider = self._hidden.get((layer, entry.header_offset, entry.path))
        if hider is None:
            hider = self._hidden.get((layer, entry.header_offset, ""))
        if hider is None and entry.kind in (Kind.DIRECTORY, Kind.HARDLINK):
            traces = [trace for trace in self._tree.history_of(entry.path) if trace.layer == layer]
            hider = traces[0].hidden_by if traces else None
            return Fate(is_live=bool(traces) and hider is None, hidden_by=hider)
        return Fate(is_live=False, hidden_by=hider)

    @cached_property
    def _tree(self) -> Tree:
        return Tree(self._indexes)

    @cached_property
    def _live(self) -> set[tuple[int, int]]:
        """Also a file whose own name is gone, as long as a hard link to it can be seen."""
        return {(node.content_layer, node.content.header_offset) for node in self._tree.walk()}

    @cached_property
    def _hidden(self) -> dict[tuple[int, int, str], Hider]:
        """By the path too, where that is the entry's own; below a symlink it is not."""
        found: dict[tuple[int, int, str], Hider] = {}
        for hidden in self._tree.obscured():
            entry = hidden.entry
            found[hidden.layer, entry.header_offset, entry.path] = hidden.hidden_by
            found.setdefault((hidden.layer, entry.header_offset, ""), hidden.hidden_by)
        return found
