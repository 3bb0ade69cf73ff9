"""Where the owner of an open file is kept: on it, on its directory, or in memory where neither can be."""

from __future__ import annotations

import errno
import os
import stat

from lamina.layer.owners import PLAIN, Kept, essence, holds_own, keep, keep_child, read_child, read_kept
from lamina.runtime.caller import Beyond, Caller, Place

# No room, no such xattrs on this filesystem, or nothing that can have one (xattr(7)).
_CANNOT_HOLD = (errno.EOPNOTSUPP, errno.ENOSPC, errno.EDQUOT, errno.E2BIG, errno.ERANGE, errno.EPERM)
_MOST_IN_MEMORY = 10_000


class Notes:
    """Of files as a container sees them. What is in memory alone ends with this object: pipes, terminals."""

    def __init__(self) -> None:
        self._in_memory: dict[tuple[int, int], Kept] = {}

    def read(self, caller: Caller, descriptor: int) -> Kept | None:
        """``descriptor`` is ours (O_PATH) for what ``caller`` means."""
        kept = read_kept(_path(descriptor))
        if kept is not None:
            return kept
        status = os.fstat(descriptor)
        if self._in_memory:
            kept = self._in_memory.get((status.st_dev, status.st_ino))
        if kept is not None or holds_own(status.st_mode):
            return kept
        try:
            place = _place(caller, descriptor)
        except Beyond:
            return None
        try:
            return read_child(_path(place.directory), place.name, _essence(descriptor, status))
        finally:
            os.close(place.directory)

    def keep(self, caller: Caller, descriptor: int, kept: Kept) -> None:
        """OSError where there is a place for it and something else is wrong."""
        status = os.fstat(descriptor)
        key = (status.st_dev, status.st_ino)
        try:
            if holds_own(status.st_mode):
                keep(_path(descriptor), kept)
            else:
                _keep_child(caller, descriptor, status, kept)
        except Beyond:
            self._remember(key, kept)
        except OSError as error:
            if error.errno not in _CANNOT_HOLD:
                raise
            self._remember(key, kept)
        else:
            self._in_memory.pop(key, None)

    def keep_at(self, parent: int, name: bytes, descriptor: int, kept: Kept) -> None:
        """Of what is no regular file and no directory, and is about to get another name."""
        guard = _essence(descriptor, os.fstat(descriptor))
        try:
            keep_child(_path(parent), name, guard, kept)
        except OSError as error:
            if error.errno not in _CANNOT_HOLD:
                raise

    def forget_at(self, parent: int, name: bytes) -> None:
        """A name that is free, and about to be somebody's: what was noted of an earlier file goes."""
        try:
            os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            keep_child(_path(parent), name, b"", PLAIN)

    def _remember(self, key: tuple[int, int], kept: Kept) -> None:
        self._in_memory.pop(key, None)
        if len(self._in_memory) >= _MOST_IN_MEMORY:
            del self._in_memory[next(iter(self._in_memory))]
        if not kept.is_plain:
            self._in_memory[key] = kept


def _keep_child(caller: Caller, descriptor: int, status: os.stat_result, kept: Kept) -> None:
    place = _place(caller, descriptor)
    try:
        keep_child(_path(place.directory), place.name, _essence(descriptor, status), kept)
    finally:
        os.close(place.directory)


def _place(caller: Caller, descriptor: int) -> Place:
    if not os.readlink(_path(descriptor)).startswith("/"):
        raise Beyond  # a pipe, a socket: in no directory
    return caller.place_of(descriptor)


def _essence(descriptor: int, status: os.stat_result) -> bytes:
    link = os.readlink(b"", dir_fd=descriptor) if stat.S_ISLNK(status.st_mode) else b""
    return essence(status, link)


def _path(descriptor: int) -> str:
    """For calls that take no descriptor opened for nothing; it leads to the file itself, a symlink too."""
    return f"/proc/self/fd/{descriptor}"
