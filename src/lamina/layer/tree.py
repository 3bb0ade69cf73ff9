"""The union of a stack of layers, read from their indexes: what a container sees, and what it hides.

Nothing is applied anywhere. A dictionary holds, for each path, the layers that wrote it; another few say
which layer hid what. A name is visible if no layer above the one that wrote it last hides it or a
directory over it. So building costs one step an entry, and every question only what it touches.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

from lamina.layer.entry import OVERLAY_XATTRS, Entry, Kind, ancestors
from lamina.layer.index import LayerIndex
from lamina.layer.placement import IMPLIED, Inode, Placement, place
from lamina.layer.way import Way
from lamina.values import dataclass, replace

# A record is one number: the layer above these bits, the entry's number in them.
_BITS = 32
_NUMBER = (1 << _BITS) - 1
_DIRECTORY = Kind.DIRECTORY.value
_SYMLINK = Kind.SYMLINK.value


class Reason(StrEnum):
    """Why something of a lower layer cannot be seen."""

    REPLACED = "replaced"
    DELETED = "deleted"
    DIRECTORY_REPLACED = "directory replaced"
    OPAQUE = "opaque"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One name of the union.

    ``entry`` is how the union shows it: a hard link as the file it shares, a directory that no layer
    lists as 0755 of root. ``layer`` made the name. ``content`` is the entry that has the bytes, as it
    stands in layer ``content_layer``. Names with equal ``inode`` are one file.
    """

    path: str
    entry: Entry
    layer: int
    content: Entry
    content_layer: int
    inode: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hider:
    """The first layer that hides something, why, and the path it acts on: the same, or a directory above."""

    layer: int
    reason: Reason
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One layer's part in a path: it wrote ``entry``. ``hidden_by`` is ``None`` while nothing hides that."""

    layer: int
    entry: Entry
    hidden_by: Hider | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """A file of a lower layer that no one can see. ``size`` counts bytes that have no visible name left."""

    layer: int
    entry: Entry
    size: int
    hidden_by: Hider


@dataclass(slots=True)
class LayerCounts:
    """What one layer does. Files are everything but directories; sizes are bytes of file data.

    ``hidden`` files are those of lower layers that this one replaces or removes.
    """

    files_added: int = 0
    files_changed: int = 0
    files_hidden: int = 0
    bytes_hidden: int = 0
    content_size: int = 0


class Tree:
    """Layers, base first; :meth:`add` puts one more on top."""

    def __init__(self, indexes: Iterable[LayerIndex] = ()) -> None:
        self._placements: list[Placement] = []
        self._records: dict[str, int | tuple[int, ...]] = {}
        self._whiteouts: dict[str, list[int]] = {}
        self._opaques: dict[str, list[int]] = {}
        self._links: dict[int, int] = {}  # record of a hard link -> record of its inode
        self._shared: set[int] = set()  # inodes that some hard link names
        self._cuts: dict[str, int] = {}
        self._children: dict[str, list[str]] | None = None
        for index in indexes:
            self.add(index)

    def __len__(self) -> int:
        return len(self._placements)

    @property
    def indexes(self) -> Sequence[LayerIndex]:
        return [placement.index for placement in self._placements]

    def add(self, index: LayerIndex) -> Placement:
        """Raises ``InvalidLayer`` for what cannot be placed; the tree is then as it was."""
        layer = len(self._placements)
        placement = place(index, self if layer else None)
        base = layer << _BITS
        self._placements.append(placement)
        self._record(base, placement)
        for number, inode in placement.links.items():
            record = (layer if inode.layer < 0 else inode.layer) << _BITS | inode.number
            self._links[base | number] = record
            self._shared.add(record)
        for hidden, number in placement.whiteouts.items():
            self._whiteouts.setdefault(hidden, []).append(base | number)
        for directory, number in placement.opaques.items():
            self._opaques.setdefault(directory, []).append(base | number)
        self._cuts.clear()
        self._children = None
        return placement

    def _record(self, base: int, placement: Placement) -> None:
        records, kept = self._records, placement.kept
        if not records and IMPLIED not in placement.live.values():
            self._records = {path: base | number for path, number in placement.live.items()}
            return
        for path, number in placement.live.items():
            if number == IMPLIED and path in kept:
                continue
            record = base | (number & _NUMBER)
            older = records.get(path)
            if older is None:
                records[path] = record
            elif isinstance(older, tuple):
                records[path] = (*older, record)
            else:
                records[path] = (older, record)

    # -- the union

    def lookup(self, path: str, *, follow: bool) -> Node | None:
        """Symlinks above the last part are always followed, inside the root; ``follow`` is for the last."""
        found = self.resolve(path, follow=follow)
        return None if found is None else self._node(found)

    def is_shared(self, inode: tuple[int, int]) -> bool:
        """Whether some hard link names the file that :attr:`Node.inode` says: then it may have more names."""
        return inode[0] << _BITS | inode[1] in self._shared

    def resolve(self, path: str, *, follow: bool) -> str | None:
        """The path itself, without a symlink in it, if it exists."""
        way = Way(path)
        for here in way:
            inode = self.standing(here)
            if inode is None:
                return None
            kind = self.kind_of(inode)
            if kind == _SYMLINK and (follow or way.has_more):
                if not way.follow(self.link_text(inode)):
                    return None
                continue
            if kind != _DIRECTORY and way.has_more:
                return None
            way.enter(here)
        return way.place

    def listdir(self, path: str) -> Iterator[Node]:
        """What is in a directory, by name; ``path`` as :meth:`resolve` gives it."""
        if self._children is None:
            children: dict[str, list[str]] = {}
            for each in self._records:
                if each:
                    children.setdefault(each.rpartition("/")[0], []).append(each)
            self._children = children  # whole: other threads may list too
        for child in sorted(self._children.get(path, ())):
            if self._visible(child) is not None:
                yield self._node(child)

    def walk(self, path: str = "") -> Iterator[Node]:
        """Everything that can be seen at and below a path, parents first, in the order of paths."""
        if not path and "" not in self._records:
            yield self._node("")
        for each, _record in self._live(path):
            yield self._node(each)

    def live_entries(self) -> Iterator[tuple[Entry, int, Entry]]:
        """The union as one layer: entry, and the layer and entry that have its bytes.

        Of several names of one file the first in order is the file, the others are hard links to it.
        The root is there if a layer lists it.
        """
        first: dict[tuple[int, int], str] = {}
        for path, _record in self._live():
            node = self._node(path)
            entry = node.entry
            if node.inode[0] << _BITS | node.inode[1] in self._shared:
                name = first.setdefault(node.inode, path)
                if name != path:
                    entry = replace(entry, kind=Kind.HARDLINK, size=0, linkname=name)
            yield entry, node.content_layer, node.content

    # -- what lies below

    def history_of(self, path: str) -> tuple[Trace, ...]:
        """Every layer that wrote exactly this path, base first."""
        records = self._records_of(path)
        if not path and not records and self._placements:
            records = (_NUMBER,)  # the root that no layer lists
        return tuple(
            Trace(
                layer=record >> _BITS, entry=self._shown(path, record),
                hidden_by=self._first_hider(path, record),
            )
            for record in records
        )

    def obscured(self) -> Iterator[Hidden]:
        """Every file of a layer that cannot be seen in the union, in the order of paths."""
        visible = self._visible_inodes()
        within = self._replaced_within()
        for path in sorted({*self._records, *within}):
            for record, hider in within.get(path, ()):
                yield self._hidden(path, record, hider, visible)
            if not self._is_untouched(path):
                for record in self._records_of(path):
                    found = None if self._kind(record) == _DIRECTORY else self._first_hider(path, record)
                    if found is not None:
                        yield self._hidden(path, record, found, visible)

    def counts(self) -> tuple[LayerCounts, ...]:
        """One a layer, base first. The hidden files of all layers are those of :meth:`obscured`."""
        counts = [LayerCounts(content_size=sum(each.index.sizes)) for each in self._placements]
        for path, records in self._records.items():
            if isinstance(records, int):
                if self._kind(records) != _DIRECTORY:
                    counts[records >> _BITS].files_added += 1
                continue
            before: int | None = None
            for record in records:
                if self._kind(record) != _DIRECTORY:
                    if before is not None and self._is_seen_until(path, before, record >> _BITS):
                        counts[record >> _BITS].files_changed += 1
                    else:
                        counts[record >> _BITS].files_added += 1
                before = record
        for hidden in self.obscured():
            counts[hidden.hidden_by.layer].files_hidden += 1
            counts[hidden.hidden_by.layer].bytes_hidden += hidden.size
        return tuple(counts)

    # -- what a placement asks of the layers below it

    def standing(self, path: str) -> Inode | None:
        record = self._visible(path)
        if record is None:
            return None
        record = self._links.get(record, record)
        return Inode(record >> _BITS, record & _NUMBER)

    def kind_of(self, inode: Inode) -> int:
        return self._kind(inode.layer << _BITS | inode.number)

    def link_text(self, inode: Inode) -> str:
        return self._placements[inode.layer].index.linknames.get(inode.number, "")

    def entry_of(self, inode: Inode) -> Entry:
        """As the layer has it; a directory that no layer lists is made up, without a name."""
        return self._entry(inode.layer << _BITS | inode.number)

    # -- records

    def _records_of(self, path: str) -> tuple[int, ...]:
        records = self._records.get(path, ())
        return (records,) if isinstance(records, int) else records

    def _entry(self, record: int) -> Entry:
        number = record & _NUMBER
        if number == _NUMBER:
            return Entry("", Kind.DIRECTORY, 0o755)
        entry = self._placements[record >> _BITS].index.entry(number)
        if entry.xattrs:
            entry.xattrs = shown_xattrs(entry.xattrs)
        return entry

    def _shown(self, path: str, record: int) -> Entry:
        entry = self._entry(self._links.get(record, record))
        return entry if entry.path == path else replace(entry, path=path)

    def _kind(self, record: int) -> int:
        """Of what it shows: a hard link has the kind of its file."""
        record = self._links.get(record, record)
        number = record & _NUMBER
        return _DIRECTORY if number == _NUMBER else self._placements[record >> _BITS].index.kinds[number]

    def _node(self, path: str) -> Node:
        record = self._visible(path)
        if record is None:
            assert not path, f"{path!r}: not visible"
            record = _NUMBER  # the root that no layer lists
        source = self._links.get(record, record)
        content = self._entry(source)
        return Node(
            path=path,
            entry=content if content.path == path else replace(content, path=path),
            layer=record >> _BITS,
            content=content,
            content_layer=source >> _BITS,
            inode=(source >> _BITS, source & _NUMBER),
        )

    # -- visibility

    def _live(self, path: str = "") -> Iterator[tuple[str, int]]:
        chosen: Iterable[str] = self._records
        if path:
            below = path + "/"
            chosen = [each for each in self._records if each == path or each.startswith(below)]
        for each in sorted(chosen):
            record = self._visible(each)
            if record is not None:
                yield each, record

    def _visible(self, path: str) -> int | None:
        """The record that the union shows at a path."""
        records = self._records.get(path)
        if records is None:
            return None
        record = records if isinstance(records, int) else records[-1]
        layer = record >> _BITS
        removed = self._whiteouts.get(path)
        if removed is not None and removed[-1] >> _BITS > layer:
            return None
        return None if path and self.cut(path.rpartition("/")[0]) > layer else record

    def cut(self, directory: str) -> int:
        """The highest layer that hides what lower ones have in a directory, -1 if none does."""
        missing: list[str] = []
        known = self._cuts.get(directory)
        while known is None:
            missing.append(directory)
            if not directory:
                known = -1
                break
            directory = directory.rpartition("/")[0]
            known = self._cuts.get(directory)
        for each in reversed(missing):
            known = self._cuts[each] = max(known, self._own_cut(each))
        return known

    def _own_cut(self, directory: str) -> int:
        found = -1
        for event in (self._whiteouts.get(directory), self._opaques.get(directory)):
            if event is not None:
                found = max(found, event[-1] >> _BITS)
        for record in reversed(self._records_of(directory)):
            if record >> _BITS <= found:
                break
            if self._kind(record) != _DIRECTORY:
                return record >> _BITS
        return found

    def _is_seen_until(self, path: str, record: int, layer: int) -> bool:
        hider = self._first_hider(path, record)
        return hider is None or hider.layer >= layer

    def _is_untouched(self, path: str) -> bool:
        return isinstance(self._records.get(path), int) and self._visible(path) is not None

    def _first_hider(self, path: str, record: int) -> Hider | None:
        """Of everything that hides a record, what lies lowest; at one layer, what says most."""
        events = self._events_above(path, record)
        return min(events, key=lambda event: event.layer, default=None)  # the first of equals

    def _events_above(self, path: str, record: int) -> Iterator[Hider]:
        """The lowest event of each sort in a layer above a record, the most telling sort first."""
        is_directory = self._kind(record) == _DIRECTORY
        for later in _above(self._records_of(path), record):
            if not is_directory or self._kind(later) != _DIRECTORY:
                reason = Reason.DIRECTORY_REPLACED if is_directory else Reason.REPLACED
                yield Hider(layer=later >> _BITS, reason=reason, path=path)
                break
        yield from self._removals_above(path, record)
        for directory in ["", *ancestors(path)] if path else []:
            for later in _above(self._records_of(directory), record):
                if self._kind(later) != _DIRECTORY:
                    yield Hider(layer=later >> _BITS, reason=Reason.DIRECTORY_REPLACED, path=directory)
                    break
            yield from self._removals_above(directory, record)
            for mark in _above(self._opaques.get(directory, ()), record)[:1]:
                yield Hider(layer=mark >> _BITS, reason=Reason.OPAQUE, path=directory)

    def _removals_above(self, path: str, record: int) -> Iterator[Hider]:
        """A directory that took the place of something within its layer hides what was below that."""
        for removal in _above(self._whiteouts.get(path, ()), record)[:1]:
            is_whiteout = self._placements[removal >> _BITS].index.is_metadata(removal & _NUMBER)
            reason = Reason.DELETED if is_whiteout else Reason.DIRECTORY_REPLACED
            yield Hider(layer=removal >> _BITS, reason=reason, path=path)

    def _visible_inodes(self) -> set[int]:
        """Of the files with several names, those that have one left to be seen."""
        if not self._shared:
            return set()
        live = {self._links.get(record, record) for _path, record in self._live()}
        return self._shared & live

    def _replaced_within(self) -> dict[str, list[tuple[int, Hider]]]:
        found: dict[str, list[tuple[int, Hider]]] = {}
        for layer, placement in enumerate(self._placements):
            index = placement.index
            for number, by in placement.replaced.items():
                hider = Hider(layer=layer, reason=Reason.REPLACED, path=index.paths[by])
                found.setdefault(index.paths[number], []).append((layer << _BITS | number, hider))
        return found

    def _hidden(self, path: str, record: int, hider: Hider, visible: set[int]) -> Hidden:
        entry = self._shown(path, record)
        is_last_name = record not in self._links and record not in visible
        return Hidden(
            layer=record >> _BITS, entry=entry, size=entry.size if is_last_name else 0, hidden_by=hider
        )


def shown_xattrs(xattrs: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """A layer must not steer overlayfs: what would is not there (LAYER-CASES 91)."""
    return {name: value for name, value in xattrs.items() if not name.startswith(OVERLAY_XATTRS)}


def _above(records: Sequence[int], record: int) -> Sequence[int]:
    """Those of ascending records that belong to higher layers."""
    return records[bisect_right(records, record | _NUMBER):]
