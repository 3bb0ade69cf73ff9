"""The driver devicemapper: a thin device for each prefix of a stack of layers, and for each container.

Every device is a snapshot of one that was formatted once, so a container shares its image's blocks until it
writes to them. What is committed is at rest: its filesystem was unmounted, or frozen, when it was made, and
nobody opens it for writing again. A view is that very device, read-only for the kernel too.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lamina.content.state import State
from lamina.errors import InvalidInput
from lamina.oci.digest import Digest
from lamina.snapshot.changes import Difference
from lamina.snapshot.devicemapper import filesystem, ioctl
from lamina.snapshot.devicemapper.devices import Volume
from lamina.snapshot.devicemapper.filesystem import Contents
from lamina.snapshot.devicemapper.pool import SECTOR
from lamina.snapshot.devicemapper.settings import OPTIONS, Settings, read_settings
from lamina.snapshot.devicemapper.superblock import read_superblock
from lamina.snapshot.devicemapper.volumes import NAME, Volumes
from lamina.snapshot.hands import Hands
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.metadata import Row, SnapshotTable
from lamina.snapshot.mountinfo import mounts
from lamina.snapshot.namespace import Identity
from lamina.snapshot.snapshotter import (
    Form,
    Mount,
    OwnPlace,
    Reception,
    SnapshotInfo,
    SnapshotInUse,
    SnapshotKind,
    SnapshotNotFound,
    Snapshotter,
    Usage,
)
from lamina.snapshot.stacking import abandoned_sizes, commit_by_snapshot, sweep_abandoned
from lamina.snapshot.touched import Touched
from lamina.values import asdict, replace

__all__ = ["OPTIONS", "DeviceSnapshotter", "open_driver", "promise", "try_driver"]

_COMMITTED, _ACTIVE, _VIEW = SnapshotKind.COMMITTED, SnapshotKind.ACTIVE, SnapshotKind.VIEW
_TARGETS = ("thin-pool", "thin")


def open_driver(
    state: State, layers: LayerStore, hands: Hands, options: Mapping[str, str]
) -> DeviceSnapshotter:
    return DeviceSnapshotter(state, layers, hands, read_settings(options))


def try_driver(_root: Path, hands: Hands, options: Mapping[str, str]) -> str:
    """Looks for what it takes, and makes nothing."""
    if not (hands.identity.is_entered and hands.identity.is_initial and hands.identity.may_mount):
        return "needs root: the kernel lets nobody else make block devices"
    settings = read_settings(options)
    if not (settings.pool or settings.data or settings.has_loop):
        return (
            "needs a thin pool: dm.thinpooldev=/dev/mapper/NAME, or dm.datadev and dm.metadatadev, "
            "or dm.allow_loop=true for files to try it out"
        )
    missing = filesystem.program(settings.filesystem)
    if shutil.which(missing) is None:
        return f"needs {missing}"
    try:
        lacking = [name for name in _TARGETS if not ioctl.knows_target(name)]
    except OSError as error:
        return f"needs device-mapper in the kernel (modprobe dm_mod): {error.strerror}"
    if lacking:
        return f"needs device-mapper's target {lacking[0]} in the kernel (modprobe dm_thin_pool)"
    return ""


def promise(_hands: Hands) -> str:
    return "thin devices with a filesystem each, from a pool of blocks; a pool in files is slow, for trials"


class DeviceSnapshotter:
    """See the protocol :class:`~lamina.snapshot.snapshotter.Snapshotter`."""

    name = NAME

    def __init__(self, state: State, layers: LayerStore, hands: Hands, settings: Settings) -> None:
        self._state = state
        self._layers = layers
        self._hands = hands
        self._settings = settings
        self._table = SnapshotTable(state, NAME)
        self._volumes = Volumes(layers.root, settings, hands, self._known)
        self._devices = self._volumes.devices
        self._held: dict[str, int] = {}
        self.reception = Reception(form=Form.TAR)

    @property
    def identity(self) -> Identity:
        return self._hands.identity

    @property
    def hands(self) -> Hands:
        return self._hands

    # -- making snapshots

    def prepare(self, key: str, parent: str = "") -> Sequence[Mount]:
        self._table.insist_absent(key)
        with self.prepare_ahead(parent) as finish:
            finish(key)
        return self.mounts(key)

    @contextlib.contextmanager
    def prepare_ahead(self, parent: str) -> Iterator[Callable[[str], None]]:
        """See :class:`~lamina.snapshot.snapshotter.PreparesAhead`."""
        origin = self._committed(parent)
        with self._copied(parent, origin) as volume:
            def finish(key: str) -> None:
                # Another one of the same name may have come.
                if self._committed(parent) != origin:
                    raise SnapshotNotFound(f"{parent}: removed meanwhile")
                self._table.add(key, _ACTIVE, parent=parent, data=_data(volume))

            yield finish

    @contextlib.contextmanager
    def _copied(self, name: str, origin: Volume) -> Iterator[Volume]:
        with contextlib.ExitStack() as stack:
            try:
                volume = stack.enter_context(self._volumes.copied(origin))
            except SnapshotNotFound:
                if self._committed(name) == origin:
                    raise
                raise SnapshotNotFound(f"{name}: removed meanwhile") from None
            yield volume

    def view(self, key: str, parent: str = "") -> Sequence[Mount]:
        self._table.add(key, _VIEW, parent=parent)
        try:
            return self.mounts(key)
        except BaseException:
            self._table.remove(key)
            raise

    def mounts(self, key: str) -> Sequence[Mount]:
        """Its device is active when this returns, and for a minute at least; a view's until we close."""
        row = self._table.get(key, _ACTIVE, _VIEW)
        if row.info.kind is _ACTIVE:
            return (self._writable(_volume(row)),)
        node, descriptor = self._devices.hold(self._committed(row.info.parent), is_read_only=True)
        self._release(key)
        self._held[key] = descriptor
        return (self._mount_of(node, is_read_only=True),)

    def _release(self, key: str) -> None:
        """Many views have one device: whoever was told of it keeps others from taking it away."""
        descriptor = self._held.pop(key, -1)
        if descriptor >= 0:
            os.close(descriptor)

    def _writable(self, volume: Volume) -> Mount:
        """Where nobody has it open, what errors left behind is mended first."""
        mount = self._mount_of(self._devices.activate(volume))
        if mount.type == "ext4" and not self._is_open(volume):
            found = read_superblock(Path(mount.source))
            if found is not None and found.has_errors:
                with self._devices.pool() as pool:
                    pool.insist_room(0)  # what the journal holds may need some
                filesystem.mend(mount)
        return mount

    def _mount_of(self, node: Path, *, is_read_only: bool = False) -> Mount:
        kind = self._volumes.base().filesystem
        return filesystem.mount_of(kind, node, self._settings.mount_options, is_read_only=is_read_only)

    def commit(self, name: str, key: str, *, diff_id: Digest | None = None) -> None:
        row = self._table.get(key, _ACTIVE)
        self._table.insist_absent(name)
        self._insist_unmounted(row)
        volume = _volume(row)
        with contextlib.ExitStack() as stack:
            if self._is_open(volume):  # in a copy of our mount namespace: whoever has it may write on
                volume = stack.enter_context(self._volumes.copied(volume))
            contents = self._put_to_rest(volume)
            self._table.commit(name, key, {**_data(volume), **asdict(contents)}, diff_id)
        if volume.id != row.data["id"]:
            self._volumes.discard(_volume(row))

    def _put_to_rest(self, volume: Volume) -> Contents:
        """Its filesystem was unmounted; all of it is durable, and its device inactive, when this returns."""
        mount = self._mount_of(self._devices.activate(volume))
        filesystem.insist_whole(mount)
        contents = filesystem.measure(mount, is_open=False)
        with open(mount.source, "rb") as device:
            os.fsync(device.fileno())
        self._volumes.insist_idle(volume)
        return contents

    def commit_layers(self, diff_ids: Sequence[Digest]) -> str:
        from lamina.snapshot.devicemapper.witness import Witness, explained  # noqa: PLC0415 - unpacking alone

        with explained():
            return commit_by_snapshot(cast("Snapshotter", Witness(self)), self._layers, diff_ids)

    # -- what is there

    def stat(self, key: str) -> SnapshotInfo:
        return self._table.get(key).info

    def usage(self, key: str) -> Usage:
        """By the account of the filesystem, over its parent's: what was written anew in place is no more."""
        row = self._table.get(key)
        if row.info.kind is _VIEW:
            return Usage(0, 0)
        ours, below = self._contents(row), self._contents_of(row.info.parent)
        return Usage(max(0, ours.used - below.used), max(0, ours.inodes - below.inodes))

    def _contents_of(self, name: str) -> Contents:
        return self._contents(self._table.get(name, _COMMITTED)) if name else self._volumes.base().contents

    def _contents(self, row: Row) -> Contents:
        if "used" in row.data:
            return Contents(used=row.data["used"], inodes=row.data["inodes"])
        with self._devices.looked_at(_volume(row), is_read_only=False) as (node, is_open):
            return filesystem.measure(self._mount_of(node), is_open=is_open)

    def walk(self) -> Iterator[SnapshotInfo]:
        return (row.info for row in self._table.walk())

    @property
    def caution(self) -> str:
        """See :class:`~lamina.snapshot.snapshotter.TellsProblems`."""
        if not self._settings.has_loop:
            return ""
        return (
            "devicemapper on files (dm.allow_loop): slow, and a power cut can lose what was said to be "
            "written; for more than trials, give it devices (dm.thinpooldev)"
        )

    def problems(self) -> Iterator[str]:
        """Sentences on what is wrong with the pool and the devices in it."""
        from lamina.snapshot.devicemapper.problems import find_problems  # noqa: PLC0415 - for `check`

        return find_problems(self._devices, self._settings, [
            (row.info.key, _volume(row)) for row in self._table.walk() if "device" in row.data
        ])

    # -- what an active snapshot changed

    @contextlib.contextmanager
    def holding_difference(self, key: str) -> Iterator[Difference]:
        """Both devices stay active until the block ends.

        What is mounted is looked at as it is when this begins, in a copy, if the pool has room for one.
        """
        row = self._table.get(key, _ACTIVE)
        parent = row.info.parent
        with contextlib.ExitStack() as stack:
            if not parent:
                yield Difference(upper=(self._held_writable(_volume(row), stack),))
                return
            stack.callback(self._let_go, parent)
            below = self._committed(parent)
            node = stack.enter_context(self._devices.held(below, is_read_only=True))
            lower = self._mount_of(node, is_read_only=True)
            upper, touched = self._compared(lower, below, _volume(row), stack)
            yield Difference(upper=(upper,), lower=(lower,), touched=touched)

    def _compared(
        self, lower: Mount, below: Volume, volume: Volume, stack: contextlib.ExitStack
    ) -> tuple[Mount, Touched | None]:
        """Where the upper side is, and where it may differ; everywhere, where the pool cannot say."""
        from lamina.snapshot.devicemapper.comparing import FAILURES, touched_between  # noqa: PLC0415 - diff alone

        try:
            with contextlib.ExitStack() as trial:
                still = volume
                if self._is_open(volume):
                    still = trial.enter_context(self._volumes.copied(volume))
                    trial.callback(self._volumes.discard, still)
                upper = self._held_writable(still, trial)
                touched = touched_between(self._devices, (lower, below), (upper, still))
                stack.enter_context(trial.pop_all())
        except FAILURES:
            return self._held_writable(volume, stack), None
        return upper, touched

    def _held_writable(self, volume: Volume, stack: contextlib.ExitStack) -> Mount:
        self._writable(volume)
        node = stack.enter_context(self._devices.held(volume, is_read_only=False))
        mount = self._mount_of(node)
        return replace(mount, options=(*mount.options, "noatime"))  # to look at it shall not write into it

    # -- sizes

    def limit(self, key: str, size: int) -> None:
        """See :class:`~lamina.snapshot.snapshotter.LimitsSize`."""
        row = self._table.get(key, _ACTIVE)
        volume = _volume(row)
        if size < volume.size:
            raise InvalidInput(
                f"size={size}: a container's size cannot be smaller than its image's, {volume.size} bytes "
                "(dm.basesize when the image came here)"
            )
        self._insist_unmounted(row)
        self._volumes.insist_idle(volume)
        grown = Volume(id=volume.id, device=volume.device, size=size // SECTOR * SECTOR)
        with self._state.transaction() as connection:
            connection.execute(
                "UPDATE snapshots SET data = ? WHERE driver = ? AND key = ?",
                (json.dumps({**row.data, **_data(grown)}), NAME, key),
            )
        filesystem.grow(self._writable(grown), grown.size)

    def room(self) -> OwnPlace | None:
        """See :class:`~lamina.snapshot.snapshotter.KeepsElsewhere`: without what must stay free."""
        return self._devices.room()

    # -- the end of snapshots

    def remove(self, key: str) -> None:
        row = self._table.get(key)
        self._insist_unmounted(row)
        row = self._table.remove(key)
        if "device" in row.data:
            self._volumes.discard(_volume(row))
        else:
            self._release(key)
            self._let_go(row.info.parent)

    def _let_go(self, parent: str) -> None:
        """What is committed is active for views, and for the time of a comparison."""
        with contextlib.suppress(SnapshotNotFound):
            self._devices.deactivate(self._committed(parent))

    def leftovers(self) -> Iterator[tuple[Path, int]]:
        for key, size in abandoned_sizes(self):
            yield self._volumes.place(_volume(self._table.get(key))), size
        yield from self._volumes.leftovers()

    def sweep(self) -> int:
        freed = sweep_abandoned(self)
        with self._state.transaction():  # rows of a snapshot that somebody is making show once it is over
            return freed + self._volumes.sweep()

    def withdraw(self) -> int:
        """See :class:`~lamina.snapshot.snapshotter.Withdraws`."""
        return self._volumes.withdraw()

    def _known(self) -> list[Volume]:
        return [_volume(row) for row in self._table.walk() if "device" in row.data]

    def close(self) -> None:
        for key in list(self._held):
            self._release(key)
        self._devices.close()
        self._hands.close()

    # -- devices

    def _committed(self, name: str) -> Volume:
        if not name:
            return self._volumes.base().volume
        return _volume(self._table.get(name, _COMMITTED))

    def _is_open(self, volume: Volume) -> bool:
        device = self._devices.find(volume)
        return device is not None and device.open_count > 0

    def _insist_unmounted(self, row: Row) -> None:
        """In this mount namespace; what others hold on to is dealt with where it matters."""
        if "device" not in row.data:
            return
        device = self._devices.find(_volume(row))
        if device is None or not device.open_count:
            return
        for line in mounts():
            if line.device == device.numbers:
                raise SnapshotInUse(f"{row.info.key}: mounted on {line.target}; unmount it first")


def _data(volume: Volume) -> dict[str, Any]:
    return {"id": volume.id, "device": volume.device, "size": volume.size}


def _volume(row: Row) -> Volume:
    return Volume(**{name: row.data[name] for name in ("id", "device", "size")})
