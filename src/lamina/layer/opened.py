"""Open directories below one directory, so that no path of a layer ever reaches the kernel as a path.

Every name is looked up alone, in a directory that is open already, and no symlink is followed on the way
(SECURITY: CVE-2014-9356, CVE-2018-15664, CVE-2007-4559 and their kin all followed one). Who wants symlinks
followed inside the root reads them and asks again: ``lamina.layer.apply`` does.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from lamina.layer.entry import PathEscapes

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A quarter of the 1,024 that a process may have open by default.
_MOST = 256


class OpenDirectories:
    """Descriptors by path, cached; paths are canonical: none of their parts is a symlink."""

    def __init__(self, top: str | Path) -> None:
        self.top = os.open(top, _FLAGS)
        self._open: dict[str, int] = {"": self.top}
        self._is_forcing = False

    def force(self) -> None:
        """From now on an ordinary user gets into what is his own, whatever its mode: it changes the mode.

        What is open was opened without, and is closed. Root needs none of this.
        """
        self._is_forcing = os.geteuid() != 0
        for path in list(self._open)[1:]:
            self.forget(path)

    def get(self, path: str) -> int:
        """Stays open until the next call of ``get``, and longer for most."""
        found = self._open.get(path)
        return found if found is not None else self._descend(path)

    def forget(self, path: str) -> None:
        """The directory is going away."""
        found = self._open.pop(path, None)
        if found is not None:
            os.close(found)

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def _descend(self, path: str) -> int:
        """From the nearest directory that is open; each one on the way is remembered."""
        if len(self._open) >= _MOST:
            self._close_oldest()
        start = path
        while start not in self._open:
            start = start.rpartition("/")[0]
        descriptor, place = self._open[start], start
        rest = path[len(start) + 1 :] if start else path
        for name in rest.split("/"):
            place = f"{place}/{name}" if place else name
            if len(self._open) > 2 * _MOST:  # a path so deep that its own directories are too many
                self._close_oldest(but=descriptor)
            descriptor = self._open[place] = self._enter(name, descriptor, place)
        return descriptor

    def _close_oldest(self, but: int = -1) -> None:
        for path in list(self._open)[1 : len(self._open) // 2]:
            if self._open[path] != but:
                self.forget(path)

    def _enter(self, name: str, parent: int, place: str) -> int:
        try:
            descriptor = os.open(name, _FLAGS, dir_fd=parent)
        except PermissionError:
            if not self._is_forcing:
                raise
            os.chmod(name, 0o700, dir_fd=parent)  # a directory: a symlink would have failed differently
            return os.open(name, _FLAGS, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise PathEscapes(f"{place!r}: no longer the directory that it was") from None
            raise
        if self._is_forcing and os.fstat(descriptor).st_mode & 0o700 != 0o700:
            os.fchmod(descriptor, 0o700)
        return descriptor
