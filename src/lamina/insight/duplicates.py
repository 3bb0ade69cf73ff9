"""The same content stored once more: at its own path with other attributes, moved, or beside itself.

Only files whose sizes are equal can hold the same, and only those are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from lamina.insight.survey import LiveFile, OpenData, Place, hash_contents, place_of
from lamina.layer.entry import Entry, Kind
from lamina.layer.tree import Hidden, Reason, Tree, shown_xattrs
from lamina.values import dataclass

# Smaller files are the same by chance (licences, empty modules), and a link takes a block of its own.
MIN_DUPLICATE = 4096
# The kernel's limit of symlinks in one path is as good a limit of links to links.
_MAX_HOPS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """``again``: a hidden file to the entry with its content at the same path, in the layer that hides it.

    ``moved``: a deleted file to the path at which the layer that deleted it has its content. ``duplicates``:
    live files, each with the live file of a lower layer that has the same content.
    """

    again: Mapping[Place, Entry]
    moved: Mapping[Place, str]
    duplicates: Sequence[tuple[LiveFile, LiveFile]]


def find_copies(
    tree: Tree, hidden: Sequence[Hidden], live: Sequence[LiveFile], open_data: OpenData
) -> Copies:
    search = _Search(tree, open_data)
    search.suspect_hidden(hidden)
    search.suspect_live(live)
    return search.judge()


def changes(before: Entry, now: Entry) -> tuple[str, ...]:
    """In what two entries with the same content differ."""
    different = {
        "mode": before.mode != now.mode,
        "owner": (before.uid, before.gid) != (now.uid, now.gid),
        "mtime": before.mtime != now.mtime,
        "xattrs": shown_xattrs(before.xattrs) != shown_xattrs(now.xattrs),
    }
    return tuple(name for name, is_different in different.items() if is_different)


class _Search:
    """First who may be the same as whom, then one reading of them all, then who is."""

    def __init__(self, tree: Tree, open_data: OpenData) -> None:
        self._tree = tree
        self._indexes = tree.indexes
        self._open_data = open_data
        self._wanted: dict[Place, Entry] = {}
        self._again: list[tuple[Place, Place]] = []
        self._moves: list[_Moves] = []
        self._live: list[LiveFile] = []

    def suspect_hidden(self, hidden: Sequence[Hidden]) -> None:
        deleted: dict[int, dict[int, list[Hidden]]] = {}
        for each in hidden:
            if each.hidden_by.reason is Reason.REPLACED:
                self._suspect_again(each)
            elif each.hidden_by.layer != each.layer:
                deleted.setdefault(each.hidden_by.layer, {}).setdefault(each.size, []).append(each)
        for layer, by_size in deleted.items():
            self._suspect_moves(layer, by_size)

    def suspect_live(self, live: Sequence[LiveFile]) -> None:
        by_size: dict[int, list[LiveFile]] = {}
        for file in live:
            if file.entry.size >= MIN_DUPLICATE:
                by_size.setdefault(file.entry.size, []).append(file)
        for group in by_size.values():
            if len({file.layer for file in group}) > 1:
                self._live.extend(group)
                self._wanted.update((file.place, file.entry) for file in group)

    def _suspect_again(self, hidden: Hidden) -> None:
        layer, place = hidden.hidden_by.layer, place_of(hidden)
        now = self._stored_at(hidden.entry.path, layer)
        if now is None or now.size != hidden.size or (layer, now.data_offset) == place:
            return
        self._wanted[place] = hidden.entry
        self._wanted[layer, now.data_offset] = now
        self._again.append((place, (layer, now.data_offset)))

    def _stored_at(self, path: str, layer: int) -> Entry | None:
        """The file that a layer stores at a path; ``None`` where it only links to a lower one."""
        index = self._indexes[layer]
        number = index.find(path)
        for _hop in range(_MAX_HOPS):
            if number is None or index.kinds[number] != Kind.HARDLINK:
                break
            number = index.find(index.linknames.get(number, ""))
        if number is not None:
            entry = index.entry(number)
            return entry if entry.kind is Kind.FILE else None
        node = self._tree.lookup(path, follow=False)  # written through a symlink, if it still stands
        return node.content if node is not None and node.content_layer == layer else None

    def _suspect_moves(self, layer: int, deleted: Mapping[int, Sequence[Hidden]]) -> None:
        index = self._indexes[layer]
        stored: dict[int, list[Entry]] = {}
        for number, size in enumerate(index.sizes):
            if size in deleted and size and not index.is_metadata(number):
                stored.setdefault(size, []).append(index.entry(number))
        for size, entries in stored.items():
            moves = _Moves(layer, deleted[size], entries)
            self._moves.append(moves)
            self._wanted.update(moves.wanted())

    def judge(self) -> Copies:
        digests = hash_contents(self._wanted, self._open_data)
        moved: dict[Place, str] = {}
        for moves in self._moves:
            moved.update(moves.judged(digests))
        return Copies(
            again={
                before: self._wanted[now] for before, now in self._again if digests[before] == digests[now]
            },
            moved=moved,
            duplicates=list(_duplicates(self._live, digests)),
        )


class _Moves:
    """Files of one size: those that a layer deleted, and those that it stores.

    Small ones must keep their name to count as moved.
    """

    def __init__(self, layer: int, deleted: Sequence[Hidden], stored: Sequence[Entry]) -> None:
        self._layer = layer
        if stored[0].size < MIN_DUPLICATE:
            names = {each.entry.name for each in deleted} & {entry.name for entry in stored}
            deleted = [each for each in deleted if each.entry.name in names]
            stored = [entry for entry in stored if entry.name in names]
        self._deleted = deleted
        self._stored = stored

    def wanted(self) -> Iterator[tuple[Place, Entry]]:
        for each in self._deleted:
            yield place_of(each), each.entry
        for entry in self._stored:
            yield (self._layer, entry.data_offset), entry

    def judged(self, digests: Mapping[Place, bytes]) -> Iterator[tuple[Place, str]]:
        """Of several places with the same content, one where the name is the same comes first."""
        by_content: dict[bytes, str] = {}
        by_name: dict[tuple[bytes, str], str] = {}
        for entry in self._stored:
            digest = digests[self._layer, entry.data_offset]
            by_content.setdefault(digest, entry.path)
            by_name.setdefault((digest, entry.name), entry.path)
        for each in self._deleted:
            digest = digests[place_of(each)]
            found = by_name.get((digest, each.entry.name))
            if found is None and each.size >= MIN_DUPLICATE:
                found = by_content.get(digest)
            if found is not None:
                yield place_of(each), found


def _duplicates(
    live: Iterable[LiveFile], digests: Mapping[Place, bytes]
) -> Iterator[tuple[LiveFile, LiveFile]]:
    """Within one layer nothing is a duplicate: the layers below are what could have been used."""
    first: dict[bytes, LiveFile] = {}
    for file in sorted(live, key=lambda file: (file.layer, file.paths[0])):
        known = first.setdefault(digests[file.place], file)
        if known.layer < file.layer:
            yield file, known
