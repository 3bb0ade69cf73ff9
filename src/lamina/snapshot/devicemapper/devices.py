"""Which thin devices are active: each has a node while it is, and the pool is active while one of them is.

The lock of the driver's directory is held while devices or the pool come and go. Nobody waits for the state
file with it: who has that file's write lock may be waiting for this one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from lamina.errors import Unavailable
from lamina.snapshot.devicemapper import ioctl
from lamina.snapshot.devicemapper.pool import SECTOR, Pool, PoolFailed, PoolSource
from lamina.snapshot.devicemapper.settings import Settings
from lamina.snapshot.directories import locked_home
from lamina.snapshot.snapshotter import OwnPlace, SnapshotInUse
from lamina.values import dataclass

# Who has been told of a node may need as long as this until it is mounted.
GRACE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A thin device: its identifier in the pool, its size in bytes, and the directory that stands for it."""

    id: str
    device: int
    size: int


class Devices:
    def __init__(self, home: Path, settings: Settings, is_begun: Path) -> None:
        """``is_begun`` is a file that exists once there is something of ours in the pool."""
        self.home = home
        self._settings = settings
        self._is_begun = is_begun

    @contextlib.contextmanager
    def pool(self) -> Iterator[Pool]:
        """The pool, active; nobody else changes anything until the block ends. Not to be nested."""
        with self._locked():
            yield self._source().active(may_begin=not self._is_begun.exists())

    def close(self) -> None:
        """Whoever leaves last takes a pool of ours away. Nobody is waited for: who is at it leaves later."""
        if self.home.exists():
            with contextlib.suppress(BlockingIOError), self._locked(fcntl.LOCK_NB):
                self._source().deactivate()

    def room(self) -> OwnPlace | None:
        """What is free for new blocks. Nothing is made for the answer."""
        return PoolSource(self._settings, self.home, self.token if self.home.exists() else "").room()

    def withdraw(self) -> int:
        """A pool in files of ours goes with them if nothing is in it; the bytes freed."""
        with self._locked():
            return self._source().withdraw()

    @contextlib.contextmanager
    def _locked(self, how: int = 0) -> Iterator[None]:
        with locked_home(self.home, fcntl.LOCK_EX | how):
            yield

    def _source(self) -> PoolSource:
        return PoolSource(self._settings, self.home, self.token)

    @property
    def token(self) -> str:
        """What the names of our devices begin with. A copy of a state directory has another one."""
        status = os.stat(self.home)
        place = f"{status.st_dev}:{status.st_ino}".encode()
        return f"lamina-{hashlib.sha256(place).hexdigest()[:12]}"

    def name(self, volume: Volume) -> str:
        return f"{self.token}-{volume.device}"

    def node(self, volume: Volume) -> Path:
        return ioctl.MAPPER / self.name(volume)

    def find(self, volume: Volume) -> ioctl.Device | None:
        """If it is active."""
        return ioctl.find(self.name(volume)) if self.home.exists() else None

    # -- each with the lock

    def activate(self, volume: Volume, *, is_read_only: bool = False) -> Path:
        """Its node. What is active as it should be is left alone; it is not idle for a minute from now."""
        with self.pool() as pool:
            node = self.activate_in(pool, volume, is_read_only=is_read_only)
            os.utime(node, follow_symlinks=False)
            return node

    def deactivate(self, volume: Volume) -> bool:
        """Whether it is inactive now: nobody else has it open."""
        with self._locked():
            return self.deactivate_here(volume)

    def deactivate_later(self, volume: Volume) -> None:
        """As soon as the last one closes it."""
        with self._locked(), contextlib.suppress(OSError):
            ioctl.remove(self.name(volume), is_deferred=True)

    def rest(self) -> None:
        """Deactivates what nobody has open, unless it was asked for a moment ago; wakes what sleeps.

        What is held of a pool's metadata is let go: who compared two devices died.
        """
        if not self.home.exists():
            return
        now = time.time()
        with self._locked():
            for node in ioctl.MAPPER.glob(f"{self.token}-*"):
                with contextlib.suppress(OSError):  # it is mounted, or the pool
                    device = ioctl.find(node.name)
                    if device is not None and device.is_suspended:
                        ioctl.resume(node.name)
                    elif now - os.lstat(node).st_mtime > GRACE_SECONDS:
                        ioctl.remove(node.name)
            with contextlib.suppress(OSError, Unavailable):
                self._source().forget_held()

    # -- for who has the lock already

    def activate_in(self, pool: Pool, volume: Volume, *, is_read_only: bool) -> Path:
        name = self.name(volume)
        device = ioctl.find(name)
        if device is not None and device.is_active and device.is_read_only != is_read_only:
            if not self.deactivate_here(volume):
                raise SnapshotInUse(f"{name}: open, and {'writable' if is_read_only else 'read-only'}")
            device = None
        if device is None:
            ioctl.create(name, f"LAMINA-{name}")
        if device is None or not device.is_active:
            self._load(pool, name, volume, is_read_only=is_read_only)
        # Whoever suspended it is dead: we have the lock. Its node is made again if it went.
        ioctl.resume(name)
        return ioctl.MAPPER / name

    def _load(self, pool: Pool, name: str, volume: Volume, *, is_read_only: bool) -> None:
        parameters = f"{pool.numbers} {volume.device}"
        try:
            ioctl.load(name, "thin", volume.size // SECTOR, parameters, is_read_only=is_read_only)
        except OSError as error:
            with contextlib.suppress(OSError):
                ioctl.remove(name)
            raise PoolFailed(
                f"{pool.name}: thin device {volume.device} cannot be activated: {error.strerror}; "
                f"the pool's mode is {pool.status().mode}"
            ) from None

    def deactivate_here(self, volume: Volume) -> bool:
        try:
            ioctl.remove(self.name(volume))
        except OSError as error:
            if error.errno == errno.EBUSY:
                return False
            if error.errno != errno.ENXIO:
                raise
        return True

    @contextlib.contextmanager
    def held(self, volume: Volume, *, is_read_only: bool) -> Iterator[Path]:
        """Its node. Nobody deactivates it until the block ends."""
        node, descriptor = self.hold(volume, is_read_only=is_read_only)
        try:
            yield node
        finally:
            os.close(descriptor)

    def hold(self, volume: Volume, *, is_read_only: bool) -> tuple[Path, int]:
        """Its node, and a descriptor: nobody deactivates it until that is closed."""
        with self.pool() as pool:
            node = self.activate_in(pool, volume, is_read_only=is_read_only)
            return node, os.open(node, os.O_RDONLY | os.O_CLOEXEC)

    @contextlib.contextmanager
    def looked_at(self, volume: Volume, *, is_read_only: bool = True) -> Iterator[tuple[Path, bool]]:
        """Its node, and whether others have it open; active for the time of the block if it was not."""
        with self.pool() as pool:
            device = self.find(volume)
            if device is not None and device.is_active:
                ioctl.resume(device.name)
                yield self.node(volume), device.open_count > 0
                return
            try:
                yield self.activate_in(pool, volume, is_read_only=is_read_only), False
            finally:
                self.deactivate_here(volume)

    def mapped(self, volume: Volume) -> int:
        """Bytes that an active one has of the pool; what it shares with others counts."""
        words = ioctl.status(self.name(volume))[1].split()
        return int(words[0]) * SECTOR if words and words[0].isdigit() else 0
