"""Where mounts go inside a stranger's root filesystem: resolved in that root, and made where missing.

An image may hold any symlink at any place: /etc/resolv.conf that points to /run, /data that points to the
host's /etc (CVE-2019-16884 and its kin, CVE-2026-55686). So each name is looked up alone in an open
directory, links are read and followed by us, and ``..`` goes back along the way that we came. Nobody else
changes the filesystem yet: a container that runs is reached by ``lamina.runtime.reach``.
"""

from __future__ import annotations

import errno
import os
import stat
from enum import Enum

from lamina.errors import InvalidInput
from lamina.snapshot import syscalls

# The kernel's own limit of symlinks in one path (path_resolution(7)).
_MAX_HOPS = 40
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class TargetImpossible(InvalidInput):
    """The image has something at the place that cannot be mounted over."""


class StubKind(Enum):
    DIRECTORY = "directory"
    FILE = "file"


def resolve_target(rootfs: int, path: str) -> int:
    """An O_PATH descriptor of what is at ``path`` in the root; the caller closes it."""
    return syscalls.open_in_root(rootfs, path, os.O_PATH)


def insist_directories(rootfs: int) -> None:
    """Those that hold the kernel's own filesystems are directories of the image, or missing.

    runc 1.1 makes links in /dev by a path of the host's: where the image has a symlink there, it removes
    ``ptmx`` from any directory of the host, and writes five links to it. Raises :class:`TargetImpossible`.
    """
    for name in ("proc", "sys", "dev"):
        try:
            status = os.stat(name, dir_fd=rootfs, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            raise TargetImpossible(f"/{name}: no directory in the image, and the kernel's files belong there")


def make_stub(rootfs: int, path: str, kind: StubKind, mode: int = 0o755) -> list[str]:
    """Something to mount on at ``path``; the answer is what was missing, by real paths in the root.

    ``mode`` is for the directory itself: runc gives a tmpfs the mode of what it is mounted on.

    What is there already stays, and must be of the same kind. The times of directories in which something is
    made stay what they were, so that only what is new looks new.
    """
    return _Walk(rootfs, path, mode).run(kind)


class _Walk:
    """One way through the root. ``_open`` are the directories on it, the root first, ``_names`` theirs."""

    def __init__(self, rootfs: int, path: str, mode: int) -> None:
        self._path = path
        self._mode = mode
        self._open = [os.open(".", _DIRECTORY, dir_fd=rootfs)]
        self._names: list[str] = []
        self._left = path.split("/")[::-1]
        self._hops = 0
        self._made: list[str] = []
        self._is_at_directory = True

    def run(self, kind: StubKind) -> list[str]:
        try:
            while self._left:
                name = self._left.pop()
                if name in ("", "."):
                    continue
                if name == "..":
                    self._up()
                elif kind is StubKind.FILE and self._is_last():
                    self._file(name)
                else:
                    self._directory(name)
        except OSError as error:
            if error.errno not in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP):
                raise
            reason = (error.strerror or "").lower()
            raise TargetImpossible(f"{self._path}: cannot be mounted on ({reason})") from None
        finally:
            for descriptor in self._open:
                os.close(descriptor)
        if kind is StubKind.FILE and self._is_at_directory:
            raise TargetImpossible(f"{self._path}: a directory in the image, and a file belongs there")
        return self._made

    def _is_last(self) -> bool:
        return not any(part not in ("", ".") for part in self._left)

    def _up(self) -> None:
        self._is_at_directory = True
        if self._names:
            self._names.pop()
            os.close(self._open.pop())

    def _directory(self, name: str) -> None:
        status = self._status(name)
        if status is None:
            self._make(name, StubKind.DIRECTORY)
        elif stat.S_ISLNK(status.st_mode):
            self._follow(name)
            return
        elif not stat.S_ISDIR(status.st_mode):
            where = "/".join(["", *self._names, name])
            raise TargetImpossible(f"{self._path}: {where} is no directory in the image")
        self._open.append(os.open(name, _DIRECTORY, dir_fd=self._open[-1]))
        self._names.append(name)
        self._is_at_directory = True

    def _file(self, name: str) -> None:
        status = self._status(name)
        if status is None:
            self._make(name, StubKind.FILE)
        elif stat.S_ISLNK(status.st_mode):
            self._follow(name)
            return
        self._is_at_directory = status is not None and stat.S_ISDIR(status.st_mode)

    def _status(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self._open[-1], follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _follow(self, name: str) -> None:
        self._hops += 1
        if self._hops > _MAX_HOPS:
            raise TargetImpossible(f"{self._path}: too many symlinks on the way")
        text = os.readlink(name, dir_fd=self._open[-1])
        if text.startswith("/"):
            while self._names:
                self._up()
        self._left.extend(text.split("/")[::-1])

    def _make(self, name: str, kind: StubKind) -> None:
        """Whatever the umask is, and as if the directory had not been touched."""
        here = self._open[-1]
        before = os.fstat(here)
        if kind is StubKind.DIRECTORY:
            os.mkdir(name, 0o755, dir_fd=here)
            made = os.open(name, _DIRECTORY, dir_fd=here)
            mode = self._mode if self._is_last() else 0o755
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            made, mode = os.open(name, flags, 0o644, dir_fd=here), 0o644
        try:
            os.fchmod(made, mode)
        finally:
            os.close(made)
        os.utime(here, ns=(before.st_atime_ns, before.st_mtime_ns))
        self._made.append("/".join(["", *self._names, name]))
