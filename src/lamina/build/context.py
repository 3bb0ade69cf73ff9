"""A build context: a directory as a build sees it, from which nothing leads out.

Every name is looked up in an open directory, and symlinks are followed only by reading them
(CVE-2014-9356 and its kin followed one out of the context). What the rules exclude is not there. Whatever
belongs to whom on the disk, in a context it is root's, as docker has it; so keys are the same for everybody.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, Self, runtime_checkable

from lamina.build.ignore import Rules
from lamina.build.rooted import READ, Changing, explain, insist_regular, read_file
from lamina.errors import InvalidInput, NotFound
from lamina.layer.entry import OVERLAY_XATTRS, Kind, PathEscapes
from lamina.layer.opened import OpenDirectories
from lamina.layer.owners import OWNER_XATTRS
from lamina.layer.root import DirectoryRoot, Ownership
from lamina.layer.way import Way
from lamina.runtime.copying import opened
from lamina.values import dataclass

MAX_DOCUMENT = 16 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_KINDS = {
    stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHAR, stat.S_IFBLK: Kind.BLOCK, stat.S_IFIFO: Kind.FIFO,
}
# Labels and signatures of this machine, and what steers overlayfs or us.
_LEFT_XATTRS = (*OVERLAY_XATTRS, *OWNER_XATTRS, "security.selinux", "security.ima", "security.evm")
_NO_XATTRS = (errno.EOPNOTSUPP, errno.ENODATA, errno.EPERM)


class ContextNotFound(NotFound):
    pass


class TooManyLinks(InvalidInput):
    pass


class StatKey(NamedTuple):
    """What says that a file is the one that was read before, by git's rule (racy-git.txt)."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def stat_key(status: os.stat_result) -> StatKey:
    return StatKey(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )


@dataclass(frozen=True, slots=True)
class Node:
    """``path`` is in the spelling of layers, ``""`` is the context itself. ``mode`` has no type bits.

    ``size`` is 0 for all but files, ``rdev`` for all but devices. ``links`` counts the names of the file on
    the disk, in the context or not.
    """

    path: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    linkname: str
    rdev: int
    device: int
    inode: int
    ctime_ns: int
    links: int

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def key(self) -> StatKey:
        return StatKey(self.device, self.inode, self.size, self.mtime_ns, self.ctime_ns)


class Files(Protocol):
    """What selecting and hashing ask of a tree of files; each method is as :class:`Context` has it."""

    rules: Rules

    def look(self, path: str) -> Node | None: ...

    def look_behind(self, path: str) -> Node | None: ...

    def resolve(self, path: str, *, follow: bool = True) -> str | None: ...

    def children(self, directory: str) -> list[Node]: ...

    def walk(self, top: str = "", *, enters: Callable[[str], bool] | None = None) -> Iterator[Node]: ...

    def xattrs(self, path: str) -> dict[str, bytes]: ...

    def open_file(self, node: Node) -> BinaryIO: ...


@runtime_checkable
class Changeable(Protocol):
    """Files that somebody may change while they are read."""

    def state(self, file: BinaryIO) -> StatKey: ...


class Context:
    """Takes over ``descriptor``, a directory; close it after use. ``rules`` may be set until the first walk.

    ``ownership`` is for trees that are no context: ``KEEP`` shows owners as they are on the disk, and
    ``IGNORE`` as the notes beside the files say (``lamina.layer.owners``).
    """

    def __init__(
        self, descriptor: int, rules: Rules | None = None, *, ownership: Ownership | None = None,
        on_close: Callable[[], object] | None = None,
    ) -> None:
        self.descriptor = descriptor
        self.rules = rules or Rules()
        self._ownership = ownership
        self._on_close = on_close
        # Stages that are built at once share what is open, and with a descriptor the place in a listing.
        self._lock = threading.RLock()
        self._directories = OpenDirectories(opened(descriptor))
        self._noted = (
            DirectoryRoot(opened(descriptor), owner=ownership) if ownership is Ownership.IGNORE else None
        )

    @classmethod
    def from_directory(
        cls, path: str | Path, rules: Rules | None = None, *, ownership: Ownership | None = None,
        on_close: Callable[[], object] | None = None,
    ) -> Self:
        """A symlink that ``path`` itself is gets followed. Raises :class:`ContextNotFound`."""
        try:
            descriptor = os.open(path, _DIRECTORY)
        except FileNotFoundError:
            raise ContextNotFound(f"{path}: no such directory") from None
        except NotADirectoryError:
            raise ContextNotFound(f"{path}: not a directory") from None
        except OSError as error:
            explain(error, str(path))
        try:
            return cls(descriptor, rules, ownership=ownership, on_close=on_close)
        except OSError as error:
            os.close(descriptor)
            explain(error, str(path))

    def close(self) -> None:
        self._directories.close()
        if self._noted is not None:
            self._noted.close()
        os.close(self.descriptor)
        if self._on_close is not None:
            self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- looking

    def walk(self, top: str = "", *, enters: Callable[[str], bool] | None = None) -> Iterator[Node]:
        """All below the directory ``top`` that is in the context; parents first, by the names in each.

        A directory that is excluded is there all the same if something in it is not. ``enters`` says of a
        directory whether to look into it.
        """
        held: list[Node] = []
        waiting = self.children(top)
        rules = self.rules
        while waiting:
            node = waiting.pop()
            if rules and rules.excludes(node.path):
                if node.kind is Kind.DIRECTORY and not rules.can_skip(node.path):
                    held.append(node)
                    waiting += self.children(node.path)
                continue
            if held:
                yield from (each for each in held if node.path.startswith(each.path + "/"))
                held.clear()
            yield node
            if node.kind is Kind.DIRECTORY and (enters is None or enters(node.path)):
                waiting += self.children(node.path)

    def children(self, directory: str) -> list[Node]:
        """What is in a directory, excluded or not, the last name first. Sockets are left out."""
        found: list[Node] = []
        above = directory + "/" if directory else ""
        try:
            with self._lock, os.scandir(self._open_directory(directory)) as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                        node = self._node(above + entry.name, status)
                    except FileNotFoundError:
                        continue  # gone since it was listed
                    if node is not None:
                        found.append(node)
        except OSError as error:
            explain(error, directory)
        found.sort(key=_path, reverse=True)
        return found

    def look(self, path: str) -> Node | None:
        """What is at a canonical path, a symlink as such, if it is in the context."""
        node = self.look_behind(path)
        return node if node is not None and self._has(node) else None

    def look_behind(self, path: str) -> Node | None:
        """As :meth:`look`, but whatever the rules say."""
        parent, _, name = path.rpartition("/")
        try:
            if not path:
                return self._root()
            with self._lock:
                directory = self._directories.get(parent)
                return self._node(path, os.stat(name, dir_fd=directory, follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError, PathEscapes):
            return None
        except OSError as error:
            explain(error, path)

    def resolve(self, path: str, *, follow: bool = True) -> str | None:
        """The canonical path, if it is in the context; ``follow`` is for a symlink at its end.

        ``..`` and absolute symlinks stay inside, as after a ``chroot``. Raises :class:`TooManyLinks`.
        """
        way = Way(path)
        for here in way:
            node = self.look(here)
            if node is None:
                return None
            if node.kind is Kind.SYMLINK and (follow or not way.is_last):
                if not way.follow(node.linkname):
                    raise TooManyLinks(f"{path}: too many symlinks on the way")
                continue
            if node.kind is not Kind.DIRECTORY and not way.is_last:
                return None
            way.enter(here)
        return way.place

    # -- reading

    def open(self, path: str) -> int:
        """A descriptor of the regular file at a canonical path, whatever the rules say; the caller closes it.

        Raises :class:`~lamina.build.rooted.Unreadable`, :class:`~lamina.build.rooted.Changing`.
        """
        parent, _, name = path.rpartition("/")
        try:
            with self._lock:
                descriptor = os.open(name, READ | os.O_NOFOLLOW, dir_fd=self._open_directory(parent))
        except OSError as error:
            explain(error, path)
        return insist_regular(descriptor, path)

    def open_file(self, node: Node) -> BinaryIO:
        """For reading; the caller closes it.

        Raises what :meth:`open` does, and :class:`~lamina.build.rooted.Changing` if the file is no longer as
        ``node`` says: what is kept under a key must be what the key was made from.
        """
        file = open(self.open(node.path), "rb", buffering=0)  # noqa: SIM115 - the caller closes it
        if self.state(file) == node.key:
            return file
        file.close()
        raise Changing(f"{node.path}: changed while the build was reading it")

    @staticmethod
    def state(file: BinaryIO) -> StatKey:
        """The key that the file has by now."""
        return stat_key(os.fstat(file.fileno()))

    def read(self, path: str, limit: int = MAX_DOCUMENT) -> bytes:
        """A whole file, a Dockerfile for one: symlinks are followed inside, and no rule excludes it.

        Raises :class:`~lamina.build.rooted.NotThere`, :class:`~lamina.build.rooted.Unreadable`.
        """
        return read_file(self.descriptor, path, limit)

    def xattrs(self, path: str) -> dict[str, bytes]:
        """Those that a copy keeps, of what is at a canonical path. The context's own directory has none.

        The same for every ownership: digests of them are remembered.
        """
        if not path and self._ownership is None:
            return {}
        parent, _, name = path.rpartition("/")
        try:
            with self._lock:
                where = f"/proc/self/fd/{self._open_directory(parent)}/{name or '.'}"
                names = os.listxattr(where, follow_symlinks=False)
                return {
                    name: os.getxattr(where, name, follow_symlinks=False)
                    for name in sorted(names) if not name.startswith(_LEFT_XATTRS)
                }
        except OSError as error:
            if error.errno in _NO_XATTRS:
                return {}
            explain(error, path)

    # -- parts

    def _open_directory(self, path: str) -> int:
        try:
            return self._directories.get(path)
        except PathEscapes:
            raise Changing(f"{path}: no longer the directory that it was") from None

    def _has(self, node: Node) -> bool:
        if not self.rules.excludes(node.path):
            return True
        if node.kind is not Kind.DIRECTORY or self.rules.can_skip(node.path):
            return False
        return next(self.walk(node.path), None) is not None

    def _root(self) -> Node:
        status = os.fstat(self.descriptor)
        if self._ownership is not None:
            node = self._node("", status)
            assert node is not None
            return node
        return Node(
            "", Kind.DIRECTORY, 0o755, 0, 0, 0, status.st_mtime_ns, "", 0, status.st_dev, status.st_ino,
            status.st_ctime_ns, status.st_nlink,
        )

    def _node(self, path: str, status: os.stat_result) -> Node | None:
        mode = status.st_mode
        kind = _KINDS.get(mode & 0o170000)
        if kind is None:
            return None
        uid = gid = rdev = 0
        link = ""
        if kind is Kind.SYMLINK:
            parent, _, name = path.rpartition("/")
            link = os.readlink(name, dir_fd=self._open_directory(parent))
        elif kind is Kind.CHAR or kind is Kind.BLOCK:
            rdev = status.st_rdev
        if self._ownership is Ownership.KEEP:
            uid, gid = status.st_uid, status.st_gid
        elif self._noted is not None:
            entry = self._noted.look(path)
            kind, uid, gid = entry.kind, entry.uid, entry.gid
            rdev = os.makedev(entry.major, entry.minor)
        return Node(
            path, kind, mode & 0o7777, uid, gid, status.st_size if kind is Kind.FILE else 0,
            status.st_mtime_ns, link, rdev, status.st_dev, status.st_ino, status.st_ctime_ns, status.st_nlink,
        )


def _path(node: Node) -> str:
    return node.path
