"""How containers end: stopped, killed, and waited for."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING

from lamina.engine.containers import Seen, directory_of, find, find_group, find_live, see
from lamina.errors import Conflict
from lamina.runtime.container import (
    PATIENCE,
    STOPPING,
    Container,
    ContainerNotRunning,
    ContainerState,
    Status,
    observe,
)
from lamina.runtime.signals import parse_signal, send, wait_for_end

if TYPE_CHECKING:
    from lamina.engine.core import Core

DEFAULT_STOP_SECONDS = 10
_STEP = 0.005


def stop(engine: Core, name: str, *, seconds: int | None = None, number: int = 0) -> None:
    """The container's own signal, or ``number``; after ``seconds`` SIGKILL. One that has ended is fine."""
    seen = find(engine, name)
    if not seen.state.is_live:
        return
    seen = intend_to_stop(engine, seen)
    if not seen.state.is_live:
        return
    options = seen.container.options
    patience = seconds if seconds is not None else options.stop_timeout
    patience = DEFAULT_STOP_SECONDS if patience is None else patience
    thaw(engine, seen)
    wanted = number or parse_signal(seen.container.stop_signal)
    send(seen.state.pid, seen.state.pid_started, wanted)
    if not wait_for_end(seen.state.pid, seen.state.pid_started, None if patience < 0 else patience):
        kill_everything(seen.state)
    await_end(engine, seen.container)


def kill(engine: Core, name: str, number: int = signal.SIGKILL) -> None:
    """Sends a signal to the container's first process. Raises ``ContainerNotRunning``."""
    seen = find_live(engine, name, "kill")
    if number == signal.SIGKILL:
        intend_to_stop(engine, seen)
        thaw(engine, seen)
    elif number == parse_signal(seen.container.stop_signal):
        intend_to_stop(engine, seen)
    if not send(seen.state.pid, seen.state.pid_started, number):
        raise ContainerNotRunning(f"{name}: ended meanwhile")
    if number == signal.SIGKILL:
        wait_for_end(seen.state.pid, seen.state.pid_started, DEFAULT_STOP_SECONDS)
        await_end(engine, seen.container)


def kill_everything(state: ContainerState) -> None:
    """The first process takes all others of its pid namespace along; the group finds those without one."""
    send(state.pid, state.pid_started, signal.SIGKILL)
    if not wait_for_end(state.pid, state.pid_started, DEFAULT_STOP_SECONDS):
        group = find_group(state)
        if group is not None:
            group.kill()


def intend_to_stop(engine: Core, seen: Seen) -> Seen:
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


def thaw(engine: Core, seen: Seen) -> None:
    """On the way to the end of it; somebody else may have done it, or it may have ended."""
    if seen.state.status is Status.PAUSED:
        from lamina.engine.pausing import unpause

        with contextlib.suppress(Conflict):
            unpause(engine, seen.container.id)


def await_end(engine: Core, container: Container) -> None:
    """Until the monitor has written the end down, or the container is gone altogether."""
    directory = directory_of(engine, container)
    deadline = time.monotonic() + PATIENCE
    while directory.read_state().is_live and directory.is_attended() and time.monotonic() < deadline:
        time.sleep(_STEP)
    if directory.path.exists():
        see(engine, container)


def wait(engine: Core, name: str, *, condition: str = "not-running") -> int:
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
