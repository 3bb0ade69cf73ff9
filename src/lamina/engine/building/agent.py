"""The ssh agent of who builds, lent to one RUN through a socket that is gone afterwards."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from lamina.runtime.container import ContainerDirectory
from lamina.runtime.socketfile import listening

_NAME = "agent"
_CHUNK = 1 << 16


@contextlib.contextmanager
def forwarded(root: Path, agent: str) -> Iterator[Path]:
    """``agent`` is the path of its socket. A socket of our own may get the owner that was asked for.

    It is in a directory like a container's, which is swept as theirs are if nobody lives to remove it.
    """
    home = ContainerDirectory(root, os.urandom(32).hex())
    with home.made():
        try:
            with listening(home.path, _NAME, 16) as listener:
                threading.Thread(target=_serve, args=(listener, agent), daemon=True).start()
                try:
                    yield home.path / _NAME
                finally:
                    with contextlib.suppress(OSError):
                        listener.shutdown(socket.SHUT_RDWR)
        finally:
            home.discard()


def _serve(listener: socket.socket, agent: str) -> None:
    while True:
        try:
            ours, _ = listener.accept()
        except OSError:
            return
        theirs = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            theirs.connect(agent)
        except OSError:
            ours.close()
            theirs.close()
            continue
        for source, sink in ((ours, theirs), (theirs, ours)):
            threading.Thread(target=_pass, args=(source, sink), daemon=True).start()


def _pass(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(_CHUNK):
            sink.sendall(chunk)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def agent_of(text: str, environ: dict[str, str] | os._Environ[str]) -> tuple[str, str]:
    """``default``, or ``id=PATH``: its id, and where its socket is."""
    name, equals, path = text.partition("=")
    return name or "default", path if equals and path else environ.get("SSH_AUTH_SOCK", "")
