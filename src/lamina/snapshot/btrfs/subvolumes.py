"""What is done to subvolumes by their paths, here or by a worker that stands in a user namespace.

Ordinary users may make subvolumes and snapshots, but not destroy them (without the mount option
``user_subvol_rm_allowed``). They may empty theirs, and an empty one goes as a directory does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lamina.snapshot import syscalls, trees
from lamina.snapshot.btrfs import ioctl

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not root, or one that holds others.
_NOT_LIKE_THAT = (errno.EPERM, errno.EACCES, errno.ENOTEMPTY)


@contextmanager
def opened(path: str | Path) -> Iterator[int]:
    descriptor = os.open(path, _DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def run(act: str, arguments: Mapping[str, Any]) -> Any:
    """For a worker: one of the functions below, by its name."""
    return _ACTS[act](**arguments)


def create(path: str) -> None:
    """An empty one, which looks as a root looks where no layer says anything."""
    above, _, name = path.rpartition("/")
    with opened(above) as directory:
        ioctl.create_subvolume(directory, name)
    os.chmod(path, 0o755)  # noqa: S103 - its parent is closed to others
    os.utime(path, ns=(0, 0))


def snapshot(source: str, target: str, *, is_read_only: bool = False) -> None:
    above, _, name = target.rpartition("/")
    with opened(source) as subvolume, opened(above) as directory:
        ioctl.create_snapshot(subvolume, directory, name, is_read_only=is_read_only)


def settle(path: str) -> None:
    """Makes it one that snapshots show as it is, and brings it to the disk."""
    _make_flat(path)
    with opened(path) as subvolume:
        syscalls.syncfs(subvolume)


def apply_layer(path: str, tar: str, *, keeps_owners: bool) -> None:
    from lamina.layer.apply import apply  # noqa: PLC0415 - for new layers only
    from lamina.layer.root import DirectoryRoot  # noqa: PLC0415 - as above
    from lamina.layer.tarstream import TarReader  # noqa: PLC0415 - as above
    from lamina.snapshot.look import ownership  # noqa: PLC0415 - as above

    with open(tar, "rb", buffering=0) as stream, DirectoryRoot(path, owner=ownership(keeps_owners)) as root:
        apply(TarReader(stream), root)


def measure_new(path: str, parent: str) -> list[int]:
    """Bytes and inodes that a tree has beyond those of the one that it was a snapshot of.

    A snapshot's files keep their numbers, so one with another time of change is taken for a new one, as a
    whole.
    """
    known = {status.st_ino: status.st_ctime_ns for status in _statuses(parent)}
    new = {
        (status.st_dev, status.st_ino): status.st_blocks * 512
        for status in _statuses(path) if known.get(status.st_ino) != status.st_ctime_ns
    }
    return [sum(new.values()), len(new)]


def _statuses(top: str) -> Iterator[os.stat_result]:
    """What is there and may be looked at."""
    waiting = [top]
    while waiting:
        try:
            names = list(os.scandir(waiting.pop()))
        except OSError:
            continue
        for name in names:
            with contextlib.suppress(OSError):
                status = name.stat(follow_symlinks=False)
                yield status
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(name.path)


# -- the end of subvolumes


def remove(path: str) -> None:
    """A directory, with subvolumes in it, and those in them; what is gone already is fine."""
    for name in os.listdir(path) if os.path.isdir(path) else ():
        if ioctl.is_subvolume(os.path.join(path, name)):
            remove_one(path, name)
    trees.empty_and_remove(Path(path))


def make_room(path: str) -> None:
    """Removes a subvolume, and waits a moment until what was only in there is free."""
    above, _, name = path.rpartition("/")
    with opened(above) as directory:
        number = _number(name, directory)
        remove_one(above, name)
        for _attempt in range(100):
            ioctl.sync(directory)
            with contextlib.suppress(PermissionError):
                if not ioctl.is_freed(directory, number):
                    time.sleep(0.05)
                    continue
            return


def remove_one(above: str, name: str) -> None:
    """A subvolume: destroyed, or emptied and removed, by whoever has the right to do the one or the other."""
    place = os.path.join(above, name)
    with opened(above) as directory:
        for destroy in (_destroy_all, ioctl.destroy):
            try:
                destroy(directory, name)
            except OSError as error:
                if error.errno not in _NOT_LIKE_THAT:
                    raise
            else:
                return
    _thaw(place)
    trees.empty_and_remove(Path(place))


def _destroy_all(directory: int, name: str) -> None:
    """The innermost first: one that holds another cannot go. Root's."""
    waiting = [_number(name, directory)]
    while waiting:
        inside = ioctl.subvolumes_below(directory, waiting[-1])
        if inside:
            waiting.extend(inside)
        else:
            ioctl.destroy_number(directory, waiting.pop())


def _number(name: str, directory: int) -> int:
    descriptor = os.open(name, _DIRECTORY, dir_fd=directory)
    try:
        return ioctl.number_of(descriptor)
    finally:
        os.close(descriptor)


def _thaw(path: str) -> None:
    """Everything in it can be removed then."""
    with opened(path) as subvolume:
        if ioctl.is_read_only(subvolume):
            ioctl.set_read_only(subvolume, False)
    for place in _inside(path):
        _thaw(place)


def _inside(path: str) -> list[str]:
    with opened(path) as subvolume:
        return [os.path.join(path, place) for place in ioctl.places_below(subvolume)]


# -- subvolumes that a container made


def _make_flat(path: str) -> None:
    """Subvolumes in it become directories: a snapshot of it would show empty ones in their places.

    The parts of a large file are shared, not copied.
    """
    for place in _inside(path):
        _make_flat(place)
        above = os.path.dirname(place)
        status = os.lstat(above)
        copy, old = (os.path.join(above, f".{word}-{os.urandom(8).hex()}") for word in ("flat", "old"))
        trees.copy_tree(place, Path(copy))
        os.rename(place, old)
        os.rename(copy, place)
        remove_one(above, os.path.basename(old))
        os.utime(above, ns=(status.st_atime_ns, status.st_mtime_ns))


_ACTS = {
    function.__name__: function
    for function in (create, snapshot, settle, apply_layer, measure_new, remove, make_room)
}
