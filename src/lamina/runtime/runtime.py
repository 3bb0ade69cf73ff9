"""What carries out a runtime-spec document: the seam, and the choice of runc, crun or our own runner."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from lamina.errors import Denied, NotFound, Unsupported
from lamina.snapshot.namespace import Identity, Ownership
from lamina.values import dataclass

EMBEDDED = "embedded"
KNOWN = ("runc", "crun")


class RuntimeUnavailable(Unsupported):
    pass


class RuntimeFailed(Unsupported):
    """A container could not be made, or entered. The message is the runtime's own."""


class CommandNotFound(NotFound):
    exit_code = 127


class CommandNotExecutable(Denied):
    exit_code = 126


@dataclass(frozen=True, slots=True)
class Stdio:
    """Open descriptors, for one process. Ignored where the process gets a terminal of its own."""

    stdin: int
    stdout: int
    stderr: int


@dataclass(frozen=True, slots=True)
class Made:
    """``pid`` is a descendant of the caller; ``terminal`` is its pty's master, or -1. The caller closes it.

    ``notes`` are for the user: limits that could not be set.
    """

    pid: int
    terminal: int = -1
    notes: tuple[str, ...] = ()


class Runtime(Protocol):
    """For the monitor of a container, and for who enters it. The caller is a subreaper (prctl(2)).

    ``bundle`` is the container's directory, with the document in ``config.json``. Raises
    :class:`RuntimeFailed`, :class:`CommandNotFound`, :class:`CommandNotExecutable`.
    """

    @property
    def name(self) -> str: ...

    def create(self, bundle: Path, container: str, stdio: Stdio) -> Made:
        """Everything is set up, and the process waits for :meth:`start`."""
        ...

    def start(self, bundle: Path, container: str) -> None: ...

    def execute(
        self, bundle: Path, container: str, process: Mapping[str, Any], pid: int, stdio: Stdio
    ) -> Made:
        """One more process in a running container, whose first one is ``pid``."""
        ...

    def delete(self, bundle: Path, container: str) -> None:
        """What is left of a container without processes. Idempotent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """``reason`` says why it cannot be used, or what it would do."""

    name: str
    path: str
    is_usable: bool
    reason: str


def choose_runtime(wanted: str, identity: Identity) -> Runtime:
    """``wanted`` is a name or a path; empty: the best that works here. Raises :class:`RuntimeUnavailable`."""
    if wanted == EMBEDDED or (not wanted and identity.ownership is Ownership.SINGLE):
        # runc and crun cannot keep owners for a user with one id: every chown would fail.
        return _embedded()
    if wanted:
        import shutil  # noqa: PLC0415 - 2 ms, for who names a runtime

        path = shutil.which(wanted)
        if path is None:
            raise RuntimeUnavailable(f"runtime {wanted}: not installed; `--runtime embedded` needs nothing")
        return _oci(path)
    for candidate in candidates(identity):
        if candidate.is_usable:
            return _embedded() if candidate.name == EMBEDDED else _oci(candidate.path)
    raise RuntimeUnavailable("no runtime works here; install runc or crun")


def candidates(identity: Identity) -> list[Candidate]:
    """In the order in which they are chosen."""
    del identity
    found = [_candidate(name) for name in ("crun", "runc")]
    found.append(Candidate(
        name=EMBEDDED, path="", is_usable=True,
        reason="lamina's own, needs nothing: namespaces, pivot_root, capabilities and seccomp from Python",
    ))
    return found


def _candidate(name: str) -> Candidate:
    from lamina.runtime.network.programs import find_program  # noqa: PLC0415 - loaded already where it counts

    path = find_program(name, [*os.environ.get("PATH", "").split(":"), "/usr/sbin", "/sbin"])
    if not path:
        return Candidate(name=name, path="", is_usable=False, reason="not installed")
    if name == "crun" and is_hybrid():
        return Candidate(name=name, path=path, is_usable=False,
                         reason="does not work with cgroups in hybrid mode, as they are here")
    return Candidate(name=name, path=path, is_usable=True, reason=path)


@functools.cache
def is_hybrid() -> bool:
    """Cgroups of version 1 with version 2 beside them: crun refuses (crun 1.8, libcrun_get_cgroup_mode)."""
    return os.path.ismount("/sys/fs/cgroup/unified")


def _oci(path: str) -> Runtime:
    from lamina.runtime.oci import OciRuntime  # noqa: PLC0415 - one runtime a command

    return OciRuntime(path)


def _embedded() -> Runtime:
    from lamina.runtime.embedded import EmbeddedRuntime  # noqa: PLC0415 - one runtime a command

    return EmbeddedRuntime()
