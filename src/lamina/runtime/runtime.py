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

    @classmethod
    def named(cls, name: str) -> CommandNotFound:
        """With a word for the two that are no commands but look as if they were meant otherwise."""
        hint = ""
        if name.startswith("-"):
            hint = "; options stand before the image's or container's name"
        elif " " in name:
            hint = "; a command and its arguments are words of their own, or `sh -c '...'`"
        return cls(f"{name}: not found in the container{hint}")


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
        path = os.path.abspath(wanted) if "/" in wanted else _installed(wanted)
        if not (os.path.isfile(path) and os.access(path, os.X_OK)):
            raise RuntimeUnavailable(f"runtime {wanted}: not installed; `--runtime embedded` needs nothing")
        return _oci(path)
    for candidate in candidates(identity):
        if candidate.is_usable:
            return _embedded() if candidate.name == EMBEDDED else _oci(candidate.path)
    raise RuntimeUnavailable("no runtime works here; install runc or crun")


def candidates(identity: Identity) -> list[Candidate]:
    """In the order in which they are chosen."""
    found = [_candidate(name, is_rooted=identity.is_initial) for name in ("crun", "runc")]
    found.append(Candidate(
        name=EMBEDDED, path="", is_usable=True,
        reason="lamina's own, needs nothing: namespaces, pivot_root, capabilities and seccomp from Python",
    ))
    return found


def _candidate(name: str, *, is_rooted: bool) -> Candidate:
    path = _installed(name)
    if not path:
        return Candidate(name=name, path="", is_usable=False, reason="not installed")
    if name == "crun" and is_hybrid():
        return Candidate(name=name, path=path, is_usable=False,
                         reason="does not work with cgroups in hybrid mode, as they are here")
    if is_rooted and not has_groups():
        # An ordinary user's containers they make without; root's they refuse, as within a container of CI.
        return Candidate(name=name, path=path, is_usable=False,
                         reason="needs control groups that root may write to, and there are none")
    return Candidate(name=name, path=path, is_usable=True, reason=path)


def _installed(name: str) -> str:
    """Debian has runc in /usr/sbin, which an ordinary user's PATH has not."""
    from lamina.runtime.network.programs import find_program  # noqa: PLC0415 - loaded already where it counts

    return find_program(name, [*os.environ.get("PATH", "").split(":"), "/usr/sbin", "/sbin"])


@functools.cache
def has_groups() -> bool:
    from lamina.runtime.cgroup import Cgroups  # noqa: PLC0415 - loaded already where it counts

    return bool(Cgroups.detect().hierarchies)


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
