"""Where two trees may differ, for a driver that knows which inodes do.

A clone, or a thin snapshot, keeps the inode numbers of what it was made from: the same number under the same
name is the same file, which is as it was unless it is known to have changed. So directories are listed, files
are not looked at, and of a directory that has not changed one side is enough.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from lamina.layer.diff import join
from lamina.layer.opened import OpenDirectories
from lamina.snapshot.touched import Touched

# By name: the inode, and whether it is a directory.
_Listing = dict[str, tuple[int, bool]]


def touched_inodes(lower: str | Path, upper: str | Path, is_changed: Callable[[int], bool]) -> Touched:
    """Neither tree changes meanwhile. ``is_changed`` is asked about inodes of ``upper``.

    Who changes a directory's entries changes its inode, and who changes a file its own: then every name of a
    file that changed is here. The two roots are one directory, whatever their numbers are.
    """
    paths: list[str] = []
    trees: list[str] = []
    with closing(OpenDirectories(lower)) as below, closing(OpenDirectories(upper)) as above:
        # Directories that are in both trees, and whether they may have other entries now.
        waiting = [("", True)]
        while waiting:
            directory, is_other = waiting.pop()
            new = _listed(above.get(directory))
            old = _listed(below.get(directory)) if is_other else new
            trees.extend(join(directory, name) for name in old.keys() - new.keys())
            for name, found in new.items():
                path = join(directory, name)
                if old.get(name) != found:
                    trees.append(path)
                    continue
                is_touched = is_changed(found[0])
                if is_touched:
                    paths.append(path)
                if found[1]:
                    waiting.append((path, is_touched))
    return Touched(paths=tuple(sorted(paths)), trees=tuple(sorted(trees)))


def _listed(directory: int) -> _Listing:
    """The kernel says both with the name, on most filesystems."""
    with os.scandir(directory) as entries:
        return {entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in entries}
