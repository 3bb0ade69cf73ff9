"""A contiguous range of layers as one layer, decided from their indexes: no byte of content is touched here.

The law: on the layers below the range, the one layer does what the range did. So for every path that the
union shows because of the range there is one entry, under the path where it really lies; for every path
that the union no longer shows because of the range there is a whiteout; and nothing else, so that what
was added and removed within the range is gone, names included.

- Hard links are written again with all of their names: a name may have lost its file to a later layer,
  or share it with a layer below, where no other engine would follow it (LAYER-CASES 81).
- Directories above an entry are listed with what the union says of them. Engines disagree about ones
  that a layer leaves out (LAYER-CASES 73), and a layer that lists them unpacks alike on every base.
- A directory that was removed and made again hides what lies below it: it gets an opaque marker. The root
  cannot have one (three engines of four fail on it, LAYER-CASES 58), so whiteouts say there the same; only
  where a name has no whiteout, the root has the marker besides.
- Without layers below there is nothing to hide, and no marks are left.

Directories and marks come first, in the order of paths; then everything else in the order in which its
bytes lie in the layers, base first, so that each layer is read once, front to back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from operator import attrgetter
from typing import Protocol

from lamina.layer.entry import NO_XATTRS, OPAQUE_NAME, WHITEOUT_PREFIX, Entry, Kind, ancestors
from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.layer.tarheader import BLOCK, MAX_NAME, encode, encode_header
from lamina.layer.tarstream import TarWriter, Writable
from lamina.layer.tree import Node, Tree
from lamina.values import dataclass, replace

_MARK_MODE = 0o600
_END_MARK = 2 * BLOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One entry of the merged layer. A file's bytes are at ``offset`` of the tar of layer ``layer``.

    Offsets that the entry itself has are those of the tar that it came from.
    """

    entry: Entry
    layer: int = -1
    offset: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """The layer that stands for layers ``first`` to ``last`` (both included, counted from the base)."""

    first: int
    last: int
    members: Sequence[Member]

    @property
    def tar_size(self) -> int:
        """Bytes of the tar that :func:`write_merged` writes, found without reading any content."""
        return _END_MARK + sum(
            len(encode_header(member.entry)) + -(-member.entry.size // BLOCK) * BLOCK
            for member in self.members
        )

    @property
    def content_size(self) -> int:
        return sum(member.entry.size for member in self.members)


class LayerTar(Protocol):
    """The uncompressed tar of one layer. Offsets are asked for in ascending order."""

    def seek(self, offset: int, /) -> object: ...

    def read(self, size: int = ..., /) -> bytes: ...


def merge(indexes: Sequence[LayerIndex], first: int, last: int) -> Merged:
    """``indexes`` are the whole stack, base first; those above ``last`` are not looked at.

    Raises ``InvalidLayer`` for a stack that cannot be unpacked either.
    """
    if not 0 <= first <= last < len(indexes):
        raise ValueError(f"layers {first} to {last} of {len(indexes)}")
    below = Tree(indexes[:first])
    union = Tree(indexes[: last + 1])
    merging = _Merging(below, union, first)
    return Merged(first=first, last=last, members=merging.members())


def write_merged(
    merged: Merged,
    open_tar: Callable[[int], AbstractContextManager[LayerTar]],
    out: Writable,
    builder: IndexBuilder | None = None,
) -> None:
    """The merged layer's tar. The same indexes and contents give the same bytes, on every machine.

    ``open_tar`` gives the tar of a layer by its number; each is opened once, and one at a time. ``builder``
    is told all that it would learn from reading the tar; its caller finishes it.
    """
    writer = TarWriter(out, skeleton=builder.skeleton if builder is not None else None)
    with ExitStack() as opened:
        number, tar = -1, None
        for member in merged.members:
            begin = writer.position
            if member.entry.size and member.layer != number:
                opened.close()
                number, tar = member.layer, opened.enter_context(open_tar(member.layer))
            if member.entry.size:
                assert tar is not None
                tar.seek(member.offset)
            content = writer.write(member.entry, tar)
            if builder is not None:
                builder.add(_as_written(member.entry, begin, content))
    writer.finish()


def _as_written(entry: Entry, begin: int, content: int) -> Entry:
    return Entry(
        entry.path, entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime, entry.size, entry.linkname,
        entry.xattrs, entry.major, entry.minor, begin, content if entry.kind is Kind.FILE else -1,
    )


class _Merging:
    def __init__(self, below: Tree, union: Tree, first: int) -> None:
        self._below = below
        self._union = union
        self._first = first
        self._directories: dict[str, Entry] = {}
        self._shown: dict[str, bool] = {}  # path -> whether the union has a directory there
        self._groups: dict[tuple[int, int], list[Node]] = {}
        self._has_root = any(index.find("") is not None for index in union.indexes[first:])

    def members(self) -> list[Member]:
        """Everything that the range has to say, in the order in which it is written."""
        for node in self._union.walk():
            self._look_at(node)
        files = [names for names in self._groups.values() if self._is_of_range(names)]
        for names in files:
            for node in names:
                self._list_parents(node.path)
        marks = list(self._marks()) if self._first else []
        for mark in marks:
            self._list_parents(mark.path)
        top = sorted([*self._directories.values(), *marks], key=attrgetter("path"))
        files.sort(key=_place)
        return [Member(entry=entry) for entry in top] + [
            member for names in files for member in _named(names)
        ]

    def _look_at(self, node: Node) -> None:
        is_directory = node.entry.kind is Kind.DIRECTORY
        self._shown[node.path] = is_directory
        if not is_directory:
            self._groups.setdefault(node.inode, []).append(node)
        elif node.layer >= self._first and (node.path or self._has_root):
            self._list(node.entry)
            self._list_parents(node.path)

    def _is_of_range(self, names: Sequence[Node]) -> bool:
        """One name is enough: the others share the file, and a link needs it in the same layer."""
        return any(node.layer >= self._first for node in names)

    def _list(self, entry: Entry) -> None:
        # A directory `.wh.x` that only holds files is none of the marks, but would be one if it were listed.
        if not entry.name.startswith(WHITEOUT_PREFIX):
            self._directories[entry.path] = entry

    def _list_parents(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        while parent and parent not in self._directories:
            node = self._union.lookup(parent, follow=False)
            assert node is not None, f"{parent!r}: not in the union"
            self._list(node.entry)
            parent = parent.rpartition("/")[0]

    def _marks(self) -> Iterator[Entry]:
        """Whiteouts and opaque markers for what the layers below have and the union does not show."""
        opaque: set[str] = set()
        for node in self._below.walk():
            path = node.path
            if path in self._shown or not self._shown.get(path.rpartition("/")[0], False):
                continue  # still there, or gone together with its directory
            emptied = self._emptied(path)
            if emptied is None:
                parent, _, name = path.rpartition("/")
                if _can_be_whited_out(name):
                    yield _mark(parent, WHITEOUT_PREFIX + name)
                    continue
                emptied = ""  # what no whiteout can name, only an opaque root hid
            if emptied not in opaque:
                opaque.add(emptied)
                yield _mark(emptied, OPAQUE_NAME)

    def _emptied(self, path: str) -> str | None:
        """The outermost directory above a path that the range removed and made again."""
        for parent in ancestors(path):
            if self._union.cut(parent) >= self._first:
                return parent
        return None


def _can_be_whited_out(name: str) -> bool:
    """Not where the whiteout's name would be AUFS's, or longer than any filesystem holds."""
    return not name.startswith(WHITEOUT_PREFIX) and len(encode(WHITEOUT_PREFIX + name)) <= MAX_NAME


def _mark(directory: str, name: str) -> Entry:
    return Entry(path=f"{directory}/{name}" if directory else name, mode=_MARK_MODE)


def _place(names: Sequence[Node]) -> tuple[int, int]:
    return names[0].inode


def _named(names: Sequence[Node]) -> Iterator[Member]:
    """A file under the first of its names, and the others as hard links to that."""
    first = names[0]
    yield Member(entry=first.entry, layer=first.content_layer, offset=first.content.data_offset)
    for node in names[1:]:
        yield Member(entry=replace(
            node.entry, kind=Kind.HARDLINK, size=0, linkname=first.path, major=0, minor=0, xattrs=NO_XATTRS
        ))
