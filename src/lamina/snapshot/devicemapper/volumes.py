"""Thin devices of a state directory: made, copied, removed, and found again when whoever did so died.

``snapshots/devicemapper/<random>/device`` holds the identifier of a thin device from before the pool is asked
to make it until after it is deleted; who makes one holds the directory's lock. So what a dead process left
in the pool is found by a directory that no row knows.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lamina.content.durable import is_still_at, make_directory, sync_directory, write_file
from lamina.snapshot.devicemapper import filesystem, ioctl
from lamina.snapshot.devicemapper.devices import Devices, Volume
from lamina.snapshot.devicemapper.filesystem import Contents
from lamina.snapshot.devicemapper.pool import MAX_IDENTIFIER, DeviceExists, Pool, PoolFailed
from lamina.snapshot.devicemapper.settings import Settings
from lamina.snapshot.devicemapper.superblock import read_superblock
from lamina.snapshot.directories import Directories
from lamina.snapshot.hands import Hands
from lamina.snapshot.snapshotter import DriverUnavailable, SnapshotInUse, SnapshotNotFound
from lamina.values import asdict, dataclass

NAME = "devicemapper"
_RECORD, _BASE, _BASE_LOCK, _UUID = "device", "base.json", "base.lock", "uuid"
_LOWEST = 1 << 16  # others who use the pool count from 0 or 1
_TRIES = 16
_PAUSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The formatted device that all others are snapshots of."""

    volume: Volume
    filesystem: str
    contents: Contents


class Volumes:
    def __init__(
        self, root: Path, settings: Settings, hands: Hands, known: Callable[[], Sequence[Volume]]
    ) -> None:
        """``known`` are those that rows name now."""
        home = root / "snapshots" / NAME
        self._known = known
        self.devices = Devices(home, settings, home / _BASE)
        self._home = home
        self._settings = settings
        self._hands = hands
        self._directories = Directories(home, self._empty)

    # -- making

    @contextlib.contextmanager
    def copied(self, origin: Volume) -> Iterator[Volume]:
        """A snapshot of another one, which may be mounted. Gone again if the block fails, as before a row."""
        def make(pool: Pool, number: int) -> None:
            with self._at_rest(origin):
                _take(pool, number, origin)

        with self._directories.new() as directory:
            yield Volume(id=directory.name, device=self._made(directory, make), size=origin.size)

    def _made(self, directory: Path, make: Callable[[Pool, int], None]) -> int:
        for left in reversed(range(_TRIES)):
            number = _LOWEST + secrets.randbelow(MAX_IDENTIFIER - _LOWEST)
            write_file(directory / _RECORD, b"%d" % number)
            sync_directory(self._home)
            try:
                with self.devices.pool() as pool:
                    pool.insist_room(self._settings.min_free_space)
                    make(pool, number)
            except DeviceExists:
                (directory / _RECORD).unlink()  # it is another's
                if not left:
                    raise
            else:
                return number
        raise AssertionError("the last try returned, or raised")

    @contextlib.contextmanager
    def _at_rest(self, volume: Volume) -> Iterator[None]:
        """A filesystem that somebody writes to is whole, and its journal empty, while it is suspended."""
        device = self.devices.find(volume)
        if device is None or not device.is_active or device.is_read_only or not device.open_count:
            yield
            return
        ioctl.suspend(device.name)
        try:
            yield
        finally:
            ioctl.resume(device.name)

    # -- the base

    def base(self) -> Base:
        """Made by whoever needs it first; others wait meanwhile."""
        found = self._read_base()
        if found is None:
            with self._base_locked():
                found = self._read_base() or self._make_base()
        if found.filesystem != self._settings.filesystem:
            raise DriverUnavailable(
                f"storage driver devicemapper: this state directory's devices have {found.filesystem}; "
                f"dm.fs={self._settings.filesystem} takes a new one"
            )
        return found

    @contextlib.contextmanager
    def _base_locked(self) -> Iterator[None]:
        lock = self._home / _BASE_LOCK
        while True:
            make_directory(self._home)
            try:
                descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:  # who withdraws took the directory away
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if is_still_at(lock, descriptor):
                    yield
                    return
            finally:
                os.close(descriptor)

    def _make_base(self) -> Base:
        kind = self._settings.filesystem
        with self._directories.new() as directory:
            number = self._made(directory, Pool.create)
            volume = Volume(id=directory.name, device=number, size=self._settings.base_size)
            with self.devices.pool() as pool:
                reads_zeros = pool.reads_zeros
            node = self.devices.activate(volume)
            filesystem.make(
                kind, node, self._uuid(), self._settings.make_arguments, reads_zeros=reads_zeros
            )
            mount = filesystem.mount_of(kind, node, (), is_read_only=False)
            filesystem.empty(mount)
            contents = filesystem.measure(mount, is_open=False)
            self.insist_idle(volume)
            made = Base(volume=volume, filesystem=kind, contents=contents)
            write_file(self._home / _BASE, json.dumps(asdict(made)).encode())
        return made

    def _read_base(self) -> Base | None:
        try:
            document = json.loads((self._home / _BASE).read_bytes())
        except FileNotFoundError:
            return None
        volume, contents = Volume(**document["volume"]), Contents(**document["contents"])
        return Base(volume=volume, filesystem=document["filesystem"], contents=contents)

    # -- the end

    def insist_idle(self, volume: Volume) -> None:
        """Deactivates it; who only looked at it in passing has a moment to be done."""
        for pause in (*_PAUSES, 0.0):
            if self.devices.deactivate(volume):
                return
            time.sleep(pause)
        raise SnapshotInUse(f"{self.devices.name(volume)}: somebody has it open")

    def discard(self, volume: Volume) -> None:
        """Now, or else when somebody sweeps after it has become idle."""
        self._directories.discard(self._directories.path(volume.id))

    def _empty(self, path: Path) -> None:
        """The directory stays for a later sweep where its device cannot go now."""
        with contextlib.suppress(OSError, PoolFailed, DriverUnavailable):
            number = _recorded(path)
            kept = {volume.device for volume in self._kept()}
            if number is None or number in kept or self._deleted(number):
                self._hands.empty(path)

    def _kept(self) -> list[Volume]:
        base = self._read_base()
        return [*self._known(), *(() if base is None else (base.volume,))]

    def _deleted(self, number: int) -> bool:
        """A copy of a mount namespace may keep it busy, for a moment or for as long as that lives."""
        volume = Volume(id="", device=number, size=0)
        for pause in (*_PAUSES, 0.0):
            with self.devices.pool() as pool:
                if self.devices.deactivate_here(volume):
                    pool.delete(number)
                    return True
            time.sleep(pause)
        self.devices.deactivate_later(volume)
        return False

    def place(self, volume: Volume) -> Path:
        """The directory that its identifier is reserved in."""
        return self._directories.path(volume.id)

    def leftovers(self) -> Iterator[tuple[Path, int]]:
        return self._directories.leftovers(lambda: {volume.id for volume in self._kept()})

    def sweep(self) -> int:
        freed = 0
        for path, size in self.leftovers():
            number = _recorded(path)
            with contextlib.suppress(OSError, PoolFailed, DriverUnavailable):
                if number is not None and not self._is_surely_ours(number):
                    (path / _RECORD).unlink()
                self._empty(path)
            freed += 0 if path.exists() else size
        self.devices.rest()
        return freed

    def _is_surely_ours(self, number: int) -> bool:
        """In other people's pool the identifier may be theirs, if we died before we asked for it.

        All of ours have one UUID, and what is blank is no loss.
        """
        if not self._settings.pool:
            return True
        volume = Volume(id="", device=number, size=self._settings.base_size)
        with contextlib.suppress(PoolFailed), self.devices.looked_at(volume) as (node, _is_open):
            found = read_superblock(node)
            return self.devices.mapped(volume) == 0 if found is None else found.uuid == self._uuid()
        return True  # there is no such device

    def withdraw(self) -> int:
        """The base, where nothing is made of it, and a pool in files of ours. The bytes freed.

        Who reads of the base meanwhile finds it gone, and makes another one.
        """
        with self._base_locked():
            base = self._read_base()
            if self._known() or self._directories.names() - {"" if base is None else base.volume.id}:
                return 0
            if base is not None:
                (self._home / _BASE).unlink()
                sync_directory(self._home)
                self.discard(base.volume)
            freed = self.devices.withdraw()
            for name in () if self._directories.names() else (_UUID, _BASE_LOCK):
                (self._home / name).unlink(missing_ok=True)
        return freed

    def _uuid(self) -> str:
        """Of the filesystem that is on the base, and so on every device of this state directory."""
        place = self._home / _UUID
        with contextlib.suppress(FileNotFoundError):
            return place.read_text()
        made = str(uuid.uuid4())
        write_file(place, made.encode())
        return made


def _take(pool: Pool, number: int, origin: Volume) -> None:
    try:
        pool.snapshot(number, origin.device)
    except OSError as error:
        if error.errno == errno.ENODATA:
            raise SnapshotNotFound(f"{pool.name}: thin device {origin.device} is not in it") from None
        raise


def _recorded(path: Path) -> int | None:
    try:
        return int((path / _RECORD).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
