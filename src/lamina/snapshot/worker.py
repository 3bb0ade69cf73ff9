"""The other side of ``hands``: a process that enters the namespace and does the jobs it is sent."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.content.arrival import ArrivalFailed
from lamina.snapshot.hands import MAX_MESSAGE, error_document, read_identity
from lamina.snapshot.namespace import enter_user_namespace

if TYPE_CHECKING:
    import socket

_PROGRESS_STEP = 4 << 20
_WRITE = 1 << 18


def main() -> None:
    """``argv``: the import path (consumed before), the socket's descriptor, the identity."""
    import signal  # noqa: PLC0415 - a worker's alone: most jobs run in the command itself
    import socket  # noqa: PLC0415 - as above

    from lamina.snapshot.trees import raise_descriptor_limit  # noqa: PLC0415 - as above

    wire = socket.socket(fileno=int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when it is over, and hangs up
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.umask(0)
    raise_descriptor_limit()
    identity = read_identity(json.loads(sys.argv[3]))
    try:
        if not identity.is_entered:
            enter_user_namespace(identity)
    except Exception as error:
        _send(wire, {"error": error_document(error)})
        return
    while _serve(wire):
        pass


def _serve(wire: socket.socket) -> bool:
    import socket  # noqa: PLC0415 - as above

    try:
        message, descriptors, _flags, _address = socket.recv_fds(wire, MAX_MESSAGE, 1)
    except OSError:
        return False
    if not message:
        return False
    job = json.loads(message)
    if "verb" not in job:
        return True  # news of a file whose job is over
    try:
        stream = _stream(descriptors, wire, is_written=job.get("is_written", False))
        result = run_job(job["verb"], job["arguments"], stream)
    except Exception as error:
        return _send(wire, {"error": error_document(error)})
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return _send(wire, {"result": result})


def _stream(descriptors: list[int], wire: socket.socket, *, is_written: bool) -> Any:
    """What the job reads, as it grows; or where it writes to."""
    if not descriptors:
        return None
    if is_written:
        return open(descriptors[0], "wb", buffering=_WRITE, closefd=False)
    return Following(descriptors[0], wire)


def _send(wire: socket.socket, message: Mapping[str, Any]) -> bool:
    try:
        wire.send(json.dumps(message, separators=(",", ":")).encode("ascii"))
    except OSError:
        return False
    return True


class Following(io.RawIOBase):
    """A file that still grows, read as the parent announces it. Its end is the end of the whole blob.

    Raises ``ArrivalFailed`` when the parent gives up, or is no more.
    """

    def __init__(self, descriptor: int, wire: socket.socket) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._wire = wire
        self._available = 0
        self._is_complete = False
        self._position = 0
        self._reported = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        self._listen()
        if self._position >= self._available:
            return b""
        chunk = os.pread(self._descriptor, min(size, self._available - self._position), self._position)
        self._position += len(chunk)
        if self._position - self._reported >= _PROGRESS_STEP:
            self._reported = self._position
            _send(self._wire, {"position": self._position})
        return chunk

    def readinto(self, buffer: Any) -> int:
        chunk = self.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def _listen(self) -> None:
        """Takes all news; waits for some only when there is nothing left to read."""
        import socket  # noqa: PLC0415 - a worker's alone

        while True:
            must_wait = self._position >= self._available and not self._is_complete
            try:
                message = self._wire.recv(MAX_MESSAGE, 0 if must_wait else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            news = json.loads(message) if message else {"failed": True}
            if "failed" in news:
                raise ArrivalFailed("the blob did not arrive")
            self._available = news["available"]
            self._is_complete = news["complete"]


# -- jobs


def run_job(verb: str, arguments: Mapping[str, Any], stream: Any = None) -> Any:
    """Here or in a worker: what is done is the same."""
    job = _JOBS[verb]
    return job(stream, **arguments) if stream is not None else job(**arguments)


def _receive(stream: Any, **arguments: Any) -> Any:
    from lamina.snapshot.receive import receive_job  # noqa: PLC0415 - each job imports its own

    return receive_job(stream, **arguments)


def _settle(**arguments: Any) -> Any:
    from lamina.snapshot.settle import settle_job  # noqa: PLC0415

    return settle_job(**arguments)


def _compose(**arguments: Any) -> Any:
    from lamina.snapshot.compose import compose_job  # noqa: PLC0415

    return compose_job(**arguments)


def _copy(*, source: str, target: str) -> None:
    from lamina.snapshot import trees  # noqa: PLC0415

    trees.copy_tree(Path(source), Path(target))


def _sync(*, path: str) -> None:
    from lamina.snapshot import trees  # noqa: PLC0415

    trees.sync_tree(Path(path))


def _measure(*, path: str) -> list[int]:
    from lamina.snapshot import trees  # noqa: PLC0415

    usage = trees.measure(Path(path))
    return [usage.size, usage.inodes]


def _remove(*, path: str) -> None:
    from lamina.snapshot import trees  # noqa: PLC0415

    trees.empty_and_remove(Path(path))


def _dress(*, path: str, look: Mapping[str, Any], keeps_owners: bool) -> None:
    from lamina.snapshot.look import dress  # noqa: PLC0415

    dress(Path(path), look, keeps_owners=keeps_owners)


def _dress_like(*, path: str, other: str) -> None:
    from lamina.snapshot import trees  # noqa: PLC0415

    trees.copy_root_attributes(Path(other), Path(path))


def _name(*, source: str, target: str) -> None:
    """A directory gets its name, unless somebody else has made the same one by now."""
    with contextlib.suppress(FileExistsError, NotADirectoryError):
        os.rename(source, target)


def _try_overlay(*, path: str, xattrs: str) -> str:
    from lamina.snapshot.trying import try_overlay  # noqa: PLC0415

    return try_overlay(Path(path), xattrs)


def _try_fuse(*, path: str) -> str:
    from lamina.snapshot.fuse import try_fuse  # noqa: PLC0415

    return try_fuse(Path(path))


def _insist_whole(*, path: str, namespace: str) -> None:
    from lamina.snapshot.foreign import insist_whole  # noqa: PLC0415

    insist_whole(Path(path), namespace)


def _list_changes(stream: Any, **arguments: Any) -> None:
    from lamina.snapshot.changes import list_job  # noqa: PLC0415

    list_job(stream, **arguments)


def _write_layer(stream: Any, **arguments: Any) -> None:
    from lamina.snapshot.changes import write_job  # noqa: PLC0415

    write_job(stream, **arguments)


def _apply(stream: Any, **arguments: Any) -> None:
    from lamina.snapshot.moving import apply_job  # noqa: PLC0415

    apply_job(stream, **arguments)


def _btrfs(*, act: str, arguments: Mapping[str, Any]) -> Any:
    from lamina.snapshot.btrfs.subvolumes import run  # noqa: PLC0415

    return run(act, arguments)


def _put(**arguments: Any) -> None:
    from lamina.snapshot.moving import put_job  # noqa: PLC0415

    put_job(**arguments)


def _nothing() -> None:
    """Only to see whether the namespace can be entered."""


_JOBS: Mapping[str, Callable[..., Any]] = {
    "receive": _receive, "settle": _settle, "compose": _compose, "copy": _copy, "sync": _sync,
    "measure": _measure, "remove": _remove, "dress": _dress, "dress_like": _dress_like, "name": _name,
    "try_overlay": _try_overlay, "try_fuse": _try_fuse, "insist_whole": _insist_whole,
    "list_changes": _list_changes, "write_layer": _write_layer,
    "apply": _apply, "put": _put, "btrfs": _btrfs, "nothing": _nothing,
}
