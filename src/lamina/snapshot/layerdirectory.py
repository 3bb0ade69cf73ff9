"""The directory of one layer: locked, worked in, and published into.

Whoever writes holds a flock on it, works in ``.staging-<random>`` inside it, and renames when the diff id
matched and everything is synced. So a second process that wants the same layer waits and finds it done,
and what is called ``.staging-…`` in a directory that can be locked is dead.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from lamina.content.durable import sync_directory
from lamina.snapshot import trees
from lamina.snapshot.snapshotter import Usage

REMOVING = ".removing-"
USAGE = ".usage"
_STAGING = ".staging-"
_GROUPS = ("trees", "erofs")
_FILES = ("tar", "facts.json", "index")


class LayerDirectory:
    """A layer's directory while we hold its lock. Leaving the context gives it up."""

    def __init__(self, path: Path, descriptor: int, empty: Callable[[Path], None]) -> None:
        self.path = path
        self._descriptor = descriptor
        self._empty = empty

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """A directory to work in, which is gone afterwards with whatever was not published."""
        for dead, _size in self.leftovers():
            self._empty(dead)
        path = self.path / f"{_STAGING}{os.urandom(8).hex()}"
        path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            self._empty(path)

    def publish(self, staging: Path) -> None:
        """Gives what is staged its place, replacing what was there. Durable when this returns.

        Staged things have the names that they are to have. All of it is synced first; then notes come
        before what they are about, and the index, which says that the layer is here, comes last.
        """
        trees.sync_tree(staging)
        touched = [self.path]
        for group in _GROUPS:
            if (staging / group).is_dir():
                touched.append(self.path / group)
                touched[-1].mkdir(mode=0o700, exist_ok=True)
                for name in sorted(os.listdir(staging / group), key=lambda name: "." not in name):
                    self._place(staging / group / name, touched[-1] / name)
        for name in _FILES:
            if (staging / name).exists():
                self._place(staging / name, self.path / name)
        for directory in reversed(touched):
            sync_directory(directory)

    def _place(self, source: Path, target: Path) -> None:
        if target.is_dir():
            doomed = self.path / f"{REMOVING}{os.urandom(8).hex()}"
            os.rename(target, doomed)
            self._empty(doomed)
        os.replace(source, target)

    def leftovers(self) -> Iterator[tuple[Path, int]]:
        """With the lock in our hands, nobody is at work in here: what looks like work is dead."""
        if not (self.path / "index").is_file():
            names = os.listdir(self.path)  # nothing was ever finished
        else:
            names = [name for name in os.listdir(self.path) if name.startswith((_STAGING, REMOVING))]
        for name in names:
            yield self.path / name, trees.measure(self.path / name).size

    def clear(self) -> int:
        """Removes what is dead, and the directory too if nothing is left; returns the bytes freed."""
        freed = 0
        for path, size in self.leftovers():
            self._empty(path)
            freed += size
        with contextlib.suppress(OSError):  # not empty: a layer
            os.rmdir(self.path)
        return freed

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def read_usage(tree: Path) -> Usage:
    """What was noted beside a tree when it was published."""
    try:
        size, inodes = json.loads(tree.with_name(f"{tree.name}{USAGE}").read_bytes())
    except FileNotFoundError:
        return Usage(0, 0)
    return Usage(size, inodes)


def stage_usage(tree: Path, usage: Usage) -> None:
    """A note beside a staged tree of what it takes: nobody walks it for that."""
    note = tree.with_name(f"{tree.name}{USAGE}")
    note.write_text(json.dumps([usage.size, usage.inodes]), encoding="ascii")
