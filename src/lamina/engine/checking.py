"""Whether everything here is what its name says, and mending what is not."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from lamina.content.collect import (
    Finding,
    check_blobs,
    check_images,
)
from lamina.content.lease import Lease
from lamina.engine import images, misplaced, removing
from lamina.engine.landing import unpack_present
from lamina.engine.moving import has_layer
from lamina.engine.origins import check_served
from lamina.errors import LaminaError, Unsupported
from lamina.runtime.container import Container, ContainerNotFound, ContainerRunning
from lamina.runtime.records import ContainerTable
from lamina.snapshot.snapshotter import SnapshotNotFound, TellsProblems

if TYPE_CHECKING:
    from lamina.engine.core import Core
    from lamina.snapshot.snapshotter import Snapshotter


def check(engine: Core, *, repair: bool, online: bool = False) -> Iterator[Finding]:
    """Damaged blobs first: repairing removes them, and then the images that miss them are named."""
    yield from check_blobs(engine.store, repair=repair)
    yield from check_images(engine.store)
    yield from _check_layers(engine, repair=repair)
    yield from _check_containers(engine, repair=repair)
    for driver in engine.drivers():
        if isinstance(driver, TellsProblems):
            for problem in driver.problems():
                yield Finding(subject=f"storage driver {driver.name}", problem=problem)
    if online:
        yield from check_served(engine)
    if repair:
        engine.store.write_index()


def _check_layers(engine: Core, *, repair: bool) -> Iterator[Finding]:
    """What was removed because it was damaged is made again out of blobs: containers may stand on it.

    By every driver that had it.
    """
    removed = set()
    with Lease(engine.store.state, "check") as lease:
        if repair:  # a layer is given up for a blob: nobody drops that meanwhile, for the layer
            lease.hold(digest for digest, _size in engine.store.walk())
            lease.hold(blob.digest for blob in engine.store.dropped.walk())
        for finding in engine.layers_store.check(repair=repair):
            yield finding
            if finding.repaired:
                removed.add(finding.subject)
        yield from _unpack_again(engine, removed)


def _unpack_again(engine: Core, removed: Collection[str]) -> Iterator[Finding]:
    for record in engine.store.catalog.records() if removed else ():
        try:
            image = images.load_record(engine, record)
            if not set(image.config.diff_ids).isdisjoint(removed):
                for driver in _holders(engine, str(image.chain_ids[-1])):
                    unpack_present(engine, image, driver)
        except (LaminaError, OSError) as error:
            yield Finding(subject=record.config, problem=f"cannot be unpacked again: {error}")


def _holders(engine: Core, chain_id: str) -> Iterator[Snapshotter]:
    for driver in engine.drivers():
        with contextlib.suppress(SnapshotNotFound):
            driver.stat(chain_id)
            yield driver


def _check_containers(engine: Core, *, repair: bool) -> Iterator[Finding]:
    """Each has the layer that its row speaks of; what that holds is the container's own business.

    One without it was being removed when the power went, since the layer goes first: the rest of it may go.
    """
    opened = {driver.name: driver for driver in engine.drivers()}
    for container in ContainerTable(engine.store.state).walk():
        subject = f"container {container.name}"
        try:
            driver = opened.get(container.driver) or engine.driver_named(container.driver)
        except Unsupported as error:
            yield Finding(subject=subject, problem=f"its layer cannot be looked at: {error}")
            continue
        if not has_layer(driver, container) and _is_lost(engine, container):
            yield Finding(
                subject=subject, repaired=repair and _removed(engine, container),
                problem=f"its layer is missing in {container.driver}; `lamina rm` removes the rest",
            )


def _is_lost(engine: Core, seen: Container) -> bool:
    """Looked at once more, when nobody makes it, moves it to another driver or removes it already."""
    with misplaced.alone(engine, seen.snapshot) as is_alone:
        container = ContainerTable(engine.store.state).get(seen.id)
        if not is_alone or container is None:
            return False
        return not has_layer(engine.driver_named(container.driver), container)


def _removed(engine: Core, container: Container) -> bool:
    try:
        removing.remove(engine, container.id)
    except ContainerRunning:  # the monitor is dead, and the process is not
        return False
    except ContainerNotFound:
        pass
    return True
