"""A stage's files, or an image's, for who copies from them: the union of its layers, read from their indexes.

It answers what a :class:`~lamina.build.context.Context` answers, and nothing is mounted or unpacked for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from lamina.build.context import Node
from lamina.build.ignore import Rules
from lamina.layer.entry import Entry, Kind
from lamina.layer.tree import Node as Known
from lamina.layer.tree import Tree
from lamina.oci.digest import Digest

_WORD = 1 << 62
_MAX_DATABASE = 4 << 20

OpenData = Callable[[Digest, Entry], BinaryIO]


class Layered:
    """``open_data`` gives the content of an entry of the layer with a diff id; the caller closes it."""

    def __init__(self, tree: Tree, diff_ids: Sequence[Digest], open_data: OpenData) -> None:
        self.rules = Rules()
        self._tree = tree
        self._diff_ids = list(diff_ids)
        self._open_data = open_data

    def entry(self, path: str) -> Entry | None:
        """What is at a canonical path, as the union shows it."""
        found = self._tree.lookup(path, follow=False)
        return None if found is None else found.entry

    def resolve(self, path: str, *, follow: bool = True) -> str | None:
        return self._tree.resolve(path, follow=follow)

    def look(self, path: str) -> Node | None:
        found = self._tree.lookup(path, follow=False)
        return None if found is None else self._node(found)

    look_behind = look

    def children(self, directory: str) -> list[Node]:
        """The last name first."""
        return [self._node(each) for each in self._tree.listdir(directory)][::-1]

    def walk(self, top: str = "", *, enters: Callable[[str], bool] | None = None) -> Iterator[Node]:
        waiting = self.children(top)
        while waiting:
            node = waiting.pop()
            yield node
            if node.kind is Kind.DIRECTORY and (enters is None or enters(node.path)):
                waiting += self.children(node.path)

    def xattrs(self, path: str) -> dict[str, bytes]:
        found = self._tree.lookup(path, follow=False)
        return {} if found is None else dict(found.entry.xattrs)

    def open_file(self, node: Node) -> BinaryIO:
        found = self._tree.lookup(node.path, follow=False)
        assert found is not None, node.path
        return self._open_data(self._diff_ids[found.content_layer], found.content)

    def database(self, path: str) -> str:
        """``etc/passwd`` or ``etc/group``; empty where it is none that can be read."""
        found = self._tree.lookup(path, follow=True)
        if found is None or found.entry.kind is not Kind.FILE or found.content.size > _MAX_DATABASE:
            return ""
        with self._open_data(self._diff_ids[found.content_layer], found.content) as file:
            return file.read().decode("utf-8", "surrogateescape")

    def _node(self, found: Known) -> Node:
        """Its layer stands for a device and its place in it for an inode: what never changes has one name."""
        entry = found.entry
        kind = Kind.FILE if entry.kind is Kind.HARDLINK else entry.kind
        layer, number = found.inode
        device = int(self._diff_ids[layer].encoded[:16], 16) % _WORD if self._diff_ids else 0
        is_device = kind in (Kind.CHAR, Kind.BLOCK)
        return Node(
            path=found.path, kind=kind, mode=entry.mode, uid=entry.uid, gid=entry.gid,
            size=found.content.size if kind is Kind.FILE else 0, mtime_ns=entry.mtime,
            linkname=entry.linkname if kind is Kind.SYMLINK else "",
            rdev=os.makedev(entry.major, entry.minor) if is_device else 0,
            device=device, inode=number + 1, ctime_ns=0, links=2 if self._tree.is_shared(found.inode) else 1,
        )
