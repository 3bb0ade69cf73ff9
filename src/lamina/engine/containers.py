"""Containers that are there: find, list, stop, kill, wait, rename, change, remove, prune.

What is true of a container is asked of the kernel each time (``observe``); what a dead monitor left is
cleaned up by whoever comes across it (:func:`settle`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.engine.filters import check_filters, has_label
from lamina.engine.naming import check_name
from lamina.errors import Conflict, Unavailable
from lamina.runtime.aftermath import clean_up, is_begun
from lamina.runtime.container import (
    PATIENCE,
    PAUSED,
    STOPPING,
    Container,
    ContainerDirectory,
    ContainerNotFound,
    ContainerNotRunning,
    ContainerRunning,
    ContainerState,
    Status,
    observe,
    watched_over,
)
from lamina.runtime.records import ContainerTable
from lamina.runtime.signals import parse_signal, send, wait_for_end
from lamina.values import dataclass, replace

if TYPE_CHECKING:
    from lamina.engine.engine import Engine
    from lamina.runtime.cgroup import Cgroup

DEFAULT_STOP_SECONDS = 10
_STEP = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A container and what is true of it now."""

    container: Container
    state: ContainerState


def directory_of(engine: Engine, container: Container) -> ContainerDirectory:
    return ContainerDirectory(engine.root, container.id)


def find(engine: Engine, name: str) -> Seen:
    """By name, ID, or the beginning of an ID. Raises ``ContainerNotFound``."""
    return see(engine, ContainerTable(engine.store.state).find(name))


def see(engine: Engine, container: Container) -> Seen:
    directory = directory_of(engine, container)
    state = observe(directory)
    if state.status is Status.RUNNING and (directory.path / PAUSED).exists():
        state = replace(state, status=Status.PAUSED)
    if not state.is_live and state.is_unattended:
        state = settle(engine, container, state)
    return Seen(container=container, state=state)


def everything(engine: Engine) -> Iterator[Seen]:
    """Newest first. Those whose removal at their end nobody was left to do are removed on the way."""
    table = ContainerTable(engine.store.state)
    for container in table.walk():
        seen = see(engine, container)
        if table.get(container.id) is not None:
            yield seen


def settle(engine: Engine, container: Container, state: ContainerState) -> ContainerState:
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
            _remove_locked(engine, container, with_volumes=True)
        return ended
    finally:
        os.close(lock)


# -- stopping


def stop(engine: Engine, name: str, *, seconds: int | None = None, number: int = 0) -> None:
    """The container's own signal, or ``number``; after ``seconds`` SIGKILL. One that has ended is fine."""
    seen = find(engine, name)
    if not seen.state.is_live:
        return
    seen = _intend_to_stop(engine, seen)
    if not seen.state.is_live:
        return
    options = seen.container.options
    patience = seconds if seconds is not None else options.stop_timeout
    patience = DEFAULT_STOP_SECONDS if patience is None else patience
    _thaw(engine, seen)
    wanted = number or parse_signal(seen.container.stop_signal)
    send(seen.state.pid, seen.state.pid_started, wanted)
    if not wait_for_end(seen.state.pid, seen.state.pid_started, None if patience < 0 else patience):
        kill_everything(seen.state)
    _await_end(engine, seen.container)


def kill(engine: Engine, name: str, number: int = signal.SIGKILL) -> None:
    """Sends a signal to the container's first process. Raises ``ContainerNotRunning``."""
    seen = _live(engine, name, "kill")
    if number == signal.SIGKILL:
        _intend_to_stop(engine, seen)
        _thaw(engine, seen)
    elif number == parse_signal(seen.container.stop_signal):
        _intend_to_stop(engine, seen)
    if not send(seen.state.pid, seen.state.pid_started, number):
        raise ContainerNotRunning(f"{name}: ended meanwhile")
    if number == signal.SIGKILL:
        wait_for_end(seen.state.pid, seen.state.pid_started, DEFAULT_STOP_SECONDS)
        _await_end(engine, seen.container)


def kill_everything(state: ContainerState) -> None:
    """The first process takes all others of its pid namespace along; the group finds those without one."""
    send(state.pid, state.pid_started, signal.SIGKILL)
    if not wait_for_end(state.pid, state.pid_started, DEFAULT_STOP_SECONDS):
        group = find_group(state)
        if group is not None:
            group.kill()


def _intend_to_stop(engine: Engine, seen: Seen) -> Seen:
    """Told to the monitor, which then does not start it again; gives what is true after that.

    A monitor that is just about to start it again has looked already: then the new run is the one to stop.
    """
    directory = directory_of(engine, seen.container)
    with contextlib.suppress(FileNotFoundError):  # gone with --rm meanwhile
        (directory.path / STOPPING).touch()
    deadline = time.monotonic() + PATIENCE
    while directory.read_state().status is Status.RESTARTING and directory.is_attended():
        if time.monotonic() > deadline:
            break
        time.sleep(_STEP)
    return see(engine, seen.container)


def _thaw(engine: Engine, seen: Seen) -> None:
    """On the way to the end of it; somebody else may have done it, or it may have ended."""
    if seen.state.status is Status.PAUSED:
        with contextlib.suppress(Conflict):
            unpause(engine, seen.container.id)


def _await_end(engine: Engine, container: Container) -> None:
    """Until the monitor has written the end down, or the container is gone altogether."""
    directory = directory_of(engine, container)
    deadline = time.monotonic() + PATIENCE
    while directory.read_state().is_live and directory.is_attended() and time.monotonic() < deadline:
        time.sleep(_STEP)
    if directory.path.exists():
        see(engine, container)


def wait(engine: Engine, name: str, *, condition: str = "not-running") -> int:
    """Blocks until it has ended; gives the exit code. With ``removed``, until it is gone."""
    seen = find(engine, name)
    directory = directory_of(engine, seen.container)
    code = seen.state.exit_code
    is_first = True
    while True:
        state = observe(directory) if directory.path.exists() else None
        if state is None:
            return code
        code = state.exit_code
        is_over = not state.is_live and not (condition == "next-exit" and is_first)
        is_over = is_over and state.status is not Status.CREATED
        if is_over and condition != "removed":
            return see(engine, seen.container).state.exit_code
        if state.status is Status.CREATED and not directory.is_attended() and condition == "not-running":
            return code
        if state.is_process_alive:
            is_first = False
            wait_for_end(state.pid, state.pid_started, 1.0)
        else:
            time.sleep(_STEP)


# -- pausing


def pause(engine: Engine, name: str) -> None:
    seen = _live(engine, name, "pause")
    if seen.state.status is Status.PAUSED:
        raise Conflict(f"{name}: paused already")
    flag = directory_of(engine, seen.container).path / PAUSED
    flag.touch()
    try:
        group_of(seen.state, name).freeze()
    except BaseException:
        flag.unlink(missing_ok=True)
        raise


def unpause(engine: Engine, name: str) -> None:
    seen = _live(engine, name, "unpause")
    # Frozen without the flag: by a commit that was killed.
    if seen.state.status is not Status.PAUSED and not _is_frozen(seen.state):
        raise Conflict(f"{name}: not paused")
    group_of(seen.state, name).thaw()
    (directory_of(engine, seen.container).path / PAUSED).unlink(missing_ok=True)


def _is_frozen(state: ContainerState) -> bool:
    group = find_group(state)
    return group is not None and group.is_frozen


@contextlib.contextmanager
def standing_still(seen: Seen) -> Iterator[None]:
    """For a look at the filesystem of a running container; where pausing cannot be had, without."""
    group = find_group(seen.state) if seen.state.status is Status.RUNNING else None
    if group is None:
        yield
        return
    from lamina.errors import Unsupported

    try:
        group.freeze()
    except (Unsupported, Unavailable, OSError):
        yield
        return
    try:
        yield
    finally:
        group.thaw()


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

        raise Unsupported(
            f"{name}: it has no control group, which pausing, limits and measuring take: an ordinary user "
            "needs cgroups of version 2 that were delegated (systemd: Delegate=yes)"
        )
    return group


def _live(engine: Engine, name: str, verb: str) -> Seen:
    seen = find(engine, name)
    if not seen.state.is_live or not seen.state.pid:
        raise ContainerNotRunning(f"{name}: not running, so there is nothing to {verb}")
    return seen


# -- changing


def rename(engine: Engine, name: str, new_name: str) -> None:
    table, chosen = ContainerTable(engine.store.state), check_name(new_name)
    with engine.store.state.transaction():  # limits that somebody changes at this moment stay changed
        table.replace(replace(table.find(name), name=chosen))


def update(engine: Engine, name: str, changes: Mapping[str, Any]) -> tuple[str, ...]:
    """Other limits, or another restart policy, by names of ``ContainerOptions``; gives notes for the user."""
    from lamina.runtime.resources import limits_of
    from lamina.runtime.restart import parse_restart

    seen = find(engine, name)
    options = replace(seen.container.options, **changes)
    parse_restart(options.restart)
    limits = limits_of(options)
    notes: tuple[str, ...] = ()
    if seen.state.is_live and limits:
        notes = tuple(map(str, group_of(seen.state, name).update(limits)))
    table = ContainerTable(engine.store.state)
    with engine.store.state.transaction():  # it may have another name by now, or other limits too
        now = table.find(seen.container.id)
        table.replace(replace(now, options=replace(now.options, **changes)))
    return notes


# -- removing


def remove(engine: Engine, name: str, *, force: bool = False, with_volumes: bool = False) -> None:
    """Takes the container's layer, log and record; the image stays. Raises ``ContainerRunning``."""
    seen = find(engine, name)
    if seen.state.is_live:
        if not force:
            paused = "paused" if seen.state.status is Status.PAUSED else "running"
            raise ContainerRunning(f"{name}: {paused}; stop it first, or use --force")
        seen = _intend_to_stop(engine, seen)
        _thaw(engine, seen)
        kill_everything(seen.state)
        _await_end(engine, seen.container)
    directory = directory_of(engine, seen.container)
    if not directory.path.exists():
        with contextlib.suppress(ContainerNotFound):
            _remove_locked(engine, seen.container, with_volumes=with_volumes)
        return
    with directory.locked(PATIENCE):
        _remove_locked(engine, seen.container, with_volumes=with_volumes)


def _remove_locked(engine: Engine, container: Container, *, with_volumes: bool) -> None:
    driver = engine.driver_named(container.driver)
    from lamina.runtime.removal import remove_container

    directory = directory_of(engine, container).path
    if is_begun(directory):
        clean_up(directory)
    remove_container(engine.root, engine.store.state, driver, container, with_volumes=with_volumes)


def prune(engine: Engine, filters: Mapping[str, Sequence[str]]) -> tuple[tuple[str, ...], int]:
    """All that do not run; gives their IDs and the bytes that went from the disk."""
    check_filters(filters, ("label", "label!", "until"), "container prune")
    removed, freed = [], 0
    for seen in list(everything(engine)):
        if seen.state.is_live or not _is_prunable(engine, seen.container, filters):
            continue
        with contextlib.suppress(ContainerRunning, ContainerNotFound):
            size = size_on_disk(engine, seen.container)
            remove(engine, seen.container.id)
            removed.append(seen.container.id)
            freed += size
    return tuple(removed), freed


def _is_prunable(engine: Engine, container: Container, filters: Mapping[str, Sequence[str]]) -> bool:
    from lamina.engine.durations import parse_duration

    for text in filters.get("until", ()):
        if container.created > engine.clock() - parse_duration(text):
            return False
    has = [has_label(container.labels, text) for text in filters.get("label", ())]
    lacks = [not has_label(container.labels, text) for text in filters.get("label!", ())]
    return all(has) and all(lacks)


def size_on_disk(engine: Engine, container: Container) -> int:
    """Bytes of the container's own layer, and of what lies in its directory."""
    return layer_size(engine, container) + directory_size(engine, container)


def layer_size(engine: Engine, container: Container) -> int:
    from lamina.snapshot.snapshotter import SnapshotNotFound

    try:
        return engine.driver_named(container.driver).usage(container.snapshot).size
    except SnapshotNotFound:
        return 0


def directory_size(engine: Engine, container: Container) -> int:
    from lamina.snapshot.trees import measure

    try:
        return measure(directory_of(engine, container).path).size
    except FileNotFoundError:
        return 0


def abandoned(engine: Engine) -> list[tuple[Path, int]]:
    """Directories of containers that never came to be, or that are half gone, and their bytes."""
    from lamina.snapshot.trees import measure

    with _alone_with_directories(engine) as paths:
        return [(path, measure(path).size) for path in paths]


def sweep_directories(engine: Engine) -> int:
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
def _alone_with_directories(engine: Engine) -> Iterator[list[Path]]:
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
