"""A driver's own directories: ``snapshots/<driver>/<random>/``, each held by a row, or by who makes it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from lamina.content.directorylock import locked
from lamina.content.durable import is_still_at, make_directory, sync_directory
from lamina.snapshot import trees

_REMOVING = ".removing-"


class Directories:
    """``empty`` removes a tree, whoever owns what is in it."""

    def __init__(self, home: Path, empty: Callable[[Path], None]) -> None:
        self.home = home
        self._empty = empty

    def path(self, name: str) -> Path:
        return self.home / name

    @contextlib.contextmanager
    def new(self) -> Iterator[Path]:
        """Locked until the block ends, by when a row should name it; gone if the block fails."""
        with contextlib.ExitStack() as stack:
            path = self._claimed(stack)
            try:
                yield path
                sync_directory(path.parent)
            except BaseException:
                self._empty(path)
                raise

    def _claimed(self, stack: contextlib.ExitStack) -> Path:
        """A new one, locked. Who sweeps may be at one that is not locked yet, or take an empty home away."""
        while True:
            make_directory(self.home)
            path = self.home / os.urandom(16).hex()
            try:
                path.mkdir(mode=0o700)
            except FileNotFoundError:
                continue
            is_ours = stack.enter_context(locked(path))
            if is_ours and path.exists():
                return path
            with contextlib.suppress(OSError):  # who looked at it may not have wanted to remove it
                path.rmdir()

    def discard(self, path: Path) -> None:
        """Gone under its name at once, and then from the disk."""
        doomed = path.with_name(f"{_REMOVING}{os.urandom(8).hex()}")
        with locked(path), contextlib.suppress(FileNotFoundError):
            os.rename(path, doomed)
            self._empty(doomed)

    def leftovers(self, known: Callable[[], Collection[str]]) -> Iterator[tuple[Path, int]]:
        """What no row knows and nobody is making, with its bytes; locked while it is looked at."""
        rows = known()
        for path in self._all():
            if path.name in rows:
                continue
            with locked(path) as is_ours:
                # A row may have come between the look and the lock, or who removes it may be done.
                if is_ours and path.name not in known() and path.exists():
                    yield path, trees.measure(path).size

    def sweep(self, known: Callable[[], Collection[str]]) -> int:
        """Removes what :meth:`leftovers` finds; returns the bytes freed."""
        freed = 0
        for path, size in self.leftovers(known):
            self._empty(path)
            freed += size
        return freed

    def names(self) -> set[str]:
        """Of all that are there, in a row or not."""
        return {path.name for path in self._all()}

    def _all(self) -> list[Path]:
        try:
            return [path for path in sorted(self.home.iterdir()) if path.is_dir()]
        except FileNotFoundError:
            return []


@contextlib.contextmanager
def locked_home(home: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """The directory of a driver, made if need be; one that others took away meanwhile keeps nobody out."""
    while True:
        make_directory(home)
        try:
            descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, how)
            if is_still_at(home, descriptor):
                yield
                return
        finally:
            os.close(descriptor)
