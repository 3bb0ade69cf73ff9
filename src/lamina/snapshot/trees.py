"""Directory trees on disk: measure, copy, share and remove them, whatever is in there.

A tree holds what strangers put into it: names that are no text, symlinks that lead away, directories
that even their owner may not read, and paths longer than the kernel takes in one call. So everything
goes through open directories, one name at a time, and never follows a link.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from lamina.layer.entry import OVERLAY_XATTRS
from lamina.snapshot import syscalls
from lamina.snapshot.snapshotter import Usage
from lamina.values import dataclass

_FICLONE = 0x40049409
_CHUNK = 1 << 20
_COPY_AT_ONCE = 1 << 30
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
# Below this depth a directory is moved to the top before it is emptied: each level costs a descriptor.
_DEEP = 100


def measure(top: Path) -> Usage:
    """Bytes and inodes on disk, each inode once, as far as this process may look."""
    status = os.lstat(top)
    seen = {(status.st_dev, status.st_ino)}
    size = status.st_blocks * 512
    if not stat.S_ISDIR(status.st_mode):
        return Usage(size, 1)
    for _directory, _name, found in _walk(top):
        if (found.st_dev, found.st_ino) not in seen:
            seen.add((found.st_dev, found.st_ino))
            size += found.st_blocks * 512
    return Usage(size, len(seen))


def make_root(path: Path) -> None:
    """An empty root directory as it is where no layer says: whatever the umask, and whenever it is made."""
    os.mkdir(path)
    os.chmod(path, 0o755)  # noqa: S103 - its parent is closed to others
    os.utime(path, ns=(0, 0))


def sync_tree(top: Path) -> None:
    """Everything below is on the disk when this returns."""
    descriptor = os.open(top, _DIRECTORY)
    try:
        syscalls.syncfs(descriptor)
    finally:
        os.close(descriptor)


def raise_descriptor_limit() -> None:
    """For a process of our own: a tree of 2,000 levels takes twice as many descriptors to copy."""
    import resource  # noqa: PLC0415 - workers only

    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _walk(top: Path) -> Iterator[tuple[int, str, os.stat_result]]:
    """Everything below ``top``: an open parent directory, a name in it, and its status."""
    levels: list[tuple[int, list[str]]] = []
    try:
        _descend(levels, os.open(top, _DIRECTORY))
        while levels:
            directory, names = levels[-1]
            if not names:
                os.close(levels.pop()[0])
                continue
            name = names.pop()
            try:
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except (FileNotFoundError, PermissionError):
                continue
            yield directory, name, found
            if stat.S_ISDIR(found.st_mode):
                with contextlib.suppress(PermissionError):
                    _descend(levels, os.open(name, _DIRECTORY, dir_fd=directory))
    finally:
        for directory, _names in levels:
            os.close(directory)


def _descend(levels: list[tuple[int, list[str]]], directory: int) -> None:
    try:
        levels.append((directory, os.listdir(directory)))
    except BaseException:
        os.close(directory)
        raise


# -- removing


def remove_tree(top: Path) -> None:
    """Gone, whatever its modes and depth; what is not there is fine.

    The first act is a rename, so that a tree is either whole or no longer there under its name.
    """
    doomed = top.with_name(f".removing-{os.urandom(8).hex()}")
    try:
        os.rename(top, doomed)
    except FileNotFoundError:
        return
    empty_and_remove(doomed)


def empty_and_remove(doomed: Path) -> None:
    if not doomed.is_dir() or doomed.is_symlink():
        doomed.unlink(missing_ok=True)
        return
    waiting = [doomed]
    while waiting:
        top = waiting.pop()
        directory = _open_forcibly(os.fspath(top), None)
        try:
            moved = _empty(directory, doomed.parent)
        finally:
            os.close(directory)
        os.rmdir(top)
        waiting.extend(moved)


def _empty(top: int, aside: Path) -> list[Path]:
    """Empties an open directory. What is too deep is moved to ``aside`` and returned."""
    moved: list[Path] = []
    levels: list[tuple[int, str, list[str]]] = [(top, "", os.listdir(top))]
    try:
        while levels:
            directory, own_name, names = levels[-1]
            if not names:
                levels.pop()
                if levels:
                    os.close(directory)
                    _remove_directory(own_name, levels[-1][0])
                continue
            name = names.pop()
            try:
                os.unlink(name, dir_fd=directory)
            except (IsADirectoryError, PermissionError):
                if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                    _unlink_forcibly(name, directory)
                    continue
                below = _open_forcibly(name, directory)
                if len(levels) > _DEEP:
                    os.close(below)
                    moved.append(aside / f".removing-{os.urandom(8).hex()}")
                    os.rename(name, moved[-1], src_dir_fd=directory)
                else:
                    levels.append((below, name, os.listdir(below)))
    finally:
        for directory, _name, _names in levels[1:]:
            os.close(directory)
    return moved


def _remove_directory(name: str, parent: int) -> None:
    """An empty one, with flags or without."""
    try:
        os.rmdir(name, dir_fd=parent)
    except PermissionError:
        from lamina.layer.exactly import loosen  # noqa: PLC0415 - rare

        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            loosen(parent)
            loosen(descriptor)
        finally:
            os.close(descriptor)
        os.rmdir(name, dir_fd=parent)


def _unlink_forcibly(name: str, parent: int) -> None:
    """What a privileged container made immutable, or for appending only. May raise ``PermissionError``."""
    from lamina.layer.exactly import loosen  # noqa: PLC0415 - rare

    loosen(parent)
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if stat.S_ISREG(status.st_mode):
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            loosen(descriptor)
        finally:
            os.close(descriptor)
    os.unlink(name, dir_fd=parent)


def _open_forcibly(name: str, parent: int | None) -> int:
    """Opens a directory to be emptied, giving its owner the right to do so first where that is needed."""
    try:
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        return os.open(name, _DIRECTORY, dir_fd=parent)
    if os.fstat(descriptor).st_mode & stat.S_IRWXU != stat.S_IRWXU and os.geteuid() != 0:
        os.fchmod(descriptor, 0o700)
    return descriptor


# -- copying


@dataclass(slots=True)
class _Pair:
    """One directory of a copy while it is filled. ``names`` are those still to do."""

    source: int
    target: int
    path: str
    names: list[str]
    status: os.stat_result


def copy_tree(source: str | Path, target: Path) -> None:
    """A second tree like the first: modes, owners, times, xattrs, hard links, devices.

    File data is shared where the filesystem can (reflinks), and copied by the kernel elsewhere.
    ``target`` must not exist.
    """
    os.mkdir(target, 0o700)
    links: dict[tuple[int, int], str] = {}
    levels: list[_Pair] = []
    finished: list[tuple[str, os.stat_result]] = []
    top = -1
    try:
        top = os.open(target, _DIRECTORY)
        status = os.lstat(source)
        start = _open_readable(os.fspath(source), None, _DIRECTORY, status, stat.S_IRUSR | stat.S_IXUSR)
        levels.append(_Pair(start, os.dup(top), "", os.listdir(start), status))
        while levels:
            pair = levels[-1]
            if pair.names:
                below = _copy_name(pair, pair.names.pop(), top, links)
                if below is not None:
                    levels.append(below)
                continue
            _set_owner(pair.target, pair.status)
            _copy_xattrs(f"/proc/self/fd/{pair.source}", f"/proc/self/fd/{pair.target}", follow=True)
            finished.append((pair.path or ".", pair.status))
            levels.pop()
            _close_readable(pair.source, pair.status)
            os.close(pair.target)
        for path, status in finished:
            # Last, since a hard link may lead through any of them; each after those that are in it.
            os.chmod(path, stat.S_IMODE(status.st_mode), dir_fd=top)
            os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns), dir_fd=top)
    finally:
        for pair in levels:
            _close_readable(pair.source, pair.status)
            os.close(pair.target)
        if top >= 0:
            os.close(top)


def _copy_name(pair: _Pair, name: str, top: int, links: dict[tuple[int, int], str]) -> _Pair | None:
    """Copies one name; the answer is a directory to go on with."""
    status = os.stat(name, dir_fd=pair.source, follow_symlinks=False)
    path = f"{pair.path}{name}"
    if stat.S_ISDIR(status.st_mode):
        os.mkdir(name, 0o700, dir_fd=pair.target)
        below = _open_readable(name, pair.source, _DIRECTORY, status, stat.S_IRUSR | stat.S_IXUSR)
        try:
            inside = os.open(name, _DIRECTORY, dir_fd=pair.target)
            return _Pair(below, inside, f"{path}/", os.listdir(below), status)
        except BaseException:
            os.close(below)
            raise
    if status.st_nlink > 1:
        first = links.setdefault((status.st_dev, status.st_ino), path)
        if first != path:
            os.link(first, name, src_dir_fd=top, dst_dir_fd=pair.target, follow_symlinks=False)
            return None
    if stat.S_ISREG(status.st_mode):
        _copy_file(pair, name, status)
    else:
        _copy_special(pair, name, status)
    return None


def link_or_copy(directory: int, name: str, target: Path) -> None:
    """A second name for a file of a tree that nobody writes to; a copy where that cannot be."""
    try:
        os.link(name, target, src_dir_fd=directory, follow_symlinks=False)
    except OSError as error:
        # Too many links already, another filesystem, or fs.protected_hardlinks.
        if error.errno not in (errno.EMLINK, errno.EXDEV, errno.EPERM):
            raise
        _copy_as(directory, name, target)


def _copy_as(directory: int, name: str, target: Path) -> None:
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    pair = _Pair(directory, os.open(target.parent, _DIRECTORY), "", [], status)
    try:
        (_copy_file if stat.S_ISREG(status.st_mode) else _copy_special)(pair, name, status)
        os.rename(name, target.name, src_dir_fd=pair.target, dst_dir_fd=pair.target)
    finally:
        os.close(pair.target)


def _copy_file(pair: _Pair, name: str, status: os.stat_result) -> None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    source = _open_readable(name, pair.source, flags, status, stat.S_IRUSR)
    try:
        target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=pair.target)
        try:
            copy_data(source, target, status.st_size)
            _set_owner(target, status)
            _copy_xattrs(f"/proc/self/fd/{source}", f"/proc/self/fd/{target}", follow=True)
            os.fchmod(target, stat.S_IMODE(status.st_mode))
            os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))
        finally:
            os.close(target)
    finally:
        _close_readable(source, status)


def _open_readable(name: str, parent: int | None, flags: int, status: os.stat_result, needed: int) -> int:
    """Opens what its owner, who has no other rights here, may have denied himself.

    Outside of a user namespace an ordinary user is bound by the modes of a stranger's image. The right
    is taken for as long as it is open: :func:`_close_readable` gives it back.
    """
    if os.geteuid() != 0 and status.st_mode & needed != needed:
        os.chmod(name, stat.S_IMODE(status.st_mode) | needed, dir_fd=parent)
    return os.open(name, flags, dir_fd=parent)


def _close_readable(descriptor: int, status: os.stat_result) -> None:
    try:
        if os.geteuid() != 0 and os.fstat(descriptor).st_mode != status.st_mode:
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
    finally:
        os.close(descriptor)


def copy_data(source: int, target: int, size: int) -> None:
    """Whole files: one reference to the same blocks, or copied inside the kernel, or through us."""
    if size == 0:
        return
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        copy_range(source, 0, target, size)


def copy_range(source: int, offset: int, target: int, size: int) -> int:
    """Appends ``size`` bytes from ``offset`` of one file to another; returns how many there were.

    ``copy_file_range`` says EXDEV between filesystems, and EOPNOTSUPP or EINVAL on some.
    """
    done = 0
    try:
        while done < size:
            count = os.copy_file_range(source, target, min(size - done, _COPY_AT_ONCE), offset + done)
            if count == 0:
                break
            done += count
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM):
            raise
    while done < size:
        count = os.sendfile(target, source, offset + done, min(size - done, _COPY_AT_ONCE))
        if count == 0:
            break
        done += count
    return done


def _copy_special(pair: _Pair, name: str, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=pair.source), name, dir_fd=pair.target)
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=pair.target)
    if _must_chown(status):
        os.chown(name, status.st_uid, status.st_gid, dir_fd=pair.target, follow_symlinks=False)
    _copy_xattrs(f"/proc/self/fd/{pair.source}/{name}", f"/proc/self/fd/{pair.target}/{name}", follow=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=pair.target)
    times = (status.st_mtime_ns, status.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=pair.target, follow_symlinks=False)


def copy_root_attributes(source: Path, target: Path) -> None:
    """Of one directory, without what overlayfs noted on it for itself."""
    status = os.lstat(source)
    descriptor = os.open(target, _DIRECTORY)
    try:
        _set_owner(descriptor, status)
        _copy_xattrs(os.fspath(source), f"/proc/self/fd/{descriptor}", follow=True, leave_out=OVERLAY_XATTRS)
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
        os.utime(descriptor, ns=(status.st_mtime_ns, status.st_mtime_ns))
    finally:
        os.close(descriptor)


def _must_chown(status: os.stat_result) -> bool:
    return (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid())


def _set_owner(descriptor: int, status: os.stat_result) -> None:
    if _must_chown(status):
        os.fchown(descriptor, status.st_uid, status.st_gid)


def _copy_xattrs(source: str, target: str, *, follow: bool, leave_out: tuple[str, ...] = ()) -> None:
    try:
        names = os.listxattr(source, follow_symlinks=follow)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EPERM):
            return
        raise
    for name in names:
        if not name.startswith(leave_out):
            value = os.getxattr(source, name, follow_symlinks=follow)
            os.setxattr(target, name, value, follow_symlinks=follow)
