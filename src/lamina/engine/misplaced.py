"""Snapshots of containers in a driver that the container has left, is not in yet, or is gone from.

A migration that was killed leaves at most one: a copy that is not whole, or the original of one that is. The
container's row says which driver counts.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lamina.runtime.container import ContainerDirectory, ContainerRunning
from lamina.runtime.records import ContainerTable
from lamina.snapshot.snapshotter import SnapshotInfo, SnapshotKind, SnapshotNotFound, Snapshotter

if TYPE_CHECKING:
    from lamina.engine.core import Core

_KEY = re.compile(r"container-([0-9a-f]{64})")


def misplaced(engine: Core) -> list[tuple[Snapshotter, SnapshotInfo]]:
    """Not those of containers that somebody makes, starts, moves or removes at this moment."""
    return [
        (driver, info) for driver in engine.drivers() for info in driver.walk()
        if info.kind is SnapshotKind.ACTIVE and _is_misplaced(engine, driver, info.key)
    ]


def sweep(engine: Core) -> int:
    """Removes what :func:`misplaced` finds; gives the bytes freed."""
    freed = 0
    for driver, info in misplaced(engine):
        with alone(engine, info.key) as is_alone:
            if is_alone and _is_of_another(engine, driver, info.key):
                freed += discard(driver, info.key)
    return freed


def discard(driver: Snapshotter, key: str) -> int:
    """For the holder of the container's lock; what is not there is fine."""
    try:
        size = driver.usage(key).size
        driver.remove(key)
    except SnapshotNotFound:
        return 0
    return size


def _is_misplaced(engine: Core, driver: Snapshotter, key: str) -> bool:
    found = _KEY.fullmatch(key)
    if found is None or not _is_of_another(engine, driver, key):
        return False
    return not ContainerDirectory(engine.root, found[1]).is_attended()


def _is_of_another(engine: Core, driver: Snapshotter, key: str) -> bool:
    """A container without a row may be one that is just being made, as long as it has a directory."""
    number = key.removeprefix("container-")
    container = ContainerTable(engine.store.state).get(number)
    if container is None:
        return not ContainerDirectory(engine.root, number).path.exists()
    return container.driver != driver.name


@contextmanager
def alone(engine: Core, key: str) -> Iterator[bool]:
    """Whether nobody makes, starts, moves or removes the container of a snapshot while the block runs.

    One whose directory is gone nobody can.
    """
    directory = ContainerDirectory(engine.root, key.removeprefix("container-"))
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(directory.locked())
        except FileNotFoundError:
            yield True
            return
        except ContainerRunning:
            yield False
            return
        yield True
