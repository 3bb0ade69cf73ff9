"""The process that keeps owners for a container whose user has a single id (see ``ownership``).

One for each container, forked by its monitor, and of its own so that neither waits for the other: a process
that the monitor starts may stop at its first call until somebody answers. Whoever starts a process in the
container hands the listener over through the socket ``owners`` in the container's directory. It lives as long
as the monitor or a listener does.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from lamina.runtime.credentials import Credentials, CredentialTable
from lamina.runtime.notes import Notes
from lamina.runtime.ownership import OwnershipSupervisor
from lamina.runtime.socketfile import bind, connect

_SOCKET = "owners"
_MESSAGE = 4096
_OUT_OF_DESCRIPTORS = 0.05


def spawn(directory: Path) -> int:
    """From the monitor, in the container's user namespace. Closing the descriptor is the monitor's end."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    bind(listener, directory, _SOCKET)
    listener.listen(16)
    theirs, ours = os.pipe()
    if os.fork() == 0:
        _serve(listener, theirs)
    os.close(theirs)
    listener.close()
    return ours


def hand_over(directory: Path, listener: int, pid: int, user: Mapping[str, Any]) -> None:
    """A process' notifications, and who it is to be. Returns when that is so; the descriptor is closed."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connect(connection, directory, _SOCKET)
            document = {"pid": pid, **{name: user.get(name) for name in ("uid", "gid", "additionalGids")}}
            socket.send_fds(connection, [json.dumps(document).encode()], [listener])
            connection.recv(1)
    finally:
        os.close(listener)


def _serve(listener: socket.socket, monitor: int) -> NoReturn:
    """The process' whole life. It keeps nothing else open, least of all the lock: the monitor's life."""
    try:
        keep = sorted({listener.fileno(), monitor})
        first = 3
        for descriptor in (*keep, 1 << 16):
            os.closerange(first, descriptor)
            first = descriptor + 1
        _Server(listener, monitor).run()
    finally:
        os._exit(0)


class _Server:
    def __init__(self, listener: socket.socket, monitor: int) -> None:
        self._listener = listener
        self._monitor = monitor
        self._credentials = CredentialTable()
        self._notes = Notes()
        self._supervisors: dict[int, OwnershipSupervisor] = {}

    def run(self) -> None:
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        poller.register(self._monitor, 0)  # a hang-up is told always
        is_monitored = True
        while is_monitored or self._supervisors:
            for descriptor, events in poller.poll():
                if descriptor == self._monitor:
                    poller.unregister(self._monitor)
                    is_monitored = False
                elif descriptor == self._listener.fileno():
                    made = self._accept()
                    if made >= 0:
                        poller.register(made, select.POLLIN)
                elif events & select.POLLIN:
                    self._supervisors[descriptor].handle()
                elif events:
                    poller.unregister(descriptor)
                    self._supervisors.pop(descriptor).close()

    def _accept(self) -> int:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            # It stays in the queue, and would be tried at once.
            if error.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(_OUT_OF_DESCRIPTORS)
            return -1
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError), connection:
            message, descriptors, _, _ = socket.recv_fds(connection, _MESSAGE, 1)
            document = json.loads(message)
            if document["uid"] or document["gid"] or document["additionalGids"]:
                self._credentials.assume(document["pid"], Credentials.of(
                    document["uid"], document["gid"], tuple(document["additionalGids"] or ()),
                ))
            made = OwnershipSupervisor(
                descriptors[0], credentials=self._credentials, notes=self._notes
            )
            self._supervisors[made.fileno()] = made
            connection.send(b"!")
            return made.fileno()
        return -1
