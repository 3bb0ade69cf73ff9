"""The process that waits for an answer: its memory, and what its paths and descriptors mean to it.

All of it is a stranger's, and may change at any moment. Paths are looked up by openat2(2) from the caller's
own root, so that nothing leads out of it; no link of /proc is followed but those that are spelled out here.
Whatever cannot be found is left to the kernel, which says the right error in the caller's own name.
"""

from __future__ import annotations

import errno
import functools
import os
import re
from collections import OrderedDict

from lamina.runtime.rawcall import locate
from lamina.values import dataclass

_MAX_PATH = 4096  # PATH_MAX, with the NUL
_AT_FDCWD = -100
_PATH_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
# Whose fd a name of /proc is, said by the caller of itself: that link leads to a file, not along a path.
_OWN_DESCRIPTOR = re.compile(rb"/(?:proc/(?:self|thread-self)|dev)/fd/(\d{1,9})")
_RETRIES = 8
_DELETED = b" (deleted)"
_MOST_KEPT = 64


class Beyond(Exception):
    """Not to be found, or not from here: the kernel shall carry the call out as it is."""


@dataclass(frozen=True, slots=True)
class Place:
    """A name in an open directory. Whoever asked for it closes the directory."""

    directory: int
    name: bytes


class Caller:
    """One thread. ``home`` is its open /proc directory, which never becomes another process' (pid reuse)."""

    __slots__ = ("home", "pid")

    def __init__(self, pid: int, home: int) -> None:
        self.pid = pid
        self.home = home

    def shares_ids(self) -> bool:
        """Whether it is in the same user namespace as this process; in another, ids mean something else."""
        try:
            return os.path.samestat(os.stat("ns/user", dir_fd=self.home), _own_namespace())
        except OSError:
            return False

    def umask(self) -> int:
        descriptor = os.open("status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.home)
        with open(descriptor, "rb") as file:
            for line in file:
                if line.startswith(b"Umask:"):
                    return int(line.split()[1], 8)
        raise Beyond

    # -- memory

    def open_memory(self) -> int:
        """Of the program that runs now: it stays that one's, whatever runs next. Opened for each call."""
        try:
            return os.open("mem", os.O_RDWR | os.O_CLOEXEC, dir_fd=self.home)
        except OSError:
            raise Beyond from None

    def read(self, address: int, size: int) -> bytes:
        """Less than ``size`` where the memory ends."""
        memory = self.open_memory()
        try:
            return os.pread(memory, size, address)
        except (OSError, OverflowError):
            raise Beyond from None
        finally:
            os.close(memory)

    def read_path(self, address: int) -> bytes:
        text, end, _rest = self.read(address, _MAX_PATH).partition(b"\0")
        if not end:
            raise Beyond  # EFAULT or ENAMETOOLONG
        return text

    # -- files

    def open_descriptor(self, number: int) -> int:
        """A descriptor of ours, for nothing but finding (O_PATH), of what the caller has open."""
        try:
            return os.open(f"fd/{number}", os.O_PATH | os.O_CLOEXEC, dir_fd=self.home)
        except OSError:
            raise Beyond from None

    def is_for_finding_only(self, number: int) -> bool:
        """Whether the caller opened a descriptor with O_PATH, which most calls say EBADF to."""
        try:
            descriptor = os.open(f"fdinfo/{number}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.home)
        except OSError:
            raise Beyond from None
        with open(descriptor, "rb") as file:
            for line in file:
                if line.startswith(b"flags:"):
                    return bool(int(line.split()[1], 8) & os.O_PATH)
        raise Beyond

    def find(self, directory: int, path: bytes, *, follows: bool) -> int:
        """As openat(2) does for the caller, ``directory`` being a number of the caller's, or AT_FDCWD."""
        own = _OWN_DESCRIPTOR.fullmatch(path) if follows else None
        try:
            if own is not None:
                return self.open_descriptor(int(own[1]))
            if path.startswith(b"/"):
                return self._find_from_root(path, follows=follows)
            return self._find_from(directory, path, follows=follows)
        except OSError:
            raise Beyond from None

    def find_parent(self, directory: int, path: bytes) -> tuple[int, bytes]:
        """Where a name that may not exist yet would be, open, and the name."""
        parent, slash, name = path.rpartition(b"/")
        if name in (b"", b".", b".."):
            raise Beyond
        return self.find(directory, parent + slash if slash else b".", follows=True), name

    def place_of(self, descriptor: int) -> Place:
        """Where an open file is, by what the kernel says its path is; tested to be true."""
        try:
            parent, _, name = self._path_of(f"/proc/self/fd/{descriptor}").rpartition(b"/")
            directory = self._find_from_root(parent + b"/", follows=True)
        except OSError:
            raise Beyond from None
        if not _is_at(directory, name, descriptor):
            os.close(directory)
            raise Beyond
        return Place(directory, name)

    def _find_from_root(self, path: bytes, *, follows: bool) -> int:
        root = os.open("root", _PATH_DIRECTORY, dir_fd=self.home)
        try:
            return _locate(root, path, as_root=True, follows=follows)
        finally:
            os.close(root)

    def _find_from(self, directory: int, path: bytes, *, follows: bool) -> int:
        link = "cwd" if directory == _AT_FDCWD else f"fd/{directory}"
        base = os.open(link, _PATH_DIRECTORY, dir_fd=self.home)
        try:
            return _locate(base, path, as_root=False, follows=follows)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return self._find_past(base, path, follows=follows)
        finally:
            os.close(base)

    def _find_past(self, base: int, path: bytes, *, follows: bool) -> int:
        """A path that leaves the directory it starts in, upwards or by an absolute symlink."""
        start = self._path_of(f"/proc/self/fd/{base}")
        found = self._find_from_root(start, follows=True)
        try:
            if not os.path.samestat(os.fstat(found), os.fstat(base)):
                raise Beyond
        finally:
            os.close(found)
        return self._find_from_root(start + b"/" + path, follows=follows)

    def _path_of(self, link: str) -> bytes:
        """From the caller's root on, of what a link of /proc leads to."""
        root = os.readlink(b"root", dir_fd=self.home)
        text = os.readlink(os.fsencode(link))
        if root != b"/":
            if text != root and not text.startswith(root + b"/"):
                raise Beyond
            text = text[len(root) :]
        if text.endswith(_DELETED) or (text and not text.startswith(b"/")):
            raise Beyond
        return text or b"/"


def _locate(directory: int, path: bytes, *, as_root: bool, follows: bool) -> int:
    for _ in range(_RETRIES):
        try:
            return locate(directory, path, as_root=as_root, follows=follows)
        except BlockingIOError:  # EAGAIN: a rename somewhere, and the kernel could not be sure of a ".."
            continue
    raise Beyond


class Callers:
    """Those that called last. Close it."""

    def __init__(self) -> None:
        self._proc = os.open("/proc", _PATH_DIRECTORY)
        self._known: OrderedDict[int, Caller] = OrderedDict()

    def get(self, pid: int) -> Caller:
        known = self._known.get(pid)
        if known is not None:
            if _is_alive(known.home):
                return known
            self._forget(pid)
        try:
            home = os.open(str(pid), _PATH_DIRECTORY, dir_fd=self._proc)
        except OSError:
            raise Beyond from None
        if len(self._known) >= _MOST_KEPT:
            self._forget(next(iter(self._known)))
        self._known[pid] = Caller(pid, home)
        return self._known[pid]

    def _forget(self, pid: int) -> None:
        os.close(self._known.pop(pid).home)

    def close(self) -> None:
        for pid in list(self._known):
            self._forget(pid)
        os.close(self._proc)


@functools.cache
def _own_namespace() -> os.stat_result:
    return os.stat("/proc/self/ns/user")


def _is_at(directory: int, name: bytes, descriptor: int) -> bool:
    try:
        return os.path.samestat(
            os.stat(name, dir_fd=directory, follow_symlinks=False), os.fstat(descriptor)
        )
    except OSError:
        return False


def _is_alive(home: int) -> bool:
    try:
        os.stat("root", dir_fd=home, follow_symlinks=False)
    except OSError:
        return False
    return True
