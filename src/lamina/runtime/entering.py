"""One more process in a running container: what ``exec`` does, and health checks do from the monitor.

The process is a child of whoever asks. For an ordinary user's container that one must be in the container's
user namespace first, which takes a process with a single thread: the command is one, and a program that uses
the API gets a helper process (:func:`run_apart`).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lamina.errors import Unavailable
from lamina.runtime import capabilities
from lamina.runtime.container import Container, ContainerNotRunning, ContainerState
from lamina.runtime.runtime import EMBEDDED, Runtime, Stdio, choose_runtime
from lamina.runtime.signals import send
from lamina.runtime.spec import exec_process
from lamina.runtime.users import find_user, insist_databases, read_database
from lamina.snapshot import syscalls
from lamina.snapshot.namespace import current_identity
from lamina.values import asdict, dataclass

_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from lamina.runtime.entering import main; main()"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecOptions:
    """``console`` is the terminal's rows and columns."""

    command: tuple[str, ...]
    environment: tuple[str, ...] = ()
    user: str = ""
    working_directory: str = ""
    has_terminal: bool = False
    is_privileged: bool = False
    console: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A running container, as it was found."""

    root: Path
    container: Container
    state: ContainerState

    @property
    def bundle(self) -> Path:
        return self.root / "containers" / self.container.id

    @contextlib.contextmanager
    def joined(self) -> Iterator[Inside]:
        """This process becomes a subreaper, and for an ordinary user's container joins its user namespace."""
        syscalls.become_subreaper()
        pidfd = _pidfd(self.state, self.container.name)
        try:
            top = os.open(f"/proc/{self.state.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            if _user_namespace(self.state.pid) != _user_namespace(os.getpid()):
                syscalls.setns(pidfd, syscalls.CLONE_NEWUSER)
        finally:
            os.close(pidfd)
        try:
            yield Inside(self, top, choose_runtime(self.state.runtime, current_identity()))
        finally:
            os.close(top)


class Inside:
    def __init__(self, entry: Entry, top: int, runtime: Runtime) -> None:
        self._entry = entry
        self._top = top
        self._runtime = runtime

    def start(self, options: ExecOptions, *, stdin: int, stdout: int, stderr: int) -> EnteredProcess:
        """Descriptors of ours, or -1 for nothing. Raises ``CommandNotFound``, ``CommandNotExecutable``."""
        entry = self._entry
        document = json.loads((entry.bundle / "config.json").read_bytes())
        user = None
        if self._runtime.name != EMBEDDED:
            insist_databases(self._top)
        if options.user:
            user = find_user(
                options.user, read_database(self._top, "etc/passwd"), read_database(self._top, "etc/group")
            )
        process = exec_process(
            document, options.command, environment=options.environment, user=user,
            directory=options.working_directory, has_terminal=options.has_terminal,
            is_privileged=options.is_privileged, owned=capabilities.own(),
        )
        if options.console:
            process["consoleSize"] = {"height": options.console[0], "width": options.console[1]}
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            stdio = Stdio(*(nothing if each < 0 else each for each in (stdin, stdout, stderr)))
            made = self._runtime.execute(entry.bundle, entry.container.id, process, entry.state.pid, stdio)
        finally:
            os.close(nothing)
        return EnteredProcess(made.pid, made.terminal)


class EnteredProcess:
    """A child of this process. ``terminal`` is its pty's master, or -1."""

    def __init__(self, pid: int, terminal: int) -> None:
        from lamina.content.lease import process_start  # noqa: PLC0415 - a process is there

        self.pid = pid
        self.terminal = terminal
        self._started = process_start(pid) or 0
        self._code: int | None = None

    def send(self, number: int) -> None:
        send(self.pid, self._started, number)

    def is_over(self) -> bool:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = _shell_code(status)
        return self._code is not None

    def wait(self) -> int:
        """The exit code, as a shell has it."""
        if self._code is None:
            _, status = os.waitpid(self.pid, 0)
            self._code = _shell_code(status)
        return self._code


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecResult:
    exit_code: int
    stdout: bytes
    stderr: bytes


def run_apart(entry: Entry, options: ExecOptions, data: bytes = b"") -> ExecResult:
    """In a process of its own, with ``data`` for its input; waits for its end."""
    import subprocess  # noqa: PLC0415 - programs only

    here = str(Path(__file__).parent.parent.parent)
    path = [here, *(item for item in sys.path if item and item != here)]
    heard, told = os.pipe()
    job = {
        "root": str(entry.root), "container": entry.container.to_json(), "state": asdict(entry.state),
        "options": asdict(options), "report": told,
    }
    # Not an argument: those are 128 KiB at most (execve(2)), and everybody on the machine may read them.
    order = os.memfd_create("order")
    try:
        os.write(order, json.dumps(job).encode())
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _BOOT, json.dumps(path), str(order)], pass_fds=[told, order],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
    finally:
        os.close(told)
        os.close(order)
    with process, open(heard, "rb") as report:
        stdout, stderr = process.communicate(data)
        document: Mapping[str, Any] = json.loads(report.read() or b"{}")
    if "error" in document:
        from lamina.snapshot.hands import read_error  # noqa: PLC0415 - failures only

        raise read_error(document["error"])
    if "code" not in document:
        raise Unavailable(f"{entry.container.name}: the process that entered it ended early")
    return ExecResult(exit_code=document["code"], stdout=stdout, stderr=stderr)


def main() -> None:
    """The other side of :func:`run_apart`."""
    order = int(sys.argv[2])
    os.lseek(order, 0, os.SEEK_SET)
    with open(order, "rb") as file:
        job = json.loads(file.read())
    document: dict[str, Any]
    try:
        entry = Entry(
            root=Path(job["root"]), container=Container.from_json(job["container"]),
            state=ContainerState.from_json(job["state"]),
        )
        console = job["options"].pop("console")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in job["options"].items()
        }
        options = ExecOptions(**values, console=tuple(console) if console else None)
        with entry.joined() as inside:
            document = {"code": inside.start(options, stdin=0, stdout=1, stderr=2).wait()}
    except Exception as error:
        from lamina.snapshot.hands import error_document  # noqa: PLC0415 - failures only

        document = {"error": error_document(error)}
    os.write(job["report"], json.dumps(document).encode())


def _pidfd(state: ContainerState, name: str) -> int:
    """Of the container's first process and no other: looked at after the descriptor is held."""
    try:
        descriptor = os.pidfd_open(state.pid)
    except ProcessLookupError:
        raise ContainerNotRunning(f"{name}: ended meanwhile") from None
    if not state.is_process_alive:
        os.close(descriptor)
        raise ContainerNotRunning(f"{name}: ended meanwhile")
    return descriptor


def _user_namespace(pid: int) -> tuple[int, int]:
    found = os.stat(f"/proc/{pid}/ns/user")
    return found.st_dev, found.st_ino


def _shell_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
