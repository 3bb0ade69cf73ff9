"""A container's filesystem, from outside: a process of ours that has its root as an open directory.

Of a running container the root is ``/proc/PID/root``, opened once; of another one it is mounted in a mount
namespace of that process alone, and gone with it. The process never enters the container's root, so nothing
that lies there is ever loaded or executed (CVE-2019-14271, CVE-2026-41567); every path is looked up with
RESOLVE_IN_ROOT. For an ordinary user it stands in the container's user namespace; only tar bytes leave it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from lamina.errors import Unavailable
from lamina.runtime.container import ContainerDirectory, ContainerState
from lamina.runtime.copying import Found
from lamina.runtime.extraction import Extracted
from lamina.snapshot.hands import MAX_MESSAGE, identity_document, read_error
from lamina.snapshot.namespace import Identity
from lamina.snapshot.snapshotter import Mount
from lamina.values import asdict, dataclass

if TYPE_CHECKING:
    import subprocess

_EXIT_SECONDS = 5.0
_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from lamina.runtime.within import main; main()"
)


class ReachLost(Unavailable):
    """The process ended before it answered: its own last words are on standard error."""


@dataclass(frozen=True, slots=True)
class Bind:
    """What a container has mounted when it runs: a host path, or what is at ``subpath`` below it."""

    target: str
    source: str
    subpath: str = ""
    is_read_only: bool = False


class Reach:
    """One process, one request at a time; close it."""

    def __init__(self, place: Mapping[str, Any], *, inherited: Sequence[int] = ()) -> None:
        """``inherited`` stay open as long as the process lives: the container's lock."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        try:
            self._process = _spawn(theirs, inherited)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._send(place)

    @classmethod
    def running(cls, state: ContainerState) -> Self:
        """Of a container whose first process lives."""
        return cls({"pid": state.pid, "started": state.pid_started})

    @classmethod
    def stopped(
        cls, directory: ContainerDirectory, mounts: Sequence[Mount], identity: Identity, *, lock: int,
        binds: Sequence[Bind] = (),
    ) -> Self:
        """``lock`` is the container's: nobody may start it while its filesystem is mounted here."""
        place = {
            "mounts": [asdict(mount) for mount in mounts], "place": str(directory.rootfs),
            "identity": identity_document(identity), "binds": [asdict(each) for each in binds],
        }
        return cls(place, inherited=[lock])

    def find(self, path: str, *, follow: bool = False) -> Found | None:
        """What is at a path; ``None`` for nothing."""
        answer = self._ask({"verb": "find", "path": path, "follow": follow})
        return None if answer is None else Found.from_json(answer)

    def find_place(self, path: str) -> tuple[str, Found | None]:
        """Of a destination: where it is behind symlinks, and what is there."""
        where, answer = self._ask({"verb": "place", "path": path})
        return where, None if answer is None else Found.from_json(answer)

    @contextlib.contextmanager
    def reading(self, path: str, name: str, *, follow: bool = False) -> Iterator[BinaryIO]:
        """A tar of what is at a path, called ``name`` in there. What went wrong is raised at the end."""
        ours, theirs = os.pipe()
        with open(ours, "rb", buffering=0) as stream:
            self._send({"verb": "read", "path": path, "name": name, "follow": follow}, theirs)
            try:
                yield stream
            finally:
                stream.close()  # who still writes fails, and says so
                with contextlib.suppress(BrokenPipeError):  # the reader had enough
                    self._answer()

    @contextlib.contextmanager
    def writing(self, directory: str, *, keeps_ids: bool) -> Iterator[Writing]:
        """Takes a tar into a directory of the container; the outcome is there when the block is left."""
        theirs, ours = os.pipe()
        writing = Writing(ours)
        try:
            self._send({"verb": "write", "path": directory, "keeps_ids": keeps_ids}, theirs)
            try:
                yield writing
            except BrokenPipeError:
                pass  # the answer says why
            except BaseException:
                writing.close()
                with contextlib.suppress(Exception):
                    self._answer()  # half a tar: of course it fails
                raise
            writing.close()
            size, devices = self._answer()
            writing.outcome = Extracted(size, devices)
        finally:
            writing.close()

    def close(self) -> None:
        import subprocess  # noqa: PLC0415 - loaded already

        self._socket.close()
        try:
            self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- the wire

    def _ask(self, message: Mapping[str, Any]) -> Any:
        self._send(message)
        return self._answer()

    def _send(self, message: Mapping[str, Any], descriptor: int = -1) -> None:
        """The descriptor is theirs afterwards, and closed here."""
        data = json.dumps(message).encode("ascii")
        try:
            socket.send_fds(self._socket, [data], [descriptor] if descriptor >= 0 else [])
        except OSError:
            self._answer()  # it says why it could not even begin
            raise
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _answer(self) -> Any:
        message = b""
        for _attempt in range(2):
            # ECONNRESET comes first where it ended with our question unread; its last words come after it.
            with contextlib.suppress(ConnectionResetError):
                message = self._socket.recv(MAX_MESSAGE)
                break
        if not message:
            raise ReachLost("the process that reaches into the container ended early")
        answer = json.loads(message)
        if "error" in answer:
            raise read_error(answer["error"])
        return answer["result"]


class Writing:
    """Where the tar goes to."""

    def __init__(self, descriptor: int) -> None:
        self._file = open(descriptor, "wb", buffering=0)  # noqa: SIM115 - closed with it
        self.outcome = Extracted(0)

    def write(self, chunk: bytes | memoryview) -> int:
        view = memoryview(chunk)
        while view:
            view = view[self._file.write(view) or 0 :]
        return len(chunk)

    def close(self) -> None:
        self._file.close()


def _spawn(theirs: socket.socket, inherited: Sequence[int]) -> subprocess.Popen[bytes]:
    """``-I -S`` and our own search path: nothing is imported from the working directory, and no ``site``."""
    import subprocess  # noqa: PLC0415 - 10 ms that most commands need not spend

    here = str(Path(__file__).parent.parent.parent)
    path = [here, *(item for item in sys.path if item and item != here)]
    flags = ["-I", "-S", *(["-B"] if sys.dont_write_bytecode else [])]
    return subprocess.Popen(
        [sys.executable, *flags, "-c", _BOOT, json.dumps(path), str(theirs.fileno())],
        pass_fds=[theirs.fileno(), *inherited], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/",
    )
