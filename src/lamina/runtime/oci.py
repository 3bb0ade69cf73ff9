"""runc and crun, driven by their command line: create, start, exec, delete.

Their own state lives in the container's directory (``--root``), so that it goes with it. Errors are taken
from their JSON log. A pty comes through a socket in the same directory, whose path is given relative to it:
the name of a unix socket has 107 bytes at most (unix(7)), and a state directory's may be longer.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lamina.runtime.runtime import CommandNotExecutable, CommandNotFound, Made, RuntimeFailed, Stdio
from lamina.runtime.socketfile import listening

_STATE = "runtime"
_LOG = "runtime.log"
_CONSOLE = "console"
_TERMINAL_SECONDS = 10.0


class OciRuntime:
    def __init__(self, path: str) -> None:
        self.path = path
        self.name = os.path.basename(path)

    def create(self, bundle: Path, container: str, stdio: Stdio) -> Made:
        self._forget(bundle)
        document = json.loads((bundle / "config.json").read_bytes())
        has_terminal = document["process"]["terminal"]
        arguments = ["create", "--bundle", ".", "--pid-file", "pid"]
        return self._make(bundle, arguments, container, stdio, has_terminal=has_terminal)

    def start(self, bundle: Path, container: str) -> None:
        self._run(bundle, ["start", container])

    def execute(
        self, bundle: Path, container: str, process: Mapping[str, Any], pid: int, stdio: Stdio
    ) -> Made:
        del pid  # they know it
        name = f"exec-{os.urandom(8).hex()}"
        (bundle / f"{name}.json").write_text(json.dumps(dict(process)), encoding="utf-8")
        arguments = ["exec", "--detach", "--process", f"{name}.json", "--pid-file", f"{name}.pid"]
        try:
            return self._make(
                bundle, arguments, container, stdio, has_terminal=process["terminal"], name=name
            )
        finally:
            (bundle / f"{name}.json").unlink(missing_ok=True)
            (bundle / f"{name}.pid").unlink(missing_ok=True)

    def delete(self, bundle: Path, container: str) -> None:
        with contextlib.suppress(RuntimeFailed):
            self._run(bundle, ["delete", "--force", container])
        self._forget(bundle)

    def _make(
        self, bundle: Path, arguments: list[str], container: str, stdio: Stdio, *, has_terminal: bool,
        name: str = "",
    ) -> Made:
        pid_file = bundle / (f"{name}.pid" if name else "pid")
        if not has_terminal:
            self._run(bundle, [*arguments, container], stdio)
            return Made(int(pid_file.read_text()))
        console = f"{name or _CONSOLE}.sock"
        with listening(bundle, console, 1) as listener:
            listener.settimeout(_TERMINAL_SECONDS)
            nothing = Stdio(-1, -1, -1)
            self._run(bundle, [*arguments, "--console-socket", console, container], nothing)
            return Made(int(pid_file.read_text()), _receive_terminal(listener))

    def _run(self, bundle: Path, arguments: Sequence[str], stdio: Stdio | None = None) -> None:
        import subprocess  # noqa: PLC0415 - not where containers are only listed

        log = bundle / _LOG
        log.unlink(missing_ok=True)
        given = stdio or Stdio(-1, -1, -1)
        streams = [None if each < 0 else each for each in (given.stdin, given.stdout, given.stderr)]
        command = [
            self.path, "--root", str(bundle / _STATE), "--log", str(log), "--log-format", "json", *arguments
        ]
        process = subprocess.run(
            command, cwd=bundle, check=False,
            stdin=subprocess.DEVNULL if streams[0] is None else streams[0],
            stdout=subprocess.DEVNULL if streams[1] is None else streams[1],
            stderr=subprocess.DEVNULL if streams[2] is None else streams[2],
        )
        if process.returncode != 0:
            raise _failure(self.name, arguments[0], _complaint(log), process.returncode)

    def _forget(self, bundle: Path) -> None:
        """State of a run that this machine has forgotten, as after its next start."""
        import shutil  # noqa: PLC0415 - at the end, when nobody waits

        shutil.rmtree(bundle / _STATE, ignore_errors=True)


def _receive_terminal(listener: socket.socket) -> int:
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(_TERMINAL_SECONDS)
        _, descriptors, _, _ = socket.recv_fds(connection, 4096, 1)
    if not descriptors:
        raise RuntimeFailed("the runtime sent no terminal")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def _complaint(log: Path) -> str:
    """The last error that the runtime wrote down."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        with contextlib.suppress(ValueError, AttributeError):
            document = json.loads(line)
            if document.get("level") in ("error", "fatal", None):
                return str(document.get("msg", ""))
    return lines[-1] if lines else ""


def _failure(runtime: str, verb: str, complaint: str, code: int) -> Exception:
    """runc: ``exec: "x": executable file not found in $PATH``; crun: ``executable file `x` not found``."""
    quoted = re.search(r'exec: "([^"]*)"|executable file `([^`]*)`|open executable:', complaint)
    name = next((group for group in quoted.groups() if group), "the command") if quoted else "the command"
    lowered = complaint.lower()
    is_missing = "executable file" in lowered and "not found" in lowered
    if is_missing or (quoted and "no such file or directory" in lowered):
        return CommandNotFound.named(name)
    # crun says of a directory that it is not permitted.
    if quoted and re.search("permission denied|is a directory|operation not permitted", lowered):
        return CommandNotExecutable(f"{name}: cannot be run in the container: permission denied")
    if "exec format error" in lowered:
        return CommandNotExecutable(
            f"{name}: cannot be run in the container: exec format error (built for another machine?)"
        )
    return RuntimeFailed(f"{runtime} {verb}: {complaint or f'ended with code {code}'}")
