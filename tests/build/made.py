"""Trees for tests, said in a dictionary."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from lamina.build.context import Context
from lamina.build.ignore import Rules
from lamina.layer.entry import ancestors
from lamina.snapshot.trees import empty_and_remove


def make(top: Path, tree: Mapping[str, str | None]) -> Path:
    """``None`` is a directory, ``-> x`` a symlink, anything else the content of a file."""
    top.mkdir(exist_ok=True)
    for path, content in tree.items():
        place = top / path
        for above in ancestors(path):
            (top / above).mkdir(exist_ok=True)
        if content is None:
            place.mkdir(exist_ok=True)
        elif content.startswith("-> "):
            place.symlink_to(content[3:])
        else:
            place.write_text(content)
    return top


@contextlib.contextmanager
def deep(top: Path, levels: int) -> Iterator[Path]:
    """Directories in directories, too many for pytest to remove: gone afterwards."""
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _level in range(levels):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)
    try:
        yield top
    finally:
        empty_and_remove(top)


def age(top: Path) -> int:
    """A clock's answer at which nothing in the tree is young."""
    newest = max(os.lstat(path).st_ctime_ns for path in [top, *top.rglob("*")])
    return newest + 10_000_000_000


def context(top: Path, tree: Mapping[str, str | None], ignore: str = "") -> Context:
    return Context.from_directory(make(top, tree), Rules.parse(ignore))
