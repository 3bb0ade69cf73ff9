"""What became of a layer's bytes, asked before the layer counts.

A pool without room fails writes that the kernel took long before, and an unmount tells nobody. So each new
layer stays mounted until a sync has said that all of it is on the disk.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from lamina.oci.digest import Digest
from lamina.snapshot import syscalls
from lamina.snapshot.devicemapper import filesystem
from lamina.snapshot.devicemapper.pool import PoolFull
from lamina.snapshot.snapshotter import Mount, Snapshotter

# A thin pool without room is ENOSPC or EIO to who writes, and a filesystem that met that refuses (EROFS).
_NO_ROOM = (errno.ENOSPC, errno.EIO, errno.EROFS)


class Witness:
    """The driver, but for that: to be given to ``commit_by_snapshot``."""

    def __init__(self, driver: Snapshotter) -> None:
        self._driver = driver
        self._mounted: dict[str, tuple[ExitStack, int]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def prepare(self, key: str, parent: str = "") -> Sequence[Mount]:
        mounts = self._driver.prepare(key, parent)
        stack = ExitStack()
        self._mounted[key] = stack, stack.enter_context(filesystem.opened(mounts[0]))
        return mounts

    def commit(self, name: str, key: str, *, diff_id: Digest | None = None) -> None:
        stack, directory = self._mounted.pop(key)
        with stack:
            syscalls.syncfs(directory)
        self._driver.commit(name, key, diff_id=diff_id)

    def remove(self, key: str) -> None:
        if key in self._mounted:
            self._mounted.pop(key)[0].close()
        self._driver.remove(key)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Around the writing of layers: what the kernel says of it in a word, as a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise PoolFull(
            f"a layer could not be written ({error.strerror}): the thin pool or its filesystem is full, or a "
            "disk failed; nothing of it was kept; remove images or containers, or enlarge the pool"
        ) from None
