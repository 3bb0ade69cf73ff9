"""Unix sockets in a container's directory, however long that directory's own name is.

The name of a socket has at most 107 bytes (unix(7)), and a state directory's may be longer: it is reached by
way of a descriptor of its directory.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path


def bind(listener: socket.socket, directory: Path, name: str) -> None:
    """In the place of one that was left there."""
    (directory / name).unlink(missing_ok=True)
    with _reached(directory, name) as short:
        listener.bind(short)


def connect(connection: socket.socket, directory: Path, name: str) -> None:
    with _reached(directory, name) as short:
        connection.connect(short)


@contextlib.contextmanager
def listening(directory: Path, name: str, backlog: int) -> Iterator[socket.socket]:
    """A stream socket, which is gone afterwards."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            bind(listener, directory, name)
            listener.listen(backlog)
            yield listener
    finally:
        (directory / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _reached(directory: Path, name: str) -> Iterator[str]:
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{place}/{name}"
    finally:
        os.close(place)
