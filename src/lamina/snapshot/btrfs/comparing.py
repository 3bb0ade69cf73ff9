"""What differs between two read-only subvolumes, as the kernel knows it. Root's."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from lamina.layer.root import Ownership
from lamina.snapshot.btrfs import ioctl
from lamina.snapshot.btrfs.send import Delta, SendStreamInvalid, read_delta
from lamina.snapshot.btrfs.subvolumes import opened
from lamina.snapshot.touched import NarrowedRoot, Touched, walk

_F_SETPIPE_SZ = 1031
_PIPE = 1 << 20
_BUFFER = 1 << 18


def delta_between(lower: Path, upper: Path) -> Delta | None:
    """``None`` where the kernel cannot say: a path that is too long for a stream, say."""
    with opened(lower) as below, opened(upper) as above:
        try:
            with _sent(above, ioctl.number_of(below)) as stream:
                return read_delta(stream)
        except (OSError, SendStreamInvalid):
            return None


def touched_between(lower: Path, upper: Path) -> Touched | None:
    """As ``lamina.snapshot.touched`` wants it; ``None`` where the kernel cannot say."""
    delta = delta_between(lower, upper)
    return None if delta is None else _with_all_names(delta.touched, lower, upper)


def _with_all_names(touched: Touched, lower: Path, upper: Path) -> Touched | None:
    """A file is touched under all its names, of which a stream says one; ``None`` where they are too many."""
    paths = set(touched.paths)
    waiting = touched
    while True:
        found = _other_names(waiting, lower) | _other_names(waiting, upper)
        if _UNKNOWN in found:
            return None
        new = tuple(sorted(found - paths))
        if not new:
            return Touched(paths=tuple(sorted(paths)), trees=touched.trees)
        paths.update(new)
        # In the other tree each of these may be a name of yet another file.
        waiting = Touched(paths=new)


# No path begins like this.
_UNKNOWN = "/"


def _other_names(touched: Touched, tree: Path) -> set[str]:
    """Every name of every file that shows and has several."""
    found: set[str] = set()
    with opened(tree) as subvolume, NarrowedRoot(tree, owner=Ownership.KEEP, touched=touched) as root:
        for path in walk(root):
            inode = root.identity(path)
            if inode is None or path in found:
                continue
            names = ioctl.names_of(subvolume, inode[1])  # type: ignore[index]  # device and number, on disk
            found.update([_UNKNOWN] if names is None else names)
    return found


@contextmanager
def _sent(subvolume: int, parent: int) -> Iterator[BinaryIO]:
    """The stream, while the kernel writes it. What goes wrong there is raised at the end."""
    ours, theirs = os.pipe()
    outcome: list[OSError] = []

    def write() -> None:
        try:
            ioctl.send(subvolume, parent, theirs)
        except OSError as error:
            outcome.append(error)
        finally:
            os.close(theirs)

    with ExitStack() as stack:
        stream = stack.enter_context(open(ours, "rb", buffering=_BUFFER))
        with contextlib.suppress(OSError):  # a user's pipes may be many already
            fcntl.fcntl(ours, _F_SETPIPE_SZ, _PIPE)
        thread = threading.Thread(target=write, name="send", daemon=True)
        thread.start()
        try:
            yield stream
        finally:
            stream.close()  # what is still written fails
            thread.join()
            if outcome:
                raise outcome[0]  # what the reader made of half a stream says less
