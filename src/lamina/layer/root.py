"""Where layers are applied: the few acts that takes, on a real directory and in memory.

A root is told what to do by ``lamina.layer.apply`` and decides nothing. All its paths are canonical: every
part but the last is a directory, none a symlink. Making what is there already raises ``FileExistsError``.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Hashable, Iterator
from enum import Enum
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol, Self

from lamina.errors import Denied
from lamina.layer.entry import OVERLAY_XATTRS, Entry, InvalidLayer, Kind
from lamina.layer.opened import OpenDirectories
from lamina.layer.owners import (
    OWNER_XATTRS,
    PLAIN,
    Kept,
    essence,
    holds_own,
    keep,
    keep_child,
    read_child,
    read_kept,
)
from lamina.values import dataclass, replace

Write = Callable[[bytes | memoryview], object]
# Gives a file's whole content to the function that it is called with.
Content = Callable[[Write], object]


class Ownership(Enum):
    """``KEEP``: as the layer says; it takes the rights to do so.

    ``IGNORE``: everything is the caller's on disk, and whose it should be is noted beside it
    (``lamina.layer.owners``), which is what ``look`` tells.
    """

    KEEP = "keep"
    IGNORE = "ignore"


class WhiteoutStyle(Enum):
    """What a whiteout does: remove what lies below it in the same root, or tell overlayfs about it.

    The overlay styles are for a layer alone in an otherwise empty directory: a character device 0:0 for
    each whiteout, ``overlay.opaque`` as ``trusted.`` or ``user.`` xattr for each opaque directory.
    """

    REMOVE = "remove"
    OVERLAY_TRUSTED = "trusted."
    OVERLAY_USER = "user."


class Root(Protocol):
    whiteouts: WhiteoutStyle

    def begin(self) -> bool:
        """Before each layer: whether the root is empty, so that all there will be is that layer's."""

    def kind(self, path: str) -> Kind | None: ...

    def look(self, path: str) -> Entry:
        """What is there with all its attributes; a second name of a file looks like the first."""

    def read_link(self, path: str) -> str: ...

    def names(self, path: str) -> list[str]: ...

    def make(self, path: str, entry: Entry, content: Content) -> None:
        """All attributes are set, but a directory's: those wait for ``describe``."""

    def link(self, path: str, target: str) -> None: ...

    def remove(self, path: str) -> None:
        """One name; a directory is empty by then."""

    def hide(self, path: str) -> None: ...

    def seal(self, path: str) -> None:
        """Marks a directory opaque."""

    def describe(self, path: str, entry: Entry) -> None:
        """Gives a directory the attributes of ``entry``, and no others."""


class ReadableRoot(Protocol):
    """What comparing two trees takes."""

    def kind(self, path: str) -> Kind | None: ...

    def look(self, path: str) -> Entry: ...

    def names(self, path: str) -> list[str]: ...

    def identity(self, path: str) -> Hashable | None:
        """The same for all names of one file; ``None`` for what has a single name."""


# -- in memory


@dataclass(slots=True)
class _Node:
    entry: Entry
    data: bytes = b""
    names: int = 1


class MemoryRoot:
    """A tree in a dictionary: for tests, and as the plainest statement of what a root is."""

    def __init__(self, whiteouts: WhiteoutStyle = WhiteoutStyle.REMOVE) -> None:
        self.whiteouts = whiteouts
        self._nodes: dict[str, _Node] = {"": _Node(Entry("", Kind.DIRECTORY, 0o755))}
        self._names: dict[str, set[str]] = {"": set()}

    def begin(self) -> bool:
        return len(self._nodes) == 1

    def kind(self, path: str) -> Kind | None:
        node = self._nodes.get(path)
        return None if node is None else node.entry.kind

    def look(self, path: str) -> Entry:
        node = self._nodes[path]
        return replace(node.entry, path=path, open=partial(io.BytesIO, node.data))

    def read_link(self, path: str) -> str:
        return self._nodes[path].entry.linkname

    def names(self, path: str) -> list[str]:
        return sorted(self._names[path])

    def identity(self, path: str) -> Hashable | None:
        node = self._nodes[path]
        return id(node) if node.names > 1 else None

    def read(self, path: str) -> bytes:
        return self._nodes[path].data

    def walk(self) -> Iterator[Entry]:
        """Everything, in path order."""
        return map(self.look, sorted(self._nodes))

    def make(self, path: str, entry: Entry, content: Content) -> None:
        self._insist_free(path)
        made = bytearray()
        if entry.kind is Kind.FILE:
            content(made.extend)
        self._add(path, _Node(replace(entry, path=path, open=None, xattrs=_own_xattrs(entry)), bytes(made)))
        if entry.kind is Kind.DIRECTORY:
            self._names[path] = set()

    def link(self, path: str, target: str) -> None:
        self._insist_free(path)
        node = self._nodes[target]
        node.names += 1
        self._add(path, node)

    def remove(self, path: str) -> None:
        if self._names.get(path):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        self._nodes.pop(path).names -= 1
        self._names.pop(path, None)
        parent, _, name = path.rpartition("/")
        self._names[parent].remove(name)

    def hide(self, path: str) -> None:
        self._insist_free(path)
        self._add(path, _Node(Entry(path, Kind.CHAR, 0)))

    def seal(self, path: str) -> None:
        node = self._nodes[path]
        node.entry = replace(node.entry, xattrs={**node.entry.xattrs, _opaque(self.whiteouts): b"y"})

    def describe(self, path: str, entry: Entry) -> None:
        node = self._nodes[path]
        marks = {name: value for name, value in node.entry.xattrs.items() if name.startswith(OVERLAY_XATTRS)}
        node.entry = replace(entry, path=path, xattrs={**_own_xattrs(entry), **marks})

    def _add(self, path: str, node: _Node) -> None:
        parent, _, name = path.rpartition("/")
        self._names[parent].add(name)
        self._nodes[path] = node

    def _insist_free(self, path: str) -> None:
        if path in self._nodes:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)


# -- on disk

CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL_BITS = 0o7000
_KINDS = {
    stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHAR, stat.S_IFBLK: Kind.BLOCK, stat.S_IFIFO: Kind.FIFO,
}
_TYPES = {Kind.CHAR: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK, Kind.FIFO: stat.S_IFIFO}
_IMPOSSIBLE_XATTR = (errno.EPERM, errno.EOPNOTSUPP)
# Those that mean something to overlayfs or to us: a layer must not set them, and does not hold them.
_STEERING_XATTRS = (*OVERLAY_XATTRS, *OWNER_XATTRS)


class SocketFound(InvalidLayer):
    """Sockets live while a process holds them; a layer has no way to say one."""


class DirectoryRoot:
    """A directory on disk. Nothing outside it is ever touched, whatever the layer names. Close it after use.

    Devices are made where the process may (never with ``Ownership.IGNORE``) and are empty files otherwise.
    ``refused_xattrs`` are the names of xattrs that the filesystem, or a lack of rights, did not let us set.

    Tells by the process' umask which modes must be set a second time: clear it first to be fast.
    """

    def __init__(
        self, path: str | Path, *, owner: Ownership = Ownership.KEEP,
        whiteouts: WhiteoutStyle = WhiteoutStyle.REMOVE,
    ) -> None:
        self.whiteouts = whiteouts
        self.refused_xattrs: set[str] = set()
        self.keeps_owner = owner is Ownership.KEEP
        self.own_ids = (os.geteuid(), os.getegid())
        # Whose files need nothing said about their owner.
        self.plain_owner = self.own_ids if self.keeps_owner else (PLAIN.uid, PLAIN.gid)
        self.loose_bits = _SPECIAL_BITS | _umask()
        self.directories = OpenDirectories(path)
        # Whether new files belong to own_ids unless told otherwise, and directories have no xattrs.
        self.is_plain = False

    def begin(self) -> bool:
        self.directories.force()
        is_fresh = not os.listdir(self.directories.top)
        # In a setgid directory new files have the directory's group; our own get that bit last.
        self.is_plain = is_fresh and not os.fstat(self.directories.top).st_mode & stat.S_ISGID
        return is_fresh

    def close(self) -> None:
        self.directories.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- looking

    def kind(self, path: str) -> Kind | None:
        try:
            return self.kind_of(path, self._status(path))
        except FileNotFoundError:
            return None

    def look(self, path: str) -> Entry:
        status = self._status(path)
        kind = self.kind_of(path, status)
        entry = Entry(
            path, kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns,
            xattrs=self._read_xattrs(path, kind),
        )
        if kind is Kind.FILE:
            entry.size = status.st_size
            entry.open = partial(self.open, path)
        elif kind is Kind.SYMLINK:
            entry.linkname = self.read_link(path)
        elif kind in (Kind.CHAR, Kind.BLOCK):
            entry.major, entry.minor = os.major(status.st_rdev), os.minor(status.st_rdev)
        return entry if self.keeps_owner else self._as_kept(entry, status)

    def kind_of(self, path: str, status: os.stat_result) -> Kind:
        """Raises :class:`SocketFound`."""
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            raise SocketFound(f"{path!r}: a socket, which no layer can hold")
        return kind

    def read_link(self, path: str) -> str:
        parent, name = self._parent(path)
        return os.readlink(name, dir_fd=parent)

    def names(self, path: str) -> list[str]:
        return sorted(os.listdir(self.directories.get(path)))

    def identity(self, path: str) -> Hashable | None:
        status = self._status(path)
        if status.st_nlink < 2 or stat.S_ISDIR(status.st_mode):
            return None
        return status.st_dev, status.st_ino

    def open(self, path: str) -> BinaryIO:
        parent, name = self._parent(path)
        return _open_regular(name, parent, path)

    # -- acting

    def _write(self, descriptor: int, chunk: bytes | memoryview) -> None:
        """The next bytes of a file that is being made."""
        write_all(descriptor, chunk)

    def make(self, path: str, entry: Entry, content: Content) -> None:
        parent, name = self._parent(path)
        if entry.kind is Kind.FILE:
            descriptor = os.open(name, CREATE, entry.mode & 0o777, dir_fd=parent)
            try:
                content(partial(self._write, descriptor))
                self.finish_file(descriptor, entry)
            finally:
                os.close(descriptor)
        elif entry.kind is Kind.DIRECTORY:
            os.mkdir(name, 0o700, dir_fd=parent)
        elif entry.kind is Kind.SYMLINK:
            os.symlink(entry.linkname, name, dir_fd=parent)
            self._finish_name(name, parent, entry)
        else:
            self._make_special(name, parent, entry)
            self._finish_name(name, parent, entry)

    def link(self, path: str, target: str) -> None:
        """Of the link itself if ``target`` is a symlink: following one would be CVE-2021-32760."""
        there, old = self._parent(target)
        there = os.dup(there)  # opening the other directory may close this one
        try:
            parent, name = self._parent(path)
            os.link(old, name, src_dir_fd=there, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(there)

    def remove(self, path: str) -> None:
        parent, name = self._parent(path)
        try:
            os.unlink(name, dir_fd=parent)
        except IsADirectoryError:
            self.directories.forget(path)
            os.rmdir(name, dir_fd=parent)

    def hide(self, path: str) -> None:
        parent, name = self._parent(path)
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)

    def seal(self, path: str) -> None:
        os.setxattr(self.directories.get(path), _opaque(self.whiteouts), b"y")

    def describe(self, path: str, entry: Entry) -> None:
        descriptor = self.directories.get(path)
        if not self.is_plain:
            for name in os.listxattr(descriptor):
                if name not in entry.xattrs and not name.startswith(_STEERING_XATTRS):
                    self._try_xattr(name, partial(os.removexattr, descriptor, name))
        self._give(descriptor, entry)
        os.fchmod(descriptor, entry.mode)
        if entry.xattrs:
            self._set_xattrs(descriptor, entry)
        os.utime(descriptor, ns=(entry.mtime, entry.mtime))

    def finish_file(self, descriptor: int, entry: Entry) -> None:
        """Attributes of a file just made. In this order: a chown clears setuid bits and capabilities."""
        self._give(descriptor, entry)
        if entry.mode & self.loose_bits:
            os.fchmod(descriptor, entry.mode)
        if entry.xattrs:
            self._set_xattrs(descriptor, entry)
        os.utime(descriptor, ns=(entry.mtime, entry.mtime))

    # -- parts of acts

    def _parent(self, path: str) -> tuple[int, str]:
        parent, _, name = path.rpartition("/")
        return self.directories.get(parent), name

    def _status(self, path: str) -> os.stat_result:
        if not path:
            return os.fstat(self.directories.top)
        parent, name = self._parent(path)
        return os.stat(name, dir_fd=parent, follow_symlinks=False)

    def _make_special(self, name: str, parent: int, entry: Entry) -> None:
        mode = entry.mode & 0o777
        if entry.kind is Kind.FIFO or self.keeps_owner:
            device = os.makedev(entry.major, entry.minor)
            try:
                os.mknod(name, _TYPES[entry.kind] | mode, device, dir_fd=parent)
            except PermissionError:  # in a user namespace nobody can make devices
                if entry.kind is Kind.FIFO:
                    raise
            else:
                return
        os.close(os.open(name, CREATE, mode, dir_fd=parent))

    def _finish_name(self, name: str, parent: int, entry: Entry) -> None:
        """As :meth:`finish_file` for what cannot be opened."""
        self._give(name, entry, parent)
        where = f"/proc/self/fd/{parent}/{name}"
        if entry.kind is not Kind.SYMLINK and entry.mode & self.loose_bits:
            os.chmod(where, entry.mode)  # it was made a moment ago, and is no symlink
        for xattr, value in _own_xattrs(entry).items():
            self._try_xattr(xattr, partial(os.setxattr, where, xattr, value, follow_symlinks=False))
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    def _give(self, what: int | str, entry: Entry, parent: int | None = None) -> None:
        if self.is_plain and (entry.uid, entry.gid) == self.plain_owner and (
            self.keeps_owner or entry.kind not in (Kind.CHAR, Kind.BLOCK)
        ):
            return
        if not self.keeps_owner:
            self._note(what, entry, parent)
            return
        try:
            if isinstance(what, int):
                os.fchown(what, entry.uid, entry.gid)
            else:
                os.chown(what, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise Denied(
                f"{entry.path!r}: belongs to {entry.uid}:{entry.gid}, and this user namespace has no such ids"
            ) from None

    def _note(self, what: int | str, entry: Entry, parent: int | None) -> None:
        """What :meth:`_give` is where there is one id. ``what`` is fresh, or a directory."""
        if isinstance(what, int):
            act = partial(keep, what, Kept(entry.uid, entry.gid))
            self._try_xattr_as_owner(OWNER_XATTRS[0], act, what, entry)
            return
        assert parent is not None
        where = f"/proc/self/fd/{parent}/{what}"
        status = os.lstat(where)
        if stat.S_ISREG(status.st_mode):  # it stands for a device
            kept = Kept(entry.uid, entry.gid, entry.kind, entry.major, entry.minor)
            act = partial(keep, where, kept)
        else:
            link = os.fsencode(entry.linkname) if entry.kind is Kind.SYMLINK else b""
            kept = Kept(entry.uid, entry.gid)
            act = partial(keep_child, parent, os.fsencode(what), essence(status, link), kept)
        try:
            self._try_xattr(OWNER_XATTRS[0], act)
        except OSError as error:  # ext4 has one block for all xattrs of a directory: the index knows them
            if error.errno not in (errno.ENOSPC, errno.E2BIG):
                raise
            self.refused_xattrs.add(OWNER_XATTRS[0])

    def _as_kept(self, entry: Entry, status: os.stat_result) -> Entry:
        """As the note beside it says, and as root's where there is none."""
        parent, name = self._parent(entry.path) if entry.path else (self.directories.top, ".")
        if holds_own(status.st_mode):
            kept = read_kept(f"/proc/self/fd/{parent}/{name}")
        else:
            kept = read_child(parent, os.fsencode(name), essence(status, os.fsencode(entry.linkname)))
        if kept is None:
            if (entry.uid, entry.gid) == self.own_ids:
                entry.uid, entry.gid = PLAIN.uid, PLAIN.gid
            return entry
        entry.uid, entry.gid = kept.uid, kept.gid
        if kept.device is not None and entry.kind is Kind.FILE:
            return replace(
                entry, kind=kept.device, major=kept.major, minor=kept.minor, size=0, open=None,
            )
        return entry

    def _set_xattrs(self, descriptor: int, entry: Entry) -> None:
        for name, value in _own_xattrs(entry).items():
            self._try_xattr_as_owner(name, partial(os.setxattr, descriptor, name, value), descriptor, entry)

    def _try_xattr_as_owner(self, name: str, act: Callable[[], None], descriptor: int, entry: Entry) -> None:
        try:
            self._try_xattr(name, act)
        except PermissionError:  # EACCES: user xattrs want the right to write, even of the owner
            os.fchmod(descriptor, entry.mode | stat.S_IWUSR)
            self._try_xattr(name, act)
            os.fchmod(descriptor, entry.mode)

    def _try_xattr(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except OSError as error:
            if error.errno not in _IMPOSSIBLE_XATTR:
                raise
            self.refused_xattrs.add(name)

    def _read_xattrs(self, path: str, kind: Kind) -> dict[str, bytes]:
        where: int | str
        if kind is Kind.DIRECTORY:
            where = self.directories.get(path)
        else:
            parent, name = self._parent(path)
            where = f"/proc/self/fd/{parent}/{name}"
        is_open = isinstance(where, int)
        try:
            names = os.listxattr(where, follow_symlinks=is_open)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return {}
            raise
        return {
            item: os.getxattr(where, item, follow_symlinks=is_open)
            for item in names if not item.startswith(_STEERING_XATTRS)
        }


def open_inside(top: str | Path, path: str) -> int:
    """A descriptor for reading the regular file at a canonical path below ``top``; the caller closes it."""
    directories = OpenDirectories(top)
    try:
        parent, _, name = path.rpartition("/")
        with _open_regular(name, directories.get(parent), path) as file:
            return os.dup(file.fileno())
    finally:
        directories.close()


def write_all(descriptor: int, chunk: bytes | memoryview) -> None:
    written = os.write(descriptor, chunk)
    while written < len(chunk):  # a signal, or the last bytes of a disk
        written += os.write(descriptor, memoryview(chunk)[written:])


def _open_regular(name: str, parent: int, path: str) -> BinaryIO:
    # O_NONBLOCK: opening a FIFO would wait for its other end.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=parent)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Denied(f"{path!r}: expected a regular file")
    return os.fdopen(descriptor, "rb", buffering=0)


def _own_xattrs(entry: Entry) -> dict[str, bytes]:
    if not entry.xattrs:
        return {}
    return {name: value for name, value in entry.xattrs.items() if not name.startswith(_STEERING_XATTRS)}


def _opaque(style: WhiteoutStyle) -> str:
    assert style is not WhiteoutStyle.REMOVE
    return f"{style.value}overlay.opaque"


def _umask() -> int:
    """Reading it any other way would change it, and all threads share it (proc(5), Linux 4.7)."""
    try:
        with open("/proc/self/status", "rb") as file:
            for line in file:
                if line.startswith(b"Umask:"):
                    return int(line.split()[1], 8)
    except FileNotFoundError:
        pass
    return 0o777
