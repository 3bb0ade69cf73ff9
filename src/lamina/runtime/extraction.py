"""A tar becomes files in a directory that somebody may be changing meanwhile: ``cp``'s receiving half."""

from __future__ import annotations

import errno
import os
import stat
from typing import NoReturn

from lamina.errors import Conflict, Denied
from lamina.layer.entry import Entry, InvalidLayer, Kind
from lamina.layer.root import Content, DirectoryRoot, Ownership
from lamina.layer.tarstream import TarReader
from lamina.runtime.copying import CannotCopy, Open, opened
from lamina.values import dataclass, replace

_ATTEMPTS = 16
_SET_IDS = stat.S_ISUID | stat.S_ISGID
_CAPABILITY = "security.capability"


class CopyRefused(Denied):
    """The destination's filesystem does not take it."""


class PathBusy(Conflict):
    """Something is mounted there, or somebody keeps changing it."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """``size`` is the tar's. ``devices`` could not be made, and are missing."""

    size: int
    devices: int = 0


class Extraction:
    """Takes entries into a directory: what is there already gives way, but no directory to a file.

    ``opener`` opens a directory by its path from the destination. Existing directories keep their owner,
    mode and times (CVE-2021-41089). ``ids`` are whose everything becomes; ``None`` keeps the entries' own.
    """

    def __init__(
        self, opener: Open, *, owner: Ownership, ids: tuple[int, int] | None, has_devices: bool
    ) -> None:
        self._opener = opener
        self._owner = owner
        self._ids = ids
        self._has_devices = has_devices or owner is Ownership.IGNORE
        self._here: tuple[str, int, DirectoryRoot] | None = None
        self._made: dict[str, tuple[Entry, tuple[int, int]]] = {}
        self.devices = 0

    def run(self, reader: TarReader) -> Extracted:
        try:
            for entry in reader:
                try:
                    self._take(entry, reader.copy_data)
                except OSError as error:
                    _explain(error, entry.path)
            self._finish()
        finally:
            self._leave()
        return Extracted(reader.position, self.devices)

    def _take(self, entry: Entry, content: Content) -> None:
        if not entry.path:
            return  # the destination itself
        if entry.kind in (Kind.CHAR, Kind.BLOCK) and not self._has_devices:
            self.devices += 1
            return
        parent, root = self._enter(entry.parent)
        for _attempt in range(_ATTEMPTS):
            if not self._make_way(entry, parent):
                return
            try:
                self._make(entry, parent, root, content)
            except FileExistsError:
                continue  # somebody was quicker; the file's bytes are still to be read
            return
        raise PathBusy(f"{entry.path}: somebody keeps making it anew")

    def _make_way(self, entry: Entry, parent: int) -> bool:
        """Whether there is something to make: not where the directory is there already."""
        try:
            there = os.stat(entry.name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return True
        is_directory = entry.kind is Kind.DIRECTORY
        if stat.S_ISDIR(there.st_mode):
            if is_directory:
                return False
            raise CannotCopy(f"{entry.path}: cannot overwrite a directory with a file")
        if is_directory:
            raise CannotCopy(f"{entry.path}: cannot overwrite a file with a directory")
        if entry.kind is Kind.HARDLINK and entry.linkname == entry.path:
            raise InvalidLayer(f"{entry.path!r}: a hard link to itself")
        if _is_mounted_on(entry.name, parent):
            raise PathBusy(f"{entry.path}: something is mounted there, so it cannot be replaced")
        os.unlink(entry.name, dir_fd=parent)
        return True

    def _make(self, entry: Entry, parent: int, root: DirectoryRoot, content: Content) -> None:
        if entry.kind is Kind.HARDLINK:
            self._link(entry)
            return
        given = self._given(entry)
        root.make(entry.name, given, content)
        if entry.kind is Kind.DIRECTORY:
            status = os.stat(entry.name, dir_fd=parent, follow_symlinks=False)
            self._made[entry.path] = given, (status.st_dev, status.st_ino)

    def _link(self, entry: Entry) -> None:
        """Never through a symlink: its target is somebody else's file (CVE-2021-32760)."""
        there, _, old = entry.linkname.rpartition("/")
        source = self._opener(there, os.O_RDONLY | os.O_DIRECTORY)
        try:
            target, _root = self._enter(entry.parent)
            os.link(old, entry.name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        finally:
            os.close(source)

    def _given(self, entry: Entry) -> Entry:
        """Who becomes somebody else's file gives no rights of its new owner to who runs it."""
        xattrs = {
            name: value for name, value in entry.xattrs.items()
            if name.startswith("user.") or name == _CAPABILITY
        }
        if self._ids is None or (entry.uid, entry.gid) == self._ids:
            return replace(entry, path=entry.name, xattrs=xattrs)
        xattrs.pop(_CAPABILITY, None)
        mode = entry.mode if entry.kind is Kind.DIRECTORY else entry.mode & ~_SET_IDS
        uid, gid = self._ids
        return replace(entry, path=entry.name, xattrs=xattrs, mode=mode, uid=uid, gid=gid)

    # -- directories

    def _enter(self, path: str) -> tuple[int, DirectoryRoot]:
        """The directory of an entry, made with those above it if need be; open until the next one is."""
        if self._here is None or self._here[0] != path:
            descriptor = self._open_or_make(path)
            self._leave()
            try:
                self._here = path, descriptor, DirectoryRoot(opened(descriptor), owner=self._owner)
            except BaseException:
                os.close(descriptor)
                raise
        return self._here[1:]

    def _leave(self) -> None:
        if self._here is not None:
            _path, descriptor, root = self._here
            root.close()
            os.close(descriptor)
            self._here = None

    def _open_or_make(self, path: str) -> int:
        try:
            return self._opener(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            if not path:
                raise
        above, _, name = path.rpartition("/")
        parent = self._open_or_make(above)
        try:
            with DirectoryRoot(opened(parent), owner=self._owner) as root:
                uid, gid = self._ids or (0, 0)
                entry = Entry(name, Kind.DIRECTORY, 0o755, uid, gid)
                os.mkdir(name, 0o700, dir_fd=parent)
                root.describe(name, entry)
        finally:
            os.close(parent)
        return self._opener(path, os.O_RDONLY | os.O_DIRECTORY)

    def _finish(self) -> None:
        """What was made gets its mode and times when everything is in it, and is still the same."""
        for path, (entry, identity) in sorted(self._made.items(), reverse=True):
            try:
                descriptor = self._opener(path, os.O_RDONLY | os.O_DIRECTORY)
            except (FileNotFoundError, NotADirectoryError):
                continue
            try:
                status = os.fstat(descriptor)
                if (status.st_dev, status.st_ino) == identity:
                    with DirectoryRoot(opened(descriptor), owner=self._owner) as root:
                        root.describe("", entry)
            finally:
                os.close(descriptor)


def _is_mounted_on(name: str, parent: int) -> bool:
    """Whether a name is a mount's in any namespace.

    The kernel minds only its own one's (EBUSY); elsewhere the mount goes with the name (vfs_unlink, namei.c).
    """
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        return _mount_of(descriptor) != _mount_of(parent)
    finally:
        os.close(descriptor)


def _mount_of(descriptor: int) -> str:
    """proc_pid_fdinfo(5)"""
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as lines:
        return next((line for line in lines if line.startswith("mnt_id:")), "")


def _explain(error: OSError, path: str) -> NoReturn:
    if error.errno == errno.EROFS:
        raise CopyRefused(f"{path}: cannot be written: the filesystem is mounted read-only there") from None
    if error.errno == errno.EBUSY:
        raise PathBusy(f"{path}: something is mounted there, so it cannot be replaced") from None
    if isinstance(error, PermissionError):
        raise CopyRefused(f"{path}: cannot be made: {(error.strerror or '').lower()}") from None
    if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.EEXIST):
        reason = (error.strerror or "").lower()
        raise CannotCopy(f"{path}: something on the way to it is no directory ({reason})") from None
    error.add_note(f"while copying {path}")
    raise error
