"""Comparing two trees only where somebody knows that they may differ.

A filesystem that tells which paths were touched between two of its snapshots spares the walk through all
the others. The whole comparison stays what this one is measured by.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Hashable, Iterator
from pathlib import Path

from lamina.layer.diff import join, kind_of
from lamina.layer.entry import Kind
from lamina.layer.root import Ownership
from lamina.layer.upper import ContainerRoot
from lamina.values import dataclass

# Half of what a message to a worker may hold (``lamina.snapshot.hands``): there is more in it than this.
_MAX_TEXT = 96 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """``paths`` may differ themselves, ``trees`` with all that is below them; both are canonical paths.

    More than really changed costs time and nothing else, and a path need not be on both sides, nor on any.
    Of a file with several names all must be here if one is: where some are missing, the trees are compared
    whole (:func:`is_closed`).
    """

    paths: tuple[str, ...] = ()
    trees: tuple[str, ...] = ()

    @property
    def fits_message(self) -> bool:
        texts = (*self.paths, *self.trees)
        return sum(map(len, texts)) < _MAX_TEXT and len(json.dumps(texts)) < _MAX_TEXT


class NarrowedRoot(ContainerRoot):
    """A tree of which only touched paths show, with the directories that lead to them."""

    def __init__(self, path: str | Path, *, owner: Ownership, touched: Touched) -> None:
        super().__init__(path, owner=owner)
        self._trees = frozenset(touched.trees)
        # The names that show, by directory.
        self._shown: dict[str, set[str]] = {}
        for each in (*touched.paths, *touched.trees):
            self._show(each)

    def names(self, path: str) -> list[str]:
        if self._is_whole(path):
            return super().names(path)
        shown = self._shown.get(path)
        return [name for name in super().names(path) if name in shown] if shown else []

    def links(self, path: str) -> int:
        """How many names a file has, whether they show or not; 1 for a directory."""
        status = self._status(path)
        return 1 if stat.S_ISDIR(status.st_mode) else status.st_nlink

    def _show(self, path: str) -> None:
        while path:
            parent, _, name = path.rpartition("/")
            names = self._shown.setdefault(parent, set())
            if name in names:
                return
            names.add(name)
            path = parent

    def _is_whole(self, path: str) -> bool:
        if not self._trees:
            return False
        while path not in self._trees:
            if not path:
                return False
            path = path.rpartition("/")[0]
        return True


def is_closed(root: NarrowedRoot) -> bool:
    """Whether each file that shows does so with all its names."""
    missing: dict[Hashable, int] = {}
    for path in walk(root):
        inode = root.identity(path)
        if inode is not None:
            missing[inode] = missing.get(inode, root.links(path)) - 1
    return not any(missing.values())


def walk(root: NarrowedRoot) -> Iterator[str]:
    """Everything that shows and is no directory."""
    waiting = [""]
    while waiting:
        directory = waiting.pop()
        for name in root.names(directory):
            path = join(directory, name)
            kind = kind_of(root, path)
            if kind is Kind.DIRECTORY:
                waiting.append(path)
            elif kind is not None:
                yield path
