"""Who touches trees: this process, or a worker process that stands inside the user namespace.

A program with threads cannot enter a user namespace, and need not: it hands the work that takes other
people's ids to a worker. Workers also unpack several layers at once, where Python itself is the work.
They are spawned, never forked (threads may hold locks), and serve one job after another over a socket
of messages: a job, then news of the growing file it reads; back come progress and a result or an error.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lamina.errors import LaminaError, Unavailable
from lamina.snapshot.namespace import Identity, IdRange, Ownership, current_identity
from lamina.snapshot.trees import empty_and_remove

if TYPE_CHECKING:
    import socket
    import subprocess

    from lamina.content.arrival import Arrival

# A stack of 2,048 diff ids fits; the kernel's own limit is the socket's buffer, 208 KiB by default.
MAX_MESSAGE = 192 * 1024
_EXIT_SECONDS = 5.0
# fcntl(2): what every user may ask for; the default of 64 KiB wakes each side sixteen times as often.
_F_SETPIPE_SZ = 1031
_PIPE = 1 << 20
_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from lamina.snapshot.worker import main; main()"
)

Progress = Callable[[int], None]


class WorkerDied(Unavailable):
    """Killed, or out of memory: its own last words are on standard error."""


class Worker:
    """One process, one job at a time."""

    def __init__(self, identity: Identity) -> None:
        import socket  # noqa: PLC0415 - root needs no worker

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        try:
            self._process = _spawn(identity, theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()

    def run(
        self, verb: str, arguments: Mapping[str, Any], *, source: Arrival | None = None,
        progress: Progress | None = None, written: BinaryIO | None = None,
    ) -> Any:
        """The job's result, or its error raised here. ``source`` is what it reads, whole or growing.

        ``written`` is the end of a pipe that it writes to; it is closed here.
        """
        import socket  # noqa: PLC0415 - loaded already

        descriptors = [] if written is None else [written]
        if source is not None:
            file = open(source.path, "rb", buffering=0)  # noqa: SIM115 - closed once it is sent
            descriptors.append(file)
        try:
            job = {"verb": verb, "arguments": dict(arguments), "is_written": written is not None}
            message = _encoded(job)
            try:
                socket.send_fds(self._socket, [message], [item.fileno() for item in descriptors])
            except OSError:
                self._result(progress)  # it says why it could not even begin
                raise
        finally:
            for item in descriptors:
                item.close()
        if source is not None:
            self._feed(source, progress)
        return self._result(progress)

    def cancel(self) -> None:
        """From any thread: the job it is at fails, and cleans up after itself."""
        self._tell({"failed": True})

    def close(self) -> None:
        """Waits a moment for the process to end by itself."""
        import subprocess  # noqa: PLC0415 - loaded already

        self._socket.close()
        try:
            self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _feed(self, source: Arrival, progress: Progress | None) -> None:
        """Passes on how much of the file is there, until all is, or until the worker has an answer."""
        available = 0
        try:
            while not self._has_answer(progress):
                more = source.wait(available)
                self._tell({"available": more, "complete": more == available})
                if more == available:
                    return
                available = more
        except LaminaError:
            self.cancel()
            with contextlib.suppress(LaminaError):
                self._result(progress)
            raise

    def _tell(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # a worker that died says so when its answer is asked for
            self._socket.send(_encoded(message))

    def _has_answer(self, progress: Progress | None) -> bool:
        """Takes progress off the socket; an answer stays in there."""
        import socket  # noqa: PLC0415 - loaded already

        while True:
            try:
                message = self._socket.recv(MAX_MESSAGE, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except OSError:
                return True
            if not message or b'"position"' not in message[:16]:
                return True
            self._report(json.loads(self._socket.recv(MAX_MESSAGE)), progress)

    def _result(self, progress: Progress | None) -> Any:
        while True:
            try:
                message = self._socket.recv(MAX_MESSAGE)
            except OSError:
                message = b""
            if not message:
                raise WorkerDied("the worker process that unpacks layers ended early")
            answer = json.loads(message)
            if "position" in answer:
                self._report(answer, progress)
                continue
            if "error" in answer:
                raise read_error(answer["error"])
            return answer["result"]

    @staticmethod
    def _report(answer: Mapping[str, Any], progress: Progress | None) -> None:
        if progress is not None:
            progress(answer["position"])


class Hands:
    """Runs jobs under an identity. Safe for threads; close it."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._lock = threading.Lock()
        self._worker: Worker | None = None

    def run(self, verb: str, **arguments: Any) -> Any:
        if self.identity.is_entered:
            from lamina.snapshot.worker import run_job  # noqa: PLC0415 - not for commands that only list

            return run_job(verb, arguments)
        return self._delegate(verb, arguments)

    @contextlib.contextmanager
    def reading(self, verb: str, **arguments: Any) -> Iterator[BinaryIO]:
        """What a job writes, while it does so in a worker. What goes wrong there is raised at the end."""
        ours, theirs = os.pipe()
        with open(ours, "rb", buffering=0) as stream:
            fcntl.fcntl(ours, _F_SETPIPE_SZ, _PIPE)
            outcome: list[BaseException] = []
            written = open(theirs, "wb", buffering=0)  # noqa: SIM115 - closed by who sends it away

            def work() -> None:
                try:
                    self._delegate(verb, arguments, written)
                except BaseException as error:
                    outcome.append(error)
                finally:
                    written.close()

            thread = threading.Thread(target=work, name=f"reading {verb}", daemon=True)
            thread.start()
            try:
                yield stream
            finally:
                stream.close()  # a job that still writes fails, and says so
                thread.join()
                if outcome and not isinstance(outcome[0], BrokenPipeError):
                    raise outcome[0]  # what the reader made of half a stream says less

    def _delegate(self, verb: str, arguments: Mapping[str, Any], written: BinaryIO | None = None) -> Any:
        with self._lock:
            if self._worker is None:
                self._worker = Worker(self.identity)
            try:
                return self._worker.run(verb, arguments, written=written)
            except WorkerDied:
                self._worker.close()
                self._worker = None
                raise

    def empty(self, doomed: Path) -> None:
        """Removes a tree, whoever owns what is in there."""
        try:
            empty_and_remove(doomed)
        except PermissionError:
            if self.identity.is_entered:
                raise
            self.run("remove", path=str(doomed))

    def close(self) -> None:
        with self._lock:
            if self._worker is not None:
                self._worker.close()
                self._worker = None


def empty_anyhow(doomed: Path) -> None:
    """Removes a tree, in a namespace if that is what it takes."""
    try:
        empty_and_remove(doomed)
    except PermissionError:
        hands = Hands(current_identity())
        try:
            hands.empty(doomed)
        finally:
            hands.close()


# -- the parent's part of the wire


def _spawn(identity: Identity, theirs: socket.socket) -> subprocess.Popen[bytes]:
    """``-I -S`` and our own search path: nothing is imported from the working directory, and no ``site``.

    Ctrl-C reaches it too, and until it ignores that, it keeps what this thread blocks.
    """
    import signal  # noqa: PLC0415 - root needs no worker
    import subprocess  # noqa: PLC0415 - 10 ms that most commands need not spend

    here = str(Path(__file__).parent.parent.parent)
    path = [here, *(item for item in sys.path if item and item != here)]
    flags = ["-I", "-S", *(["-B"] if sys.dont_write_bytecode else [])]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(
            [sys.executable, *flags, "-c", _BOOT, json.dumps(path), str(theirs.fileno()),
             json.dumps(identity_document(identity))],
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def identity_document(identity: Identity) -> dict[str, Any]:
    return {
        "ownership": identity.ownership.value,
        "uid_map": [str(part) for part in identity.uid_map],
        "gid_map": [str(part) for part in identity.gid_map],
        "is_entered": identity.is_entered,
        "may_mount": identity.may_mount,
        "is_initial": identity.is_initial,
    }


def read_identity(document: Mapping[str, Any]) -> Identity:
    uid_map, gid_map = (
        tuple(IdRange(*map(int, line.split())) for line in document[name]) for name in ("uid_map", "gid_map")
    )
    return Identity(
        ownership=Ownership(document["ownership"]), uid_map=uid_map, gid_map=gid_map,
        is_entered=document["is_entered"], may_mount=document["may_mount"], is_initial=document["is_initial"],
    )


def _encoded(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode("ascii")


def error_document(error: BaseException) -> dict[str, Any]:
    """An error as data: what a worker sends."""
    kind = type(error)
    document: dict[str, Any] = {
        "module": kind.__module__, "name": kind.__qualname__, "message": str(error),
        "notes": getattr(error, "__notes__", []),
    }
    if isinstance(error, OSError):
        document["errno"] = error.errno
        document["strerror"] = error.strerror
        document["filename"] = error.filename if isinstance(error.filename, str) else None
    return document


def read_error(document: Mapping[str, Any]) -> Exception:
    """The same error here: ours by name, the system's by number, and anything else as what it said."""
    error: Exception
    found: object = None
    if document["module"].startswith("lamina."):
        found = getattr(importlib.import_module(document["module"]), document["name"], None)
    if isinstance(found, type) and issubclass(found, LaminaError):
        error = found(document["message"])
    elif document.get("errno"):
        error = OSError(document["errno"], document["strerror"], document["filename"])
    else:
        error = RuntimeError(f"{document['name']}: {document['message']}")
    for note in document["notes"]:
        error.add_note(note)
    return error
