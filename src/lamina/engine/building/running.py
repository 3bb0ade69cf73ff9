"""One RUN: its command in a container that has no name and no row, on a snapshot of the stage so far.

The container's directory is locked from its making to its removal, so that whoever finds it unlocked knows
that this process died, and with it the command. ``prune`` then takes the directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from lamina.engine import starting
from lamina.engine.committing import stubs
from lamina.errors import Unavailable
from lamina.oci.digest import Digest
from lamina.runtime.aftermath import clean_up, is_begun
from lamina.runtime.container import Container, ContainerDirectory
from lamina.runtime.frames import FrameReader, Kind
from lamina.runtime.launch import is_single_threaded, launch
from lamina.runtime.options import ContainerOptions
from lamina.values import dataclass, replace

if TYPE_CHECKING:
    from lamina.engine.core import Core
    from lamina.snapshot.snapshotter import Snapshotter

# The same on every machine: what a command writes must not depend on where it ran.
HOSTNAME = "lamina-build"
_END_SECONDS = 30.0
_STEP = 0.005
_NO_IMAGE = Digest.of(b"")
# Of a connection with a command's monitor: its exit code, and what went wrong.
Listen = Callable[[socket.socket], tuple[int, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """``execution`` is docker's ``Config`` of the step; ``mounts`` are documents as a plan's ``volumes``.

    ``cgroup_parent`` is the control group below which its own is made, instead of lamina's.
    """

    execution: Mapping[str, Any]
    options: ContainerOptions
    mounts: Sequence[Mapping[str, Any]] = ()
    cgroup_parent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What is there until the context ends: the driver and the active snapshot with what was written."""

    exit_code: int
    error: str
    driver: Snapshotter
    snapshot: str
    stubs: Mapping[str, str]
    notes: tuple[str, ...]


@contextmanager
def ran(
    engine: Core, snapshot: str, command: Command, listen: Listen,
    watch: Callable[[Callable[[], None]], AbstractContextManager[None]],
    console: tuple[int, int] | None = None,
) -> Iterator[Ended]:
    """Runs to the end. ``snapshot`` is the key of an active one, whose owner the caller remains.

    ``listen`` has the connection until the command's end (see :func:`listening`). ``watch`` gets what kills
    the command from another thread, for the time of its run. In the block the command has ended, and its
    network is being undone. Raises what kept the command from being started.
    """
    container = _container(engine, snapshot, command)
    directory = ContainerDirectory(engine.root, container.id)
    with _made(directory) as lock, ExitStack() as monitor:
        try:
            code, error, notes = _run(
                engine, container, directory, lock, command, listen, watch, console, monitor
            )
            yield Ended(
                exit_code=code, error=error, driver=engine.driver, snapshot=snapshot,
                stubs=stubs(directory), notes=notes,
            )
        finally:
            monitor.close()
            _await_lock(directory, lock)
            if is_begun(directory.path):  # the monitor was killed
                clean_up(directory.path)
            directory.discard()


@contextmanager
def _made(directory: ContainerDirectory) -> Iterator[int]:
    """With a lock that may be let go before the block ends."""
    with directory.made() as first:
        lock = os.dup(first)
    try:
        yield lock
    finally:
        os.close(lock)


def _await_lock(directory: ContainerDirectory, lock: int) -> None:
    """Nobody else has it when the monitor has ended, of which we may not know the number: it was started by
    a call that was interrupted, perhaps.
    """
    path = directory.path / "lock"
    deadline = time.monotonic() + _END_SECONDS
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as ours:
        os.dup2(ours.fileno(), lock, inheritable=False)
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise _still_there() from None
            time.sleep(_STEP)
        else:
            return


def _container(engine: Core, snapshot: str, command: Command) -> Container:
    number = os.urandom(32).hex()
    return Container(
        id=number, name=f"build-{number[:12]}", image=_NO_IMAGE, image_name="", config=_NO_IMAGE,
        platform=str(engine.platform), driver=engine.driver.name, snapshot=snapshot,
        parent="", created=engine.clock(), execution=command.execution, options=command.options,
    )


def _run(
    engine: Core, container: Container, directory: ContainerDirectory, lock: int, command: Command,
    listen: Listen, watch: Callable[[Callable[[], None]], AbstractContextManager[None]],
    console: tuple[int, int] | None, monitor: ExitStack,
) -> tuple[int, str, tuple[str, ...]]:
    """``monitor`` waits for the end of that when it is closed."""
    plan, notes = starting.plan_of(engine, container, console)
    plan = replace(plan, volumes=tuple(command.mounts), is_for_client=True)
    if plan.cgroup and command.cgroup_parent:
        plan = replace(plan, cgroup=f"{command.cgroup_parent}/{container.id}")
    ours, theirs = socket.socketpair()
    # When our end is closed, or shut, the monitor kills the command: whatever happens here.
    with ours, watch(lambda: ours.shutdown(socket.SHUT_RDWR)):
        with theirs:
            if is_single_threaded():
                engine.store.state.release()
            _pid, more = launch(plan, lock, theirs)
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            monitor.callback(_await, os.pidfd_open(directory.read_state().monitor))
        code, error = listen(ours)
    return code, error, (*notes, *more)


def listening(output: Callable[[bytes, bool], None]) -> Listen:
    """``output`` gets what comes, and whether on stderr."""
    return lambda connection: _listen(connection, output)


def _listen(connection: socket.socket, output: Callable[[bytes, bool], None]) -> tuple[int, str]:
    reader = FrameReader()
    while received := connection.recv(1 << 16):
        for kind, payload in reader.feed(received):
            if kind is Kind.EXIT:
                words = json.loads(payload)
                return words["code"], words["error"]
            output(payload, kind is Kind.ERROR_OUTPUT)
    raise Unavailable("the command's monitor was killed before it could say how the command ended")


def _await(monitor: int) -> None:
    """It undoes mounts and the network before it goes; what it mounted must not be removed before that."""
    try:
        poller = select.poll()
        poller.register(monitor, select.POLLIN)
        if not poller.poll(_END_SECONDS * 1000):
            raise _still_there()
    finally:
        os.close(monitor)


def _still_there() -> Unavailable:
    return Unavailable(f"the command's monitor did not end within {_END_SECONDS:.0f} s")
