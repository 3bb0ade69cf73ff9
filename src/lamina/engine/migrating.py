"""Another storage driver for what is here: layers in its form, containers with what they wrote.

1. Every stack that an old driver has made mountable is made so by the new one. Nothing counts on it yet:
   after a failure it is taken back.
2. ``driver.json`` names the new driver, so that what others make from now on is made with it.
3. Containers move one by one, each under its own lock: a copy of its layer is made durable in the new driver,
   one transaction says that this is the container's, and the old one goes. So it is at every moment wholly
   in one driver, and what a killed migration leaves (see ``misplaced``) is never what counts.
4. The old drivers' snapshots go, and the forms of layers that only they asked for.

What was done stays done, so a second run finishes what a first one began. The build cache needs nothing: it
keeps blobs and indexes, and what a step is mounted from is made when it is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.content.lease import Lease, leased_content
from lamina.engine import committing, containers, images, misplaced, mounts
from lamina.engine.bothdrivers import Drivers
from lamina.engine.building import snapshots
from lamina.engine.creating import size_limit
from lamina.engine.drivers import is_asked_for, origin, snapshot_counts
from lamina.engine.leaving import leave, left, migrating_alone
from lamina.engine.moving import has_layer, move_containers, to_move, try_limits
from lamina.engine.refetching import submit
from lamina.engine.room import Room, doubts, insist_room, rooms_for
from lamina.errors import Conflict, LaminaError
from lamina.events import Action, Event
from lamina.image import Image
from lamina.oci.digest import Digest
from lamina.runtime.container import Container, ContainerRunning
from lamina.snapshot.collect import drop_unused
from lamina.snapshot.drivers import canonical
from lamina.snapshot.forms import drop_forms
from lamina.snapshot.hands import Hands
from lamina.snapshot.layers import DiffIDMismatch
from lamina.snapshot.mounts import MountRecords, Standing
from lamina.snapshot.snapshotter import (
    DriverUnavailable,
    LimitsSize,
    SnapshotKind,
    Snapshotter,
)
from lamina.values import dataclass, field, replace

if TYPE_CHECKING:
    from lamina.engine.core import Core


class StateInUse(Conflict):
    """Something uses an old driver's files right now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """What was moved, or would be. Sizes are bytes: of layers as tars, of containers as they were on disk.

    ``rooms`` are the places that take it, as they were before. ``freed`` is what went from the disk, and 0
    after a dry run; ``remaining`` are sentences about what an old driver still has.
    """

    target: str
    sources: tuple[str, ...]
    images: tuple[str, ...]
    layers: int
    layer_size: int
    containers: tuple[str, ...]
    container_size: int
    rooms: tuple[Room, ...] = ()
    freed: int = 0
    remaining: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    is_dry_run: bool = False


def migrate(engine: Core, to: str, *, is_dry_run: bool = False) -> Migration:
    """All that other drivers have here becomes the driver ``to``'s; the settings hold its options.

    Raises ``DriverUnavailable``, ``NoRoom``, and ``ContainerRunning`` or :class:`StateInUse` naming what is
    in use. Interrupted, or out of space, it loses nothing and can be run again.
    """
    name = canonical(to)
    with _alone(engine), ExitStack() as stack:
        drivers = Drivers(engine, name, stack)
        if drivers.written:  # where nothing was ever chosen, looking would choose
            _tidy(engine)
        work = _plan(engine, drivers)
        if is_dry_run:
            notes = (*work.summary.notes, *doubts(work.summary.rooms), *_untried(engine, name))
            return replace(work.summary, notes=notes, is_dry_run=True)
        with _driving(engine, drivers.target):
            with Lease(engine.store.state, f"migrate to {name}") as lease:
                work.hold(lease)
                freed = _move(engine, drivers, work)
            freed += _drop_snapshots(engine, drivers) + _drop_forms(engine, drivers)
        return replace(work.summary, freed=freed, remaining=tuple(_remaining(drivers)))


@contextmanager
def _driving(engine: Core, target: Snapshotter) -> Iterator[None]:
    """For this engine, whatever the settings say; afterwards it is found out anew which driver is in use."""
    engine.driver = target
    try:
        yield
    finally:
        del engine.driver


@contextmanager
def _alone(engine: Core) -> Iterator[None]:
    """One migration at a time."""
    with migrating_alone(engine.root) as is_alone:
        if not is_alone:
            raise StateInUse(f"{engine.root}: another migration is under way here")
        yield


# -- what there is to do


@dataclass(slots=True)
class _Work:
    summary: Migration
    stacks: list[tuple[str, Image]] = field(default_factory=list)
    records: list[Digest] = field(default_factory=list)

    def hold(self, lease: Lease) -> None:
        for _name, image in self.stacks:
            lease.hold([*image.config.diff_ids, *(layer.descriptor.digest for layer in image.layers)])
        lease.hold(self.records)


def _tidy(engine: Core) -> None:
    """What killed commands left would look like something in use."""
    mounts.forget_gone(engine)
    snapshots.sweep(engine)
    misplaced.sweep(engine)


def _plan(engine: Core, drivers: Drivers) -> _Work:
    """Everything that can be refused is refused here."""
    others = drivers.others()
    moving = to_move(engine, drivers.name)
    _insist_idle(engine, drivers, moving)
    lost = [each for each in moving if not has_layer(drivers.get(each.driver), each)]
    moving = [each for each in moving if each not in lost]
    stacks = _stacks(engine, drivers, others, moving)
    tars = {layer.diff_id: engine.layers_store.facts(layer.diff_id).tar_size
            for _name, image in stacks for layer in image.layers
            if engine.layers_store.has_index(layer.diff_id)}
    sizes = [(each, drivers.get(each.driver).usage(each.snapshot).size) for each in moving]
    summary = Migration(
        target=drivers.name, sources=tuple(others), images=tuple(dict.fromkeys(name for name, _ in stacks)),
        layers=len({layer.diff_id for _name, image in stacks for layer in image.layers}),
        layer_size=sum(tars.values()),
        containers=tuple(container.name for container in moving),
        container_size=sum(size for _container, size in sizes),
        rooms=_rooms(engine, drivers, [image for _name, image in stacks], sizes),
        notes=(*_notes(engine, drivers), *(
            f"{container.name}: its layer is missing in {container.driver}; `lamina rm {container.name}` "
            "removes the rest" for container in lost
        )),
    )
    records = [digest for record in engine.store.catalog.records()
               for digest in (record.descriptor.digest, record.manifest, record.config)]
    return _Work(summary, stacks, records)


def _rooms(
    engine: Core, drivers: Drivers, stacks: Sequence[Image], sizes: Sequence[tuple[Container, int]]
) -> tuple[Room, ...]:
    if not stacks and not sizes:
        return ()
    with drivers.asked() as target:
        rooms = rooms_for(engine, target, stacks, sizes, drivers.get)
    insist_room(rooms)
    return rooms


def _notes(engine: Core, drivers: Drivers) -> Iterator[str]:
    if not is_asked_for(engine, drivers.name):
        yield (
            f"{origin(engine)} asks for {engine.settings.storage_driver}, and would bring it back: let it "
            f"say {drivers.name}, or nothing"
        )


def _untried(engine: Core, name: str) -> Iterator[str]:
    """What a dry run cannot find out, since it makes nothing."""
    bounded = [each.name for each in to_move(engine, name) if size_limit(each.options)]
    if bounded:
        yield (
            f"{', '.join(bounded)}: limited by --storage-opt size; whether {name} can do that here, the "
            "migration tries first, and moves nothing where it cannot"
        )


def _insist_idle(engine: Core, drivers: Drivers, moving: Sequence[Container]) -> None:
    running = [each.name for each in moving if containers.see(engine, each).state.is_live]
    if running:
        names, them = ", ".join(sorted(running)), "it" if len(running) == 1 else "them"
        raise ContainerRunning(
            f"{names}: running with another storage driver than {drivers.name}; "
            f"`lamina stop {' '.join(running)}` first, and start {them} again afterwards"
        )
    records = MountRecords(engine.root)
    mounted = [
        record.target for record in records.walk()
        if record.driver != drivers.name and records.standing(record) is not Standing.GONE
    ]
    if mounted:
        raise StateInUse(f"{', '.join(mounted)}: mounted images; `lamina umount {' '.join(mounted)}` first")
    for name in drivers.others():
        if any(_is_builds(info.key) for info in drivers.get(name).walk()):
            raise StateInUse(f"{engine.root}: a build is under way with {name}; wait for its end, or end it")


def _is_builds(key: str) -> bool:
    return key.startswith("build-")


def _stacks(
    engine: Core, drivers: Drivers, others: Sequence[str], moving: Sequence[Container]
) -> list[tuple[str, Image]]:
    """Images that an old driver could mount, and those that containers were made of; no stack twice.

    Raises ``BaseNotFound``.
    """
    known = {info.key for name in others for info in drivers.get(name).walk()
             if info.kind is SnapshotKind.COMMITTED}
    found: dict[str, tuple[str, Image]] = {}
    for record in engine.store.catalog.records():
        image = images.load_sound(engine, record)
        if image is not None and image.layers and str(image.chain_ids[-1]) in known:
            found.setdefault(str(image.chain_ids[-1]), (images.shown_name(record), image))
    for container in moving:
        if container.parent and container.parent not in found:
            found[container.parent] = container.image_name, committing.base_of(engine, container)
    return list(found.values())


# -- doing it


def _move(engine: Core, drivers: Drivers, work: _Work) -> int:
    """The bytes of containers' layers that went from the old drivers."""
    target = drivers.target
    _insist_limits(engine, target)
    with _taken_back(engine, drivers, target):
        for _name, image in work.stacks:
            _make_mountable(engine, target, image)
        try_limits(engine, target)
    drivers.settle()
    return move_containers(engine, target, drivers.get)


def _insist_limits(engine: Core, target: Snapshotter) -> None:
    """A container that may take so much shall not take more with another driver."""
    bounded = [each.name for each in to_move(engine, target.name) if size_limit(each.options)]
    if bounded and not isinstance(target, LimitsSize):
        raise DriverUnavailable(
            f"{', '.join(bounded)}: limited by --storage-opt size, which the storage driver {target.name} "
            "cannot do; commit and remove it, or choose another driver"
        )


@contextmanager
def _taken_back(engine: Core, drivers: Drivers, target: Snapshotter) -> Iterator[None]:
    """After a failure the target has no more snapshots and forms than before."""
    store, reception = engine.layers_store, target.reception
    before = {info.key for info in target.walk()}
    had = {diff_id for diff_id in store.walk() if store.has(diff_id, reception.form, reception.key)}
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(LaminaError, OSError):
            drop_unused(target, before)
            _drop_forms(engine, drivers, had=had)
        error.add_note("nothing was changed: everything is where it was")
        raise


def _make_mountable(engine: Core, target: Snapshotter, image: Image) -> None:
    """The image's stack in the new driver; its layers come from their blobs, or from an old form."""
    from lamina.snapshot.unpack import Unpacker

    for layer in image.layers:
        engine.report(Event(action=Action.MOVING, subject=layer.descriptor.digest))
    try:
        with Unpacker(
            engine.layers_store, target, workers=os.cpu_count() or 2, report=engine.report
        ) as unpacker:
            for layer in image.layers:
                submit(engine, unpacker, layer.descriptor, layer.diff_id)
            unpacker.finish(image.config.diff_ids)
    except DiffIDMismatch as error:
        error.add_note("`lamina check --repair` unpacks anew what is damaged")
        raise
    for layer in image.layers:
        engine.report(Event(action=Action.MOVED, subject=layer.descriptor.digest))


# -- what is no longer needed


def _drop_snapshots(engine: Core, drivers: Drivers) -> int:
    """Those of layers; what somebody has put something on meanwhile stays. Gives the bytes freed."""
    freed = engine.layers_store.sweep() + drivers.target.sweep()
    for name in drivers.others():
        driver = drivers.get(name)
        freed += drop_unused(driver, ()) + driver.sweep()
        freed += leave(drivers.root, driver)
    for name in left(engine):  # where an earlier migration was killed
        with contextlib.suppress(LaminaError, OSError):
            freed += drivers.get(name).sweep() + leave(drivers.root, drivers.get(name))
    return freed


def _drop_forms(engine: Core, drivers: Drivers, *, had: Collection[Digest] = ()) -> int:
    """Forms that no driver with something here asks for; not of layers in ``had``, or in use right now."""
    freed = 0
    with closing(Hands(drivers.target.identity)) as hands:
        for diff_id in set(engine.layers_store.walk()) - set(had):
            freed += _drop_forms_of(engine, drivers, diff_id, hands.empty)
    return freed


def _drop_forms_of(
    engine: Core, drivers: Drivers, diff_id: Digest, empty: Callable[[Path], None]
) -> int:
    """Decided under the lock that leases take: who makes a snapshot of the layer meanwhile has one."""
    with engine.store.state.transaction():
        if diff_id in leased_content(engine.store.state):
            return 0
        try:
            keep = [drivers.get(name).reception for name in {*snapshot_counts(engine), drivers.chosen()}]
        except LaminaError:
            return 0  # nobody knows what a driver needs that cannot be opened
        has_blob = not engine.layers_store.is_left_alone(diff_id)
        return drop_forms(engine.layers_store, diff_id, keep, has_blob=has_blob, empty=empty)


def _remaining(drivers: Drivers) -> Iterator[str]:
    for name in drivers.others():
        infos = list(drivers.get(name).walk())
        kinds = ", ".join(sorted({f"{info.kind} {info.key[:40]}" for info in infos})[:3])
        yield f"{name} still has {len(infos)} snapshots, which something uses or nobody can name: {kinds}"
