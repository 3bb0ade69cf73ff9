"""Mounted images, remembered: so that a later command can unmount what this one mounted.

A mount outlives the process that made it, but not its mount namespace, nor the machine's next start. So a
record says where and in which namespace, and what it says is compared with the kernel's own list before
anybody believes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path

from lamina.content.durable import make_directory, write_file
from lamina.content.lease import boot_id
from lamina.errors import NotFound
from lamina.snapshot import syscalls
from lamina.snapshot.mountinfo import mounted_on
from lamina.snapshot.mounting import mount_all, unmount
from lamina.snapshot.snapshotter import Mount, SnapshotNotFound, Snapshotter
from lamina.values import asdict, dataclass, replace

# A stranger's image, shown on the host: its devices and set-uid programs stay powerless there.
HARMLESS = ("nodev", "nosuid")


class NotMounted(NotFound):
    pass


class Standing(StrEnum):
    """``ELSEWHERE``: in another mount namespace, where a process still lives."""

    MOUNTED = "mounted"
    ELSEWHERE = "elsewhere"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class MountRecord:
    """``label`` is the caller's, such as an image ID. ``target`` is where the files are.

    ``is_tree`` says that nothing is mounted: this machine does not let us, and the files are a copy.
    ``mark`` tells this mount from another one at the same place.
    """

    id: str
    label: str
    driver: str
    snapshot: str
    parent: str
    target: str
    created: float
    boot: str
    namespace: str
    mark: str = ""
    is_tree: bool = False
    owns_target: bool = False


class MountRecords:
    """One small file a mount, below the state directory."""

    def __init__(self, root: Path) -> None:
        self._directory = root / "snapshots" / "mounts"

    def walk(self) -> Iterator[MountRecord]:
        """Oldest first, whether they are still true or not."""
        found = []
        for path in self._directory.glob("*.json"):
            with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
                found.append(MountRecord(**json.loads(path.read_bytes())))
        return iter(sorted(found, key=lambda record: (record.created, record.id)))

    def standing(self, record: MountRecord) -> Standing:
        """What has become of it."""
        if record.is_tree:
            return Standing.MOUNTED if Path(record.target).is_dir() else Standing.GONE
        if record.boot != boot_id():
            return Standing.GONE
        if record.namespace != mount_namespace("self"):
            return Standing.ELSEWHERE if _is_alive(record.namespace) else Standing.GONE
        line = mounted_on(Path(record.target))
        return Standing.MOUNTED if line is not None and line.mark == record.mark else Standing.GONE

    def mount(
        self, driver: Snapshotter, parent: str, target: Path | None, *, label: str, now: float
    ) -> MountRecord:
        """A read-only view of a committed snapshot, mounted on ``target``, or on a directory of ours.

        Where this process may not mount at all, the answer's ``target`` is a copy that the caller may
        read, and spoil.
        """
        name = os.urandom(8).hex()
        record = MountRecord(
            id=name, label=label, driver=driver.name, snapshot=f"mount-{name}", parent=parent,
            target=str(target or self._directory / name), created=now, boot=boot_id(),
            namespace=mount_namespace("self"), owns_target=target is None,
        )
        make_directory(self._directory)
        with self._locked(fcntl.LOCK_SH):
            self._write(record)  # first: whatever dies after this is found by its record
            try:
                mounts = driver.view(record.snapshot, parent)
                return self._mounted(driver, record, mounts)
            except BaseException:
                self._forget(driver, record)
                raise

    def _mounted(self, driver: Snapshotter, record: MountRecord, mounts: Sequence[Mount]) -> MountRecord:
        if not driver.identity.may_mount:
            record = replace(record, is_tree=True, target=mounts[0].source, owns_target=False)
        else:
            target = Path(record.target)
            if record.owns_target:
                target.mkdir(mode=0o755)
            mount_all(mounts, target, also=HARMLESS)
            line = mounted_on(target)
            record = replace(record, mark=line.mark if line is not None else "")
        self._write(record)
        return record

    def unmount(self, driver: Snapshotter, record: MountRecord) -> None:
        """Raises ``MountBusy``; what is gone already is only forgotten. ``driver`` is the record's."""
        standing = self.standing(record)
        if standing is Standing.ELSEWHERE:
            raise NotMounted(
                f"{record.target}: mounted in another mount namespace, by a process that still runs there"
            )
        if standing is Standing.MOUNTED and not record.is_tree:
            unmount(Path(record.target))
        self._forget(driver, record)

    def forget_gone(self, driver: Snapshotter) -> int:
        """Records of a driver whose mounts are no more, as after the machine started again.

        None while somebody mounts: what is not mounted yet looks just like what is mounted no more.
        """
        count = 0
        with self._locked(fcntl.LOCK_EX) as is_ours:
            for record in self.walk() if is_ours else ():
                if record.driver == driver.name and self.standing(record) is Standing.GONE:
                    self._forget(driver, record)
                    count += 1
        return count

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[bool]:
        """Shared by those who mount, who wait; whether we have it, for who would have it alone."""
        try:
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield False
            return
        try:
            try:
                fcntl.flock(descriptor, kind | (fcntl.LOCK_NB if kind == fcntl.LOCK_EX else 0))
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def _forget(self, driver: Snapshotter, record: MountRecord) -> None:
        with contextlib.suppress(SnapshotNotFound):
            driver.remove(record.snapshot)
        if record.owns_target:
            with contextlib.suppress(OSError):
                os.rmdir(record.target)
        (self._directory / f"{record.id}.json").unlink(missing_ok=True)

    def _write(self, record: MountRecord) -> None:
        write_file(self._directory / f"{record.id}.json", json.dumps(asdict(record)).encode(), 0o600)


def mount_namespace(process: str) -> str:
    """Names the mount namespace of a process; empty for one that is gone, or that we may not look at.

    The number in the link's text is given to the next namespace as soon as this one is gone, which on a
    busy machine is at once; the kernel's own identity of a namespace never is (Linux 6.11).
    """
    try:
        descriptor = os.open(f"/proc/{process}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return f"mnt:{syscalls.mount_namespace_id(descriptor)}"
    except OSError:
        return f"mnt:[{os.fstat(descriptor).st_ino}]"
    finally:
        os.close(descriptor)


def _is_alive(namespace: str) -> bool:
    """Whether a process that we may look at is in a mount namespace."""
    return any(mount_namespace(path.split("/")[2]) == namespace for path in glob.glob("/proc/[0-9]*"))
