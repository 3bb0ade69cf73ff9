"""Containers that are there: found, listed, cleaned up after, renamed and changed.

What is true of a container is asked of the kernel each time (``observe``); what a dead monitor left is
cleaned up by whoever comes across it (:func:`settle`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from lamina.engine.naming import check_name
from lamina.runtime.aftermath import clean_up, is_begun
from lamina.runtime.container import (
    PAUSED,
    RESTART,
    Container,
    ContainerDirectory,
    ContainerNotFound,
    ContainerNotRunning,
    ContainerRunning,
    ContainerState,
    Status,
    observe,
)
from lamina.runtime.records import ContainerTable
from lamina.values import dataclass, replace

if TYPE_CHECKING:
    from lamina.engine.core import Core
    from lamina.runtime.cgroup import Cgroup
    from lamina.snapshot.snapshotter import Snapshotter

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A container and what is true of it now."""

    container: Container
    state: ContainerState


def directory_of(engine: Core, container: Container) -> ContainerDirectory:
    return ContainerDirectory(engine.root, container.id)


def find(engine: Core, name: str) -> Seen:
    """By name, ID, or the beginning of an ID. Raises ``ContainerNotFound``."""
    return see(engine, ContainerTable(engine.store.state).find(name))


def see(engine: Core, container: Container) -> Seen:
    directory = directory_of(engine, container)
    state = observe(directory)
    if state.status is Status.RUNNING and (directory.path / PAUSED).exists():
        state = replace(state, status=Status.PAUSED)
    if not state.is_live and state.is_unattended:
        state = settle(engine, container, state)
    return Seen(container=container, state=state)


def everything(engine: Core) -> Iterator[Seen]:
    """Newest first. Those whose removal at their end nobody was left to do are removed on the way."""
    table = ContainerTable(engine.store.state)
    for container in table.walk():
        seen = see(engine, container)
        if table.get(container.id) is not None:
            yield seen


def settle(engine: Core, container: Container, state: ContainerState) -> ContainerState:
    """Cleans up after a container whose monitor died: its group, its network; and itself, if it was to go.

    Nothing happens if somebody else is at it.
    """
    directory = directory_of(engine, container)
    try:
        lock = directory.lock()
    except (ContainerRunning, FileNotFoundError):
        return state
    try:
        now = directory.read_state()
        if not (now.is_live or is_begun(directory.path)):
            return now  # somebody else has done it, and it may have run again since
        clean_up(directory.path)
        finished = 0.0 if state.status is Status.CREATED else state.finished or engine.clock()
        ended = replace(state, pid=0, finished=finished, is_unattended=False)
        directory.settle_state(ended)
        if container.options.is_removed_at_exit:
            from lamina.engine.removing import remove_locked

            remove_locked(engine, container, with_volumes=True)
        return ended
    finally:
        os.close(lock)


def find_live(engine: Core, name: str, verb: str) -> Seen:
    """Raises ``ContainerNotRunning``, which says what ``verb`` had wanted."""
    seen = find(engine, name)
    if not seen.state.is_live or not seen.state.pid:
        raise ContainerNotRunning(f"{name}: not running, so there is nothing to {verb}")
    return seen


# -- layers


def with_layer(engine: Core, container: Container, act: Callable[[Snapshotter], _T]) -> _T:
    """What ``act`` makes of the driver that a container's layer is in. For who has no lock on the container.

    Begun anew, once, where the layer is not found: what was read of the container may be from before it was
    moved to another driver. Raises ``ContainerNotFound`` and ``SnapshotNotFound``, which name the container.
    """
    from lamina.snapshot.snapshotter import SnapshotNotFound

    with contextlib.suppress(SnapshotNotFound):
        return act(engine.driver_named(container.driver))
    now = ContainerTable(engine.store.state).get(container.id)
    if now is None:
        raise ContainerNotFound(f"{container.name}: removed meanwhile")
    try:
        return act(engine.driver_named(now.driver))
    except SnapshotNotFound as error:
        raise SnapshotNotFound(
            f"{now.name}: its layer is not in {now.driver}: it moves once more, so try again, or is lost, "
            "as when `rm` was killed, which `lamina check` can tell"
        ) from error


# -- groups


def find_group(state: ContainerState) -> Cgroup | None:
    """``None`` for a container that has no control group."""
    if not state.cgroup:
        return None
    from lamina.runtime.cgroup import Cgroups

    group = Cgroups.detect().at(state.cgroup)
    return group if group.places else None


def group_of(state: ContainerState, name: str) -> Cgroup:
    """Raises ``Unsupported`` where there is none."""
    group = find_group(state)
    if group is None:
        from lamina.errors import Unsupported
        from lamina.runtime.cgroup import Cgroups

        reason = next(iter(Cgroups.detect().refusals.values()), "it was started without")
        raise Unsupported(
            f"{name}: it has no control group, which pausing, limits and measuring take: {reason}"
        )
    return group


# -- changing


def rename(engine: Core, name: str, new_name: str) -> None:
    table, chosen = ContainerTable(engine.store.state), check_name(new_name)
    with engine.store.state.transaction():  # limits that somebody changes at this moment stay changed
        table.replace(replace(table.find(name), name=chosen))


def update(engine: Core, name: str, changes: Mapping[str, Any]) -> tuple[str, ...]:
    """Other limits, or another restart policy, by names of ``ContainerOptions``; gives notes for the user."""
    from lamina.engine.creating import check_restart
    from lamina.runtime.resources import limits_of

    seen = find(engine, name)
    options = replace(seen.container.options, **changes)
    check_restart(options)
    limits = limits_of(options)
    notes: tuple[str, ...] = ()
    if seen.state.is_live and limits:
        notes = tuple(map(str, group_of(seen.state, name).update(limits)))
    table = ContainerTable(engine.store.state)
    with engine.store.state.transaction():  # it may have another name by now, or other limits too
        now = table.find(seen.container.id)
        table.replace(replace(now, options=replace(now.options, **changes)))
    if "restart" in changes:
        _tell_policy(engine, seen.container)
    return notes


def _tell_policy(engine: Core, container: Container) -> None:
    """To the monitor, which reads no rows. Of several updates the last to come here tells what all left.

    In a transaction, so that no other one tells something older afterwards.
    """
    from lamina.content.durable import write_file

    path = directory_of(engine, container).path / RESTART
    with engine.store.state.transaction(), contextlib.suppress(FileNotFoundError):  # --rm, or `rm`, meanwhile
        now = ContainerTable(engine.store.state).get(container.id)
        if now is not None:
            write_file(path, now.options.restart.encode())
