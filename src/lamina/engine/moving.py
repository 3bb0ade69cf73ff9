"""Stopped containers from one storage driver to another, each as a whole or not at all.

The lock of a container keeps everybody from starting or removing it. Until the transaction that says so, the
copy is nothing but a leftover; from then on the original is.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from lamina.content.reserve import free_bytes
from lamina.engine import containers, misplaced
from lamina.engine.creating import size_limit
from lamina.errors import Conflict, LaminaError
from lamina.events import Action, Event
from lamina.runtime.aftermath import clean_up, is_begun
from lamina.runtime.container import PATIENCE, Container, ContainerRunning
from lamina.runtime.records import ContainerTable
from lamina.snapshot.snapshotter import LimitsSize, SnapshotNotFound, Snapshotter
from lamina.values import replace

if TYPE_CHECKING:
    from lamina.engine.core import Core

Opened = Callable[[str], Snapshotter]


class NotMoved(Conflict):
    """Several containers; the message has a sentence for each."""


class LimitReached(Conflict):
    """A container takes more with another driver than it may."""


def to_move(engine: Core, name: str) -> list[Container]:
    """Those of other drivers than ``name``, the oldest first."""
    table = ContainerTable(engine.store.state)
    return [each for each in reversed(list(table.walk())) if each.driver != name]


def has_layer(driver: Snapshotter, container: Container) -> bool:
    """Not after an `rm` that was killed."""
    try:
        driver.stat(container.snapshot)
    except SnapshotNotFound:
        return False
    return True


def try_limits(engine: Core, target: Snapshotter) -> None:
    """What a driver can do, a disk need not let it: found out before any container has moved."""
    for container in to_move(engine, target.name):
        size = size_limit(container.options)
        if size:
            with misplaced.alone(engine, container.snapshot) as is_alone:
                if is_alone:
                    _try_limit(target, container, size)


def _try_limit(target: Snapshotter, container: Container, size: int) -> None:
    misplaced.discard(target, container.snapshot)
    try:
        target.prepare(container.snapshot, container.parent)
        if isinstance(target, LimitsSize):
            target.limit(container.snapshot, size)
    except LaminaError as error:
        error.add_note(
            f"{container.name} is limited by --storage-opt size: commit and remove it, or choose another "
            "driver"
        )
        raise
    finally:
        misplaced.discard(target, container.snapshot)


def move_containers(engine: Core, target: Snapshotter, opened: Opened) -> int:
    """All that there are, also those that somebody makes with an old driver meanwhile.

    ``opened`` gives a driver by name. The bytes that went from the old ones. One that cannot be moved keeps
    no other from it: what was wrong with it is raised at the end, several as :class:`NotMoved`.
    """
    freed, done = 0, set[str]()
    troubles: list[LaminaError] = []
    while True:
        waiting = [
            each for each in to_move(engine, target.name)
            if each.id not in done and has_layer(opened(each.driver), each)
        ]
        if not waiting:
            with _telling_what_is_left(engine, target.name):
                _raise(troubles)
            return freed
        for container in waiting:
            done.add(container.id)
            engine.report(Event(action=Action.MOVING, subject=container.name))
            with _telling_what_is_left(engine, target.name):
                try:
                    freed += _move(engine, target, opened, container)
                except LaminaError as error:
                    troubles.append(error)
                    continue
            engine.report(Event(action=Action.MOVED, subject=container.name))


def _raise(troubles: list[LaminaError]) -> None:
    if len(troubles) == 1:
        raise troubles[0]
    if troubles:
        raise NotMoved("; ".join(map(str, troubles)))


@contextmanager
def _telling_what_is_left(engine: Core, name: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(Exception):  # the state file itself may be what failed
            left = ", ".join(each.name for each in to_move(engine, name))
            error.add_note(
                f"what is new is made with {name}; still in their old driver, where they work: "
                f"{left or 'none'}; run it again to go on"
            )
        raise


def _move(engine: Core, target: Snapshotter, opened: Opened, container: Container) -> int:
    directory, table = containers.directory_of(engine, container), ContainerTable(engine.store.state)
    with ExitStack() as stack:
        try:
            stack.enter_context(directory.locked(PATIENCE))
        except FileNotFoundError:  # somebody removes it, or has done so
            return 0
        now = table.get(container.id)
        if now is None or now.driver == target.name:
            return 0
        state = directory.read_state()
        if state.is_live and state.is_process_alive:
            raise ContainerRunning(f"{now.name}: running; stop it first")
        if is_begun(directory.path):
            clean_up(directory.path)
        source = opened(now.driver)
        _copy(engine, source, target, now)
        with engine.store.state.transaction():  # it may have another name by now, or other limits
            table.replace(replace(table.find(now.id), driver=target.name))
        return misplaced.discard(source, now.snapshot)


@contextmanager
def _explaining_limit(engine: Core, target: Snapshotter, container: Container, size: int) -> Iterator[None]:
    """A full container is its own affair, and a full disk everybody's: quotas of xfs say ENOSPC for both."""
    try:
        yield
    except OSError as error:
        is_full = error.errno == errno.ENOSPC and free_bytes(engine.root) > size
        if not size or not (is_full or error.errno == errno.EDQUOT):
            raise
        raise LimitReached(
            f"{container.name}: what it wrote does not fit into --storage-opt size={size} with "
            f"{target.name}; remove some of it, or commit and remove it"
        ) from error


def _copy(engine: Core, source: Snapshotter, target: Snapshotter, container: Container) -> None:
    """Durable when this returns; a failure leaves nothing in the target."""
    from lamina.snapshot.moving import copy_changes
    from lamina.snapshot.trees import sync_tree

    misplaced.discard(target, container.snapshot)
    try:
        target.prepare(container.snapshot, container.parent)
        size = size_limit(container.options)
        if size and isinstance(target, LimitsSize):
            target.limit(container.snapshot, size)
        with _explaining_limit(engine, target, container, size):
            copy_changes(source, target, container.snapshot, engine.root / "ingest")
            sync_tree(engine.root / "snapshots")
    except BaseException as error:
        with contextlib.suppress(LaminaError, OSError):
            misplaced.discard(target, container.snapshot)
        error.add_note(f"{container.name} was on its way from {source.name} to {target.name}")
        raise
