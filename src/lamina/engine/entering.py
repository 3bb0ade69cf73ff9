"""Entering running containers: exec, and attaching to what they say."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Self

from lamina.engine import containers
from lamina.errors import Conflict, LaminaError, Unavailable, Unsupported
from lamina.runtime.container import ContainerNotRunning, Status
from lamina.runtime.entering import Entry, ExecOptions, ExecResult, run_apart
from lamina.runtime.frames import FrameReader, Kind, frame
from lamina.runtime.logs import LogFollower, LogLine, read_log
from lamina.runtime.socketfile import connect
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.engine.core import Core
    from lamina.runtime.options import ContainerOptions

_CHUNK = 64 << 10

__all__ = [
    "ContainerLog", "Entry", "ExecOptions", "ExecResult", "RunResult", "attach", "enter", "execute", "run",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What came of :func:`run`."""

    container: str
    exit_code: int
    stdout: bytes
    stderr: bytes


def enter(engine: Core, name: str) -> Entry:
    """Raises ``ContainerNotRunning``."""
    seen = containers.find(engine, name)
    if seen.state.status is Status.PAUSED:
        raise Conflict(f"{name}: paused; `lamina unpause {name}` first")
    if not seen.state.is_live or not seen.state.pid:
        raise ContainerNotRunning(f"{name}: not running; `lamina start {name}` starts it")
    return Entry(root=engine.root, container=seen.container, state=seen.state)


def execute(engine: Core, name: str, options: ExecOptions, data: bytes = b"") -> ExecResult:
    return run_apart(enter(engine, name), options, data)


def attach(engine: Core, name: str) -> socket.socket:
    """A connection with its monitor, in frames (``lamina.runtime.frames``). The caller closes it."""
    seen = containers.find(engine, name)
    if not seen.state.is_live:
        raise ContainerNotRunning(f"{name}: not running; `lamina start -a {name}` starts it and attaches")
    directory = containers.directory_of(engine, seen.container)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connect(connection, directory.path, "attach")
    except OSError:
        connection.close()
        raise ContainerNotRunning(f"{name}: its monitor was killed, and with it what it had to say") from None
    return connection


def run(
    engine: Core, image: str, command: Sequence[str], options: ContainerOptions | None, *, name: str,
    data: bytes, removes: bool,
) -> RunResult:
    from lamina.engine import creating, starting
    from lamina.runtime.options import ContainerOptions as Options
    from lamina.values import replace

    chosen = options or Options()
    if command:
        chosen = replace(chosen, command=tuple(command))
    if data:
        chosen = replace(chosen, is_interactive=True)
    chosen = replace(chosen, is_removed_at_exit=removes)
    container = creating.create(engine, image, chosen, container_name=name)
    ours, theirs = socket.socketpair()
    with ours:
        try:
            with theirs:
                starting.start(engine, container, client=theirs)
        except LaminaError:
            if removes:
                from lamina.engine import removing

                with contextlib.suppress(LaminaError):
                    removing.remove(engine, container.id, with_volumes=True)
            raise
        return _collected(container.id, ours, data)


def _collected(container: str, connection: socket.socket, data: bytes) -> RunResult:
    """Input goes in while output comes out: neither may wait for the other."""
    sender = threading.Thread(target=_send_all, args=(connection, data), daemon=True)
    sender.start()
    reader, texts = FrameReader(), {Kind.OUTPUT: bytearray(), Kind.ERROR_OUTPUT: bytearray()}
    while received := connection.recv(65536):
        for kind, payload in reader.feed(received):
            if kind in texts:
                texts[kind] += payload
            elif kind is Kind.EXIT:
                code = json.loads(payload)["code"]
                return RunResult(container=container, exit_code=code, stdout=bytes(texts[Kind.OUTPUT]),
                                 stderr=bytes(texts[Kind.ERROR_OUTPUT]))
    raise Unavailable(f"{container[:12]}: its monitor was killed before it could say how the command ended")


def _send_all(connection: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        for start in range(0, len(data), _CHUNK):
            connection.sendall(frame(Kind.INPUT, data[start : start + _CHUNK]))
        connection.sendall(frame(Kind.INPUT_END))


class ContainerLog:
    """A context manager. ``read`` gives what is there, ``more`` what came since, nothing if nothing did."""

    def __init__(self, engine: Core, name: str) -> None:
        seen = containers.find(engine, name)
        if seen.container.options.log_driver == "none":
            raise Unsupported(f"{name}: made with --log-driver none, so nothing was kept")
        self._path = containers.directory_of(engine, seen.container).log
        # Taken first, so that nothing is lost between the two.
        self._follower = LogFollower(self._path)

    def read(self) -> Iterator[LogLine]:
        return read_log(self._path, self._follower.position)

    def more(self) -> list[LogLine]:
        return self._follower.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._follower.close()
