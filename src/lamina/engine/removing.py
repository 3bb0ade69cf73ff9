"""Containers go: one by one, all that do not run, and what is left of those that never came to be."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.engine.containers import directory_of, everything, find, with_layer
from lamina.engine.filters import check_filters, has_label
from lamina.engine.stopping import await_end, intend_to_stop, kill_everything, thaw
from lamina.runtime.aftermath import clean_up, is_begun
from lamina.runtime.container import (
    PATIENCE,
    Container,
    ContainerDirectory,
    ContainerNotFound,
    ContainerRunning,
    Status,
    watched_over,
)
from lamina.runtime.records import ContainerTable

if TYPE_CHECKING:
    from lamina.engine.core import Core


def remove(engine: Core, name: str, *, force: bool = False, with_volumes: bool = False) -> None:
    """Takes the container's layer, log and record; the image stays. Raises ``ContainerRunning``."""
    seen = find(engine, name)
    if seen.state.is_live:
        if not force:
            paused = "paused" if seen.state.status is Status.PAUSED else "running"
            raise ContainerRunning(f"{name}: {paused}; stop it first, or use --force")
        seen = intend_to_stop(engine, seen)
        thaw(engine, seen)
        kill_everything(seen.state)
        await_end(engine, seen.container)
    directory = directory_of(engine, seen.container)
    if not directory.path.exists():
        with contextlib.suppress(ContainerNotFound):
            remove_locked(engine, seen.container, with_volumes=with_volumes)
        return
    with directory.locked(PATIENCE):
        remove_locked(engine, seen.container, with_volumes=with_volumes)


def remove_locked(engine: Core, container: Container, *, with_volumes: bool) -> None:
    """For the holder of the lock of a container that has ended."""
    # Until somebody has the lock, it can be moved to another driver.
    container = ContainerTable(engine.store.state).get(container.id) or container
    driver = engine.driver_named(container.driver)
    from lamina.runtime.removal import remove_container

    directory = directory_of(engine, container).path
    if is_begun(directory):
        clean_up(directory)
    remove_container(engine.root, engine.store.state, driver, container, with_volumes=with_volumes)


def prune(engine: Core, filters: Mapping[str, Sequence[str]]) -> tuple[tuple[str, ...], int]:
    """All that do not run; gives their IDs and the bytes that went from the disk.

    One whose driver is not here stays: what it has on the disk, that driver alone can remove.
    """
    from lamina.snapshot.snapshotter import DriverUnavailable

    check_filters(filters, ("label", "label!", "until"), "container prune")
    removed, freed = [], 0
    for seen in list(everything(engine)):
        if seen.state.is_live or not _is_prunable(engine, seen.container, filters):
            continue
        with contextlib.suppress(ContainerRunning, ContainerNotFound, DriverUnavailable):
            size = size_on_disk(engine, seen.container)
            remove(engine, seen.container.id)
            removed.append(seen.container.id)
            freed += size
    return tuple(removed), freed


def _is_prunable(engine: Core, container: Container, filters: Mapping[str, Sequence[str]]) -> bool:
    from lamina.engine.durations import parse_duration

    for text in filters.get("until", ()):
        if container.created > engine.clock() - parse_duration(text):
            return False
    has = [has_label(container.labels, text) for text in filters.get("label", ())]
    lacks = [not has_label(container.labels, text) for text in filters.get("label!", ())]
    return all(has) and all(lacks)


# -- what it takes


def size_on_disk(engine: Core, container: Container) -> int:
    """Bytes of the container's own layer, and of what lies in its directory."""
    return layer_size(engine, container) + directory_size(engine, container)


def layer_size(engine: Core, container: Container) -> int:
    """Nothing, where its driver is not installed any more, or cannot be had by this user."""
    from lamina.snapshot.snapshotter import DriverUnavailable, SnapshotNotFound

    try:
        return with_layer(engine, container, lambda driver: driver.usage(container.snapshot).size)
    except (SnapshotNotFound, ContainerNotFound, DriverUnavailable):
        return 0


def directory_size(engine: Core, container: Container) -> int:
    from lamina.snapshot.trees import measure

    try:
        return measure(directory_of(engine, container).path).size
    except FileNotFoundError:
        return 0


# -- what nobody knows any more


def abandoned(engine: Core) -> list[tuple[Path, int]]:
    """Directories of containers that never came to be, or that are half gone, and their bytes."""
    from lamina.snapshot.trees import measure

    with _alone_with_directories(engine) as paths:
        return [(path, measure(path).size) for path in paths]


def sweep_directories(engine: Core) -> int:
    """Removes what :func:`abandoned` finds; gives the bytes freed."""
    from lamina.snapshot.hands import empty_anyhow
    from lamina.snapshot.trees import measure

    freed = 0
    with _alone_with_directories(engine) as paths:
        for path in paths:
            clean_up(path)
            freed += measure(path).size
            empty_anyhow(path)
    return freed


@contextlib.contextmanager
def _alone_with_directories(engine: Core) -> Iterator[list[Path]]:
    """Those that no row knows and nobody makes or removes; nor will anybody begin to until the block ends."""
    home = engine.root / "containers"
    if not home.is_dir():
        yield []
        return
    with watched_over(home, fcntl.LOCK_EX):
        names = set(os.listdir(home)) - ContainerTable(engine.store.state).ids()
        yield [
            home / name for name in sorted(names)
            if not ContainerDirectory(engine.root, name).is_attended()
        ]
