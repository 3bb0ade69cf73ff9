"""The datasets of one state directory: made, mounted where the driver has them, and taken away.

``snapshots/zfs/<id>/tree`` is where the dataset ``<id>`` is mounted. The directory above is locked by who
makes the dataset. Each dataset has the user property ``lamina:root`` with the id of the state directory
(``snapshots/zfs/root-id``): what bears another one, or none, is not ours and is never touched.

A FUSE filesystem ends with its last mount in any mount namespace, and until then its dataset is busy and
cannot be mounted a second time. Copies of a mount stay in every namespace that was made meanwhile, as each
running container has one. So the directory that a dataset is mounted on is made for the mount and removed
after it: the kernel then takes away what is mounted there in other namespaces (Linux 3.19).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from lamina.content.directorylock import locked
from lamina.content.durable import make_directory, sync_directory
from lamina.errors import LaminaError
from lamina.snapshot import syscalls
from lamina.snapshot.directories import Directories
from lamina.snapshot.hands import Hands
from lamina.snapshot.mountinfo import MountLine, mounts
from lamina.snapshot.snapshotter import DriverUnavailable
from lamina.snapshot.zfs import program
from lamina.snapshot.zfs.pending import wait_until_told

MARK = "lamina:root"
_TREE = "tree"
_IDENTITY = "root-id"
# Of a directory of ours, and of a snapshot that somebody compares.
_NAME = re.compile("[0-9a-f]{32}")
# What a dataset above ours may have switched off. Compression, checksums and the like are its owner's choice.
_PLAIN = {
    "canmount": "noauto", "atime": "off", "devices": "on", "exec": "on", "setuid": "on", "readonly": "off",
    "snapdir": "hidden",
}
# Of OpenZFS on Linux: attributes with the inode, not in a hidden directory each, and ACLs at all.
_OPENZFS = {"acltype": "posixacl", "xattr": "sa"}
# Somebody else's removal of many takes its time; what is busy for one sweep is there for the next.
_SWEEP_PATIENCE = 0.5


class Datasets:
    """``parent`` says in which dataset new ones are made."""

    def __init__(self, home: Path, hands: Hands, parent: Callable[[], str]) -> None:
        self.home = home
        self._hands = hands
        self._parent = parent
        self.directories = Directories(home, self._empty)

    def path(self, dataset: str) -> Path:
        return self.home / _id(dataset) / _TREE

    # -- making

    @contextlib.contextmanager
    def new(self, origin: str = "") -> Iterator[str]:
        """A new one, or a clone of the snapshot ``origin``, mounted; gone if the block fails.

        By the block's end it is in a row, or was discarded. It is writable, also where only a look at it is
        wanted: attributes of files that have none cannot be listed on what is read-only for zfs-fuse.
        """
        parent = self._parent()
        with self.directories.new() as directory:
            dataset = f"{parent}/{directory.name}"
            try:
                self._make(dataset, origin)
                yield dataset
            except BaseException:
                self._give_up(dataset)
                raise

    @contextlib.contextmanager
    def standing_still(self, dataset: str) -> Iterator[str]:
        """A snapshot for the time of the block, named like a directory that is locked meanwhile."""
        with self.directories.new() as directory:
            taken = f"{dataset}@{directory.name}"
            try:
                program.take_snapshot(taken)
                yield taken
            finally:
                if self._destroyed(taken):
                    self.directories.discard(directory)

    def _destroyed(self, snapshot: str) -> bool:
        """Or left to :meth:`sweep`."""
        try:
            program.destroy(snapshot, patience=_SWEEP_PATIENCE)
        except LaminaError:
            return False
        return True

    def _make(self, dataset: str, origin: str) -> None:
        path = self.path(dataset)
        path.mkdir(mode=0o700)
        properties = {
            **_PLAIN, **(_OPENZFS if program.is_in_kernel() else {}), MARK: self.identity(),
            "mountpoint": str(path),
        }
        if origin:
            program.clone(origin, dataset, properties)
            self._mount(dataset)
            return
        program.create(dataset, properties)
        self._mount(dataset)
        os.chmod(path, 0o755)  # noqa: S103 - as a root is that no layer lists; its parent is closed to others
        os.utime(path, ns=(0, 0))

    def identity(self) -> str:
        """Made once for a state directory, and durable before the first dataset bears it."""
        file = self.home / _IDENTITY
        with contextlib.suppress(FileNotFoundError):
            return file.read_text(encoding="ascii")
        make_directory(self.home)
        draft = self.home / f".{_IDENTITY}-{os.urandom(8).hex()}"
        with open(draft, "x", encoding="ascii") as out:
            out.write(os.urandom(16).hex())
            out.flush()
            os.fsync(out.fileno())
        try:
            with contextlib.suppress(FileExistsError):  # two may begin at once: the first one counts
                os.link(draft, file)
        finally:
            draft.unlink()
        sync_directory(self.home)
        return file.read_text(encoding="ascii")

    # -- mounting

    def mounted(self, dataset: str) -> Path:
        """Where it is mounted: before, or by this, as after a reboot or the death of a daemon."""
        if not self._is_alive(dataset):
            make_directory(self.home / _id(dataset))
            with locked(self.home / _id(dataset), fcntl.LOCK_EX, if_gone=True):
                self._mount(dataset)
        return self.path(dataset)

    def unmount(self, dataset: str) -> None:
        """Here and, since its directory goes, in every other mount namespace. May raise ``OSError``."""
        path = self.path(dataset)
        _unmount(path)
        with contextlib.suppress(OSError):
            os.rmdir(path)

    def shown_elsewhere(self, dataset: str) -> str:
        """Another place in this namespace where somebody has it mounted."""
        own = os.path.realpath(self.path(dataset))
        for line in mounts():
            if line.source == dataset and program.is_zfs(line.type) and line.target != own:
                return line.target
        return ""

    def _is_alive(self, dataset: str) -> bool:
        path = self.path(dataset)
        line = _mounted_on(path)
        return line is not None and line.source == dataset and not _is_dead(path)

    def _mount(self, dataset: str) -> None:
        if self._is_alive(dataset):
            return
        path = self.path(dataset)
        if _mounted_on(path) is not None:  # what a dead daemon left
            self.unmount(dataset)
        path.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(program.DatasetBusy):
            program.mount(dataset)
            if not self._is_alive(dataset):
                self._follow(dataset)
        if not self._is_alive(dataset):
            raise DriverUnavailable(
                f"storage driver zfs: {dataset} is mounted where this process does not see it: in another "
                "mount namespace, as the one that zfs-fuse was started in; start it, or lamina, in the same"
            )

    def _follow(self, dataset: str) -> None:
        """The state directory was moved, and the dataset is mounted where it was made."""
        elsewhere = self.shown_elsewhere(dataset)
        if elsewhere:
            _unmount(Path(elsewhere))
            program.set_property(dataset, "mountpoint", str(self.path(dataset)))
            program.mount(dataset)

    # -- taking away

    def discard(self, dataset: str, *, patience: float = program.PATIENCE) -> bool:
        """Gone with its directory; or, busy or without a zfs that answers, left to :meth:`sweep`."""
        try:
            self.unmount(dataset)
            program.destroy(dataset, patience=patience)
        except (LaminaError, OSError):
            return False
        self.directories.discard(self.home / _id(dataset))
        return True

    def _give_up(self, dataset: str) -> None:
        """Whatever prevents it: what was the matter in the first place is the better error."""
        with contextlib.suppress(LaminaError, OSError):
            self.discard(dataset)

    def leftovers(self, known: Callable[[], Collection[str]]) -> Iterator[tuple[Path, int]]:
        """Of datasets and directories that no row knows and nobody is making; with their bytes."""
        lost = []
        for dataset in self._lost(known):
            lost.append(_id(dataset))
            yield self.home / _id(dataset), _size(dataset)
        for snapshot in self._lost_snapshots(known):
            lost.append(_id(snapshot))
            yield self.home / _id(snapshot), _size(snapshot)
        yield from self.directories.leftovers(lambda: {*map(_id, known()), *lost})

    def sweep(self, known: Callable[[], Collection[str]]) -> int:
        """Clones before what they are clones of: as often as one more can go."""
        freed, is_progress = 0, True
        remaining: set[str] = set()
        while is_progress:
            is_progress, remaining = False, set()
            for dataset in self._lost(known):
                size = _size(dataset)
                if self.discard(dataset, patience=_SWEEP_PATIENCE):
                    freed, is_progress = freed + size, True
                else:
                    remaining.add(_id(dataset))
        for snapshot in self._lost_snapshots(known):
            size = _size(snapshot)
            if self._destroyed(snapshot):
                freed += size
            else:
                remaining.add(_id(snapshot))
        return freed + self.directories.sweep(lambda: {*map(_id, known()), *remaining})

    def _lost(self, known: Callable[[], Collection[str]]) -> Iterator[str]:
        """Each is locked while it is looked at."""
        rows = known()
        for dataset in self._ours(rows):
            if dataset in rows:
                continue
            with locked(self.home / _id(dataset), if_gone=True) as is_free:
                # A row may have come between the look and the lock.
                if is_free and dataset not in known():
                    yield dataset

    def _lost_snapshots(self, known: Callable[[], Collection[str]]) -> Iterator[str]:
        """Of comparisons that died; each is locked while it is looked at."""
        rows = known()
        ours = set(self._ours(rows))
        for parent in self._parents(rows) if ours else ():
            for snapshot in program.snapshots(parent):
                dataset, _, name = snapshot.partition("@")
                if dataset not in ours or not _NAME.fullmatch(name):
                    continue
                with locked(self.home / name, if_gone=True) as is_free:
                    if is_free:
                        yield snapshot

    def _ours(self, rows: Collection[str]) -> list[str]:
        """Last made first, as far as zfs lists them so; none where no dataset was ever made."""
        if not (self.home / _IDENTITY).exists():
            return []
        return [
            dataset for parent in self._parents(rows)
            for dataset in reversed(program.marked(parent, MARK, self.identity()))
        ]

    def _parents(self, rows: Collection[str]) -> list[str]:
        parents = {row.rpartition("/")[0] for row in rows}
        with contextlib.suppress(DriverUnavailable):  # it needs a name to make some, not to have some
            parents.add(self._parent())
        return sorted(parents)

    def _empty(self, doomed: Path) -> None:
        """A directory of ours, of which what is mounted in it is no part: while something is, it stays."""
        with contextlib.suppress(OSError):
            _unmount(doomed / _TREE)
        if _mounted_on(doomed / _TREE) is None:
            self._hands.empty(doomed)


def _id(name: str) -> str:
    """Of a dataset, or of a snapshot of ours: what its directory is called."""
    return name.rpartition("/")[2].rpartition("@")[2]


def _size(dataset: str) -> int:
    """Nothing, for one that is gone by now: another sweeps too, or a command outlived who began it."""
    try:
        return program.number(dataset, "used")
    except program.DatasetNotFound:
        return 0


def _mounted_on(path: Path) -> MountLine | None:
    """The topmost mount on a path, which may be one that nobody answers for any more."""
    wanted = os.path.join(os.path.realpath(path.parent), path.name)
    found = None
    for line in mounts():
        if line.target == wanted:
            found = line
    return found


def _unmount(path: Path) -> None:
    """All that is mounted on it. Raises ``OSError`` where somebody has a file open there for long.

    Never lazily, but what nobody answers for: the last file to be closed would end the filesystem, and of
    that file zfs-fuse would never be told (see ``pending``).
    """
    while (line := _mounted_on(path)) is not None:
        if _is_dead(path):
            syscalls.umount(str(path), syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
            continue
        for _attempt in program.patiently(program.PATIENCE):
            if line.type.startswith("fuse"):
                wait_until_told(line.device)
            try:
                syscalls.umount(str(path), syscalls.UMOUNT_NOFOLLOW)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                busy = error
            else:
                break
        else:
            raise busy


def _is_dead(path: Path) -> bool:
    """Attributes may be remembered for an hour; this is always asked of the daemon."""
    try:
        os.statvfs(path)
    except OSError as error:
        if error.errno in program.DEAD:
            return True
        raise
    return False
