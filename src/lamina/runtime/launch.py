"""Starting a monitor: by a fork where this process has a single thread, else by a new interpreter.

A fork costs a millisecond, an interpreter forty. But a forked child of a process with threads may wait for
ever for a lock that one of them held, so a program that uses the API with threads gets the new interpreter.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from lamina.errors import LaminaError, Unavailable
from lamina.runtime.plan import Plan

# The spawned one forks as well: the caller waits for the first, and the second is on its own. It reads the
# plan before that, while the pipe is still there.
_BOOT = (
    "import sys, json, os; sys.path[:] = json.loads(sys.argv[1]); "
    "from lamina.runtime import monitor; plan = monitor.read_plan(); "
    "os.fork() and os._exit(0); monitor.of_arguments(plan)"
)


class MonitorDied(Unavailable):
    """Killed before it could say whether the container runs."""


def launch(
    plan: Plan, lock: int, client: socket.socket | None = None
) -> tuple[int, tuple[str, ...]]:
    """Starts a container's monitor, which inherits ``lock``; gives pid and notes once the container runs.

    ``client`` is one end of a socket pair: its other end is attached from the very beginning. Raises what
    kept the container from running.
    """
    heard, ready = os.pipe()
    try:
        first = -1 if client is None else client.fileno()
        if is_single_threaded():
            _fork(plan, lock, ready, first)
        else:
            _spawn(plan, lock, ready, first)
    except BaseException:
        os.close(heard)
        raise
    finally:
        os.close(ready)
        if client is not None:
            client.close()
    with open(heard, "rb") as stream:
        line = stream.read()
    if not line:
        raise MonitorDied(f"{plan.container.name}: its monitor ended before the container was started")
    document: Mapping[str, Any] = json.loads(line)
    if "error" in document:
        raise _error(document["error"])
    return document["pid"], tuple(document["notes"])


def is_single_threaded() -> bool:
    """By the kernel's count: libraries have threads that Python knows nothing of."""
    return len(os.listdir("/proc/self/task")) == 1


def _fork(plan: Plan, lock: int, ready: int, client: int) -> None:
    """Twice, so that the monitor is nobody's child who would have to wait for it."""
    child = os.fork()
    if child == 0:
        _become_monitor(plan, lock, ready, client)
    os.waitpid(child, 0)


def _become_monitor(plan: Plan, lock: int, ready: int, client: int) -> NoReturn:
    try:
        os.setsid()
        if os.fork() == 0:
            from lamina.runtime.monitor import main  # noqa: PLC0415 - by those who start containers

            main(plan, lock, ready, client)
    finally:
        os._exit(0)


def _spawn(plan: Plan, lock: int, ready: int, client: int) -> None:
    """The interpreter starts alone (``-I -S``): nothing is imported from the working directory."""
    import subprocess  # noqa: PLC0415 - programs with threads only

    here = str(Path(__file__).parent.parent.parent)
    path = [here, *(item for item in sys.path if item and item != here)]
    descriptors = [each for each in (lock, ready, client) if each >= 0]
    command = [sys.executable, "-I", "-S", "-c", _BOOT, json.dumps(path), str(lock), str(ready), str(client)]
    process = subprocess.Popen(
        command, pass_fds=descriptors, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )
    process.communicate(json.dumps(plan.to_json()).encode())


def _error(document: Mapping[str, Any]) -> Exception:
    from lamina.snapshot.hands import read_error  # noqa: PLC0415 - failures only

    error = read_error(document)
    if not isinstance(error, LaminaError | OSError):
        error.add_note("containers/<id>/monitor.log in the state directory has the details")
    return error
