"""A thin pool: one that somebody made (``dm.thinpooldev``), or one of our own over devices or files.

A pool of ours is active while one of its devices is: who comes first makes it, who leaves last takes it away,
and with it the loop devices under it. The caller of everything here holds the state directory's lock.
Blocks are zeroed before they are first used, so that nothing of a removed container shows in another one,
and a pool without room says so at once instead of keeping writers waiting.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.content.durable import sync_directory, write_file
from lamina.content.lease import boot_id
from lamina.errors import Conflict, Unavailable
from lamina.snapshot.devicemapper import ioctl
from lamina.snapshot.snapshotter import DriverUnavailable, OwnPlace
from lamina.values import dataclass, replace

if TYPE_CHECKING:
    from lamina.snapshot.devicemapper.settings import Settings

SECTOR = 512
# Identifiers have 24 bits. Others who use the pool count from 0 or 1.
MAX_IDENTIFIER = (1 << 24) - 1
_DATA, _METADATA, _CHECKED = "data", "metadata", "checked"
_BEGINNING = 4096  # where the pool's superblock is, and most filesystems' too


class PoolFailed(Unavailable):
    """The pool, or a device of it, does not do what it must. The message says what to do."""


class PoolFull(Unavailable):
    pass


class DeviceExists(Conflict):
    """Somebody has that identifier already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus:
    """Counts of blocks; a file has as many as there is room for.

    ``mode`` is ``rw``, ``ro``, ``out_of_data_space`` or ``fail``. ``is_held``: one state of its
    metadata is kept for somebody.
    """

    mode: str
    used: int = 0
    total: int = 1
    used_metadata: int = 0
    total_metadata: int = 1
    is_queueing: bool = False
    needs_check: bool = False
    is_held: bool = False


class Pool:
    """An active one."""

    def __init__(self, name: str, files: Path | None = None, *, is_ours: bool = False) -> None:
        """``files`` is where its data grows, if it is in a file."""
        kind, parameters = ioctl.table(name)
        if kind != "thin-pool":
            raise DriverUnavailable(
                f"storage driver devicemapper: {name} is not a thin pool but {kind or 'without a table'}; "
                "LVM's own name for the pool behind a logical volume ends in -tpool"
            )
        words = parameters.split()
        self.name = name
        self._is_ours = is_ours
        self._metadata = words[0]
        self._files = files
        self.block_size = int(words[2]) * SECTOR
        self.reads_zeros = "skip_block_zeroing" not in words[5:]

    @property
    def numbers(self) -> str:
        device = ioctl.find(self.name)
        if device is None:
            raise PoolFailed(f"{self.name}: the thin pool is gone; activate it again")
        return device.numbers

    def status(self) -> PoolStatus:
        found = read_status(ioctl.status(self.name)[1])
        if self._files is None:
            return found
        space = os.statvfs(self._files)
        room = space.f_bavail * space.f_frsize // self.block_size
        return replace(found, total=min(found.total, found.used + room))

    def create(self, identifier: int) -> None:
        """Empty. Durable, as all that follows is, when this returns."""
        self._tell(f"create_thin {identifier}")

    def snapshot(self, identifier: int, origin: int) -> None:
        """The caller has suspended the origin if anybody writes to it."""
        self._tell(f"create_snap {identifier} {origin}")

    def delete(self, identifier: int) -> None:
        """What is not there is fine; one that is active is EBUSY."""
        try:
            self._tell(f"delete {identifier}")
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise

    @contextmanager
    def metadata_held(self) -> Iterator[Path]:
        """The device of its metadata, of which programs can read what it is now until the block ends.

        A pool holds one such state at a time. In a pool of ours one that is held is of a dead process, since
        we have the lock; another's stays, and is :class:`PoolFailed`.
        """
        if self.status().is_held:
            if not self._is_ours:
                raise PoolFailed(f"{self.name}: somebody else looks at its metadata; try again later")
            self.release()
        self._tell("reserve_metadata_snap")
        try:
            name = os.path.basename(os.path.realpath(f"/sys/dev/block/{self._metadata}"))
            yield Path("/dev") / name.replace("!", "/")
        finally:
            self.release()

    def release(self) -> None:
        self._tell("release_metadata_snap")

    def _tell(self, text: str) -> None:
        try:
            ioctl.message(self.name, text)
        except OSError as error:
            if error.errno == errno.EEXIST:
                raise DeviceExists(f"{self.name}: {text}: that identifier is taken") from None
            if error.errno == errno.ENOSPC:
                raise PoolFull(f"{self.name}: no room for metadata; remove something") from None
            if error.errno in (errno.EPERM, errno.EIO, errno.EINVAL, errno.EOPNOTSUPP):
                raise PoolFailed(
                    f"{self.name}: {text}: {error.strerror}; the pool is in mode {self.status().mode}"
                ) from None
            raise

    def insist_room(self, percent: int) -> None:
        """Raises :class:`PoolFull`, or :class:`PoolFailed` for a pool that takes no writes."""
        found = self.status()
        if found.mode in ("ro", "fail"):
            raise PoolFailed(
                f"{self.name}: the thin pool is {'read-only' if found.mode == 'ro' else 'broken'} since its "
                "metadata could not be written; deactivate it and see thin_check(8) and thin_repair(8)"
            )
        for what, used, total in (
            ("data", found.used, found.total), ("metadata", found.used_metadata, found.total_metadata),
        ):
            if (total - used) * 100 < total * percent or used >= total:
                raise PoolFull(
                    f"{self.name}: {used * 100 // total}% of the thin pool's {what} space is used, and "
                    f"dm.min_free_space={percent}% must stay free; remove images or containers, or enlarge it"
                )


def _behind(name: str) -> str:
    """The pool itself: once LVM has volumes of its own in one, that name is of a linear device over it."""
    kind, parameters = ioctl.table(name)
    if kind == "linear":
        major, _, minor = parameters.split()[0].partition(":")
        device = ioctl.find_numbered(os.makedev(int(major), int(minor)))
        if device is not None and ioctl.table(device.name)[0] == "thin-pool":
            return device.name
    return name


def read_status(text: str) -> PoolStatus:
    words = text.split()
    if len(words) < 6:
        return PoolStatus(mode="fail")  # "Fail" and "Error" are all that such a pool says
    (used_metadata, total_metadata), (used, total) = (map(int, word.split("/")) for word in words[1:3])
    return PoolStatus(
        mode=words[4], used=used, total=total, used_metadata=used_metadata, total_metadata=total_metadata,
        is_queueing="queue_if_no_space" in words, needs_check="needs_check" in words,
        is_held=words[3] != "-",
    )


# -- where pools come from


class PoolSource:
    """What the settings say of the pool; ``home`` is the driver's directory."""

    def __init__(self, settings: Settings, home: Path, token: str) -> None:
        self._settings = settings
        self._home = home
        self._name = f"{token}-pool"

    @property
    def is_ours(self) -> bool:
        return not self._settings.pool

    def active(self, *, may_begin: bool) -> Pool:
        """Made active if it is ours. ``may_begin``: nothing of ours is in it yet, so it may be a new one."""
        if not self.is_ours:
            return Pool(self._existing())
        device = ioctl.find(self._name)
        if device is None or not device.is_active:
            self._activate(may_begin=may_begin)
        elif device.is_suspended:  # who resized it died
            ioctl.resume(self._name)
        return self._opened()

    def _opened(self) -> Pool:
        return Pool(self._name, None if self._settings.data else self._home, is_ours=True)

    def forget_held(self) -> None:
        """What a dead process held of the metadata of a pool of ours that is active."""
        if self.is_ours and ioctl.find(self._name) is not None:
            pool = self._opened()
            if pool.status().is_held:
                pool.release()

    def deactivate(self) -> None:
        """Unless one of its devices is active."""
        if self.is_ours:
            with suppress(OSError):
                ioctl.remove(self._name)

    def room(self) -> OwnPlace | None:
        """As far as it can be told of what is not active; what must stay free is not free."""
        percent = self._settings.min_free_space
        found = self._active_now()
        if found is not None:
            status = found.status()
            blocks = status.total - status.used - status.total * percent // 100
            return OwnPlace(name=found.name, free=max(0, blocks) * found.block_size, is_plain=True)
        if self._settings.data:
            return None
        data, space = self._home / _DATA, os.statvfs(_nearest(self._home))
        used = data.stat().st_blocks * 512 if data.exists() else 0
        size = max(self._settings.loop_data_size, data.stat().st_size if data.exists() else 0)
        free = min(size - used, space.f_bfree * space.f_frsize) - size * percent // 100
        return OwnPlace(name=str(data), free=max(0, free), is_plain=True)

    def _active_now(self) -> Pool | None:
        if not self.is_ours:
            return Pool(self._existing())
        device = ioctl.find(self._name)
        if device is None or not device.is_active:
            return None
        return Pool(self._name, None if self._settings.data else self._home)

    def withdraw(self) -> int:
        """Files that we made a pool of, and the pool; unless something is in it, or has it open."""
        if not self.is_ours or self._settings.data or any(path.is_dir() for path in self._home.iterdir()):
            return 0
        self.deactivate()
        if ioctl.find(self._name) is not None:
            return 0
        freed = 0
        for path in (self._home / name for name in (_DATA, _METADATA, _CHECKED)):
            with suppress(FileNotFoundError):
                freed += path.stat().st_blocks * 512
                path.unlink()
        return freed

    def _existing(self) -> str:
        path = self._settings.pool
        path = path if "/" in path else f"{ioctl.MAPPER}/{path}"
        try:
            device = ioctl.find_numbered(os.stat(path).st_rdev)
        except FileNotFoundError:
            device = None
        if device is None:
            raise DriverUnavailable(f"storage driver devicemapper: {path}: there is no such thin pool")
        return _behind(device.name)

    def _activate(self, *, may_begin: bool) -> None:
        with self._devices() as (data, metadata):
            if self._settings.data:
                self._claim(data, metadata, may_begin=may_begin)
            if _is_blank(metadata):
                if not may_begin:
                    raise PoolFailed(f"{metadata}: the thin pool's metadata is gone: it is all zeros")
            else:
                self._check(metadata)
            sectors = _size_of(data) // self._settings.block_size * self._settings.block_size // SECTOR
            block = self._settings.block_size // SECTOR
            with suppress(FileExistsError):
                _create(self._name)
            try:
                ioctl.load(
                    self._name, "thin-pool", sectors, f"{metadata} {data} {block} 0 1 error_if_no_space"
                )
                ioctl.resume(self._name)
            except OSError as error:
                with suppress(OSError):
                    ioctl.remove(self._name)
                raise PoolFailed(
                    f"{self._name}: the kernel refuses {data} and {metadata} as a thin pool: {error.strerror}"
                ) from None

    @contextmanager
    def _devices(self) -> Iterator[tuple[str, str]]:
        with ExitStack() as stack:
            if self._settings.data:
                yield self._settings.data, self._settings.metadata
                return
            from lamina.snapshot.devicemapper import loop  # noqa: PLC0415 - for who has no devices

            sizes = {_DATA: self._settings.loop_data_size, _METADATA: self._settings.loop_metadata_size}
            data, metadata = (
                stack.enter_context(loop.attached(_file(self._home / name, size)))
                for name, size in sizes.items()
            )
            yield data, metadata

    def _claim(self, *devices: str, may_begin: bool) -> None:
        """What is not known to be ours is made a pool only if it is blank."""
        mark = self._home / "claimed"
        claimed = mark.read_text().split("\n") if mark.exists() else []
        if claimed == list(devices):
            return
        if claimed and not may_begin:
            raise DriverUnavailable(
                f"storage driver devicemapper: the pool is on {' and '.join(claimed)}, and not on "
                f"{' and '.join(devices)}; if those are new names of the same, write them into {mark}"
            )
        for device in devices:
            if not _is_blank(device):
                raise DriverUnavailable(
                    f"storage driver devicemapper: {device} holds something already; if that may go, "
                    f"`dd if=/dev/zero of={device} bs=4096 count=1` and try again"
                )
        write_file(mark, "\n".join(devices).encode())

    def _check(self, metadata: str) -> None:
        """Once after each boot, as LVM does, where the program is installed."""
        mark = self._home / _CHECKED
        with suppress(FileNotFoundError):
            if mark.read_text() == boot_id():
                return
        if shutil.which("thin_check") is not None:
            done = subprocess.run(
                ["thin_check", "-q", "--clear-needs-check-flag", metadata], capture_output=True, check=False
            )
            if done.returncode:
                raise PoolFailed(f"{metadata}: thin_check finds the thin pool's metadata damaged; "
                                 "thin_repair(8) may save it")
        write_file(mark, boot_id().encode())


def _nearest(path: Path) -> Path:
    """That, or the directory above it that is there."""
    return next(each for each in (path, *path.parents) if each.exists())


def _create(name: str) -> None:
    try:
        ioctl.create(name, f"LAMINA-{name}")
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise FileExistsError(name) from None
        raise


def _file(path: Path, size: int) -> Path:
    """Sparse: it takes what is used of it. An older one keeps its size unless it is to grow."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size < size:
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
            sync_directory(path.parent)
    finally:
        os.close(descriptor)
    return path


def _size_of(device: str) -> int:
    with open(device, "rb", buffering=0) as file:
        return file.seek(0, os.SEEK_END)


def _is_blank(device: str) -> bool:
    with open(device, "rb", buffering=0) as file:
        return not file.read(_BEGINNING).strip(b"\0")
