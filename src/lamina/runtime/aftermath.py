"""What is left of a container when its monitor was killed, or a runtime's program: found, ended and undone.

A monitor notes in ``begun`` what it is about to make before it makes it, and removes the file when nothing is
left to undo. So where the file is and nobody holds the lock, there may be a control group, a network, and
processes that no state knows of: a runtime makes the first one before it can be told of.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lamina.content.lease import boot_id, process_start
from lamina.errors import Conflict, Unavailable
from lamina.runtime.signals import send, wait_for_end

_BEGUN = "begun"
_RUNTIME = "runtime"
_SECONDS = 10.0


def note_beginning(directory: Path, cgroup: str) -> None:
    """By the monitor, before there is anything."""
    with contextlib.suppress(FileNotFoundError):
        (directory / _BEGUN).unlink()
    _note(directory, {"boot": boot_id(), "cgroup": cgroup})


def note_process(directory: Path, pid: int) -> None:
    """By the monitor, before the container's first process does anything of its own."""
    _note(directory, {"pid": pid, "pid_started": process_start(pid) or 0})


def note_end(directory: Path) -> None:
    (directory / _BEGUN).unlink(missing_ok=True)


def is_begun(directory: Path) -> bool:
    """Whether a monitor is at it, or died before it was done."""
    return os.path.lexists(directory / _BEGUN)


def clean_up(directory: Path) -> None:
    """For the holder of the lock. Any number of times; what cannot be undone now stays noted."""
    from lamina.runtime.network.connecting import disconnect  # noqa: PLC0415 - after a crash only

    noted = _noted(directory)
    if noted.get("boot") == boot_id():
        end_processes(directory)
        _remove_group(noted.get("cgroup", ""))
    with contextlib.suppress(Unavailable, OSError):
        disconnect(directory)
        note_end(directory)


def end_processes(directory: Path) -> None:
    """Of the runtime its program first, so that it begins no more; then whom it or the monitor noted."""
    for find in (_programs, _first_processes):
        for pid, started in find(directory):
            if send(pid, started, signal.SIGKILL):
                wait_for_end(pid, started, _SECONDS)


def _programs(directory: Path) -> Iterator[tuple[int, int]]:
    """Runtimes are called with a directory for their state that is this container's alone (see ``oci``)."""
    wanted = [b"--root", os.fsencode(directory / _RUNTIME)]
    for name in filter(str.isdigit, os.listdir("/proc")):
        started = process_start(int(name))
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            if words[1:3] == wanted and started is not None:
                yield int(name), started


def _first_processes(directory: Path) -> Iterator[tuple[int, int]]:
    noted = _noted(directory)
    if noted.get("pid"):
        yield noted["pid"], noted["pid_started"]
    for path in (directory / _RUNTIME).glob("*/*"):
        names = {
            "state.json": ("init_process_pid", "init_process_start"), "status": ("pid", "process-start-time"),
        }.get(path.name)
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            if names is not None:
                document = json.loads(path.read_bytes())
                yield int(document[names[0]]), int(document[names[1]])


def _remove_group(cgroup: str) -> None:
    if not cgroup:
        return
    from lamina.runtime.cgroup import Cgroups  # noqa: PLC0415 - after a crash only

    group = Cgroups.detect().at(cgroup)
    with contextlib.suppress(Conflict, Unavailable, OSError):
        group.kill()
        group.remove()


def _note(directory: Path, what: Mapping[str, Any]) -> None:
    """A line more: whoever is killed while writing it spoils no other."""
    descriptor = os.open(
        directory / _BEGUN, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        os.write(descriptor, json.dumps(what).encode() + b"\n")
    finally:
        os.close(descriptor)


def _noted(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in (directory / _BEGUN).read_bytes().splitlines():
            with contextlib.suppress(ValueError, TypeError):
                found.update(json.loads(line))
    return found
