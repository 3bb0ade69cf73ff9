"""A process gives up what a container must not have, and becomes the container's command.

The last part of our own runner's child: limits, capabilities, seccomp, ids, and the exec. Everything is
loaded before the root changes; nothing may be imported afterwards, since the import would find the image's
files (CVE-2019-14271 has the same idea with libnss).
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from lamina.runtime import bpf, capabilities
from lamina.runtime.resources import UNLIMITED
from lamina.runtime.syscallnumbers import numbers
from lamina.snapshot import syscalls
from lamina.values import dataclass

_KEYCTL_JOIN_SESSION_KEYRING = 1
_PR_SET_KEEPCAPS = 8
# Where the trampoline tells what execve answered.
REPORT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What a process will be. ``program`` is the compiled seccomp filter, empty for none.

    With a single id the filter leaves calls about owners to somebody else, and ids are only said to change.
    """

    process: Mapping[str, Any]
    program: bytes
    last_capability: int
    is_single_id: bool


class CommandFailed(OSError):
    """The command cannot be executed: ``errno`` says why, ``filename`` which."""


def prepare(
    process: Mapping[str, Any], seccomp: Mapping[str, Any] | None, *, is_single_id: bool
) -> Confinement:
    """In the parent: compiles, and loads what the child will need."""
    syscalls.load()
    if is_single_id:
        from lamina.runtime.ownership import with_notifications  # noqa: PLC0415 - users without ranges only

        seccomp = with_notifications(seccomp or {"defaultAction": "SCMP_ACT_ALLOW"})
    return Confinement(
        process=process, program=bpf.compile_filter(seccomp) if seccomp is not None else b"",
        last_capability=capabilities.last_known(), is_single_id=is_single_id,
    )


def forbid_imports() -> None:
    """From here on an import fails, whatever files there are."""
    sys.path[:] = []
    sys.meta_path[:] = []
    sys.path_hooks[:] = []


def confine(confinement: Confinement, hand_over: Callable[[int], None]) -> None:
    """Irreversible. The order matters: each step takes away what an earlier one needed.

    ``hand_over`` is given the descriptor on which calls about owners wait, where there is one.
    """
    process = confinement.process
    for number in signal.valid_signals():
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for limit in process.get("rlimits", ()):
        _set_limit(limit)
    if "oomScoreAdj" in process:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(process["oomScoreAdj"]))
    os.umask(process["user"].get("umask", 0o022))
    _change_directory(process["cwd"])
    with contextlib.suppress(OSError):
        syscalls.call_number(numbers(bpf.native())["keyctl"], _KEYCTL_JOIN_SESSION_KEYRING, 0)
    bounding = capabilities.mask(process["capabilities"]["bounding"])
    for capability in range(confinement.last_capability + 1):
        if not bounding >> capability & 1:
            syscalls.drop_from_bounding_set(capability)
    if process.get("noNewPrivileges"):
        syscalls.set_no_new_privileges()
    if confinement.program:
        # While CAP_SYS_ADMIN is still there: without it the kernel would insist on no_new_privs (seccomp(2)).
        listener = bpf.install(confinement.program, listener=confinement.is_single_id)
        if confinement.is_single_id:
            hand_over(listener)
    if not confinement.is_single_id:
        _become(process["user"])
    permitted = capabilities.mask(process["capabilities"]["permitted"])
    with contextlib.suppress(OSError):
        syscalls.clear_ambient_capabilities()
    syscalls.set_capabilities(permitted, permitted, 0)


def insist_executable(process: Mapping[str, Any]) -> None:
    """Told before the container starts, as runc does. Raises :class:`CommandFailed`."""
    environ = dict(line.partition("=")[::2] for line in process["env"])
    path = find_command(process["args"][0], environ.get("PATH", ""))
    if os.path.isdir(path) or not os.access(path, os.X_OK, effective_ids=True):
        raise CommandFailed(errno.EACCES, os.strerror(errno.EACCES), process["args"][0])


def execute(process: Mapping[str, Any], trampoline: int) -> None:
    """Does not return. Raises :class:`CommandFailed` if the command is not even there."""
    environ = dict(line.partition("=")[::2] for line in process["env"])
    path = find_command(process["args"][0], environ.get("PATH", ""))
    argv = process["args"]
    try:
        if trampoline >= 0:
            os.execve(trampoline, [path, *argv], environ)  # noqa: S606 - what all this is for
        os.execve(path, argv, environ)  # noqa: S606 - as above
    except OSError as error:  # E2BIG, above all: it is about the command, whatever was executed on the way
        raise CommandFailed(error.errno, error.strerror, argv[0]) from None


def find_command(name: str, search: str) -> str:
    """As execvp(3) finds it, in the container."""
    if "/" in name:
        if not os.path.lexists(name):
            raise CommandFailed(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return name
    denied = ""
    for directory in search.split(":"):
        path = os.path.join(directory or ".", name)
        if os.path.isfile(path):
            if os.access(path, os.X_OK, effective_ids=True):
                return path
            denied = path
    if denied:
        raise CommandFailed(errno.EACCES, os.strerror(errno.EACCES), name)
    raise CommandFailed(errno.ENOENT, os.strerror(errno.ENOENT), name)


def _change_directory(path: str) -> None:
    """A directory of the root and of nowhere else: no leaked descriptor of the host's (CVE-2024-21626)."""
    os.chdir(path)
    try:
        os.getcwd()
    except FileNotFoundError:
        raise OSError(errno.EACCES, "outside of the container", path) from None


def _set_limit(limit: Mapping[str, Any]) -> None:
    number = getattr(resource, limit["type"], None)
    if number is None:
        raise OSError(errno.EINVAL, "this system has no such limit", limit["type"])
    soft, hard = (
        resource.RLIM_INFINITY if limit[name] == UNLIMITED else limit[name] for name in ("soft", "hard")
    )
    try:
        resource.setrlimit(number, (soft, hard))
    except (OSError, ValueError):
        reason = "raising it takes CAP_SYS_RESOURCE, which this user does not have"
        raise OSError(errno.EPERM, reason, f"--ulimit {limit['type'][7:].lower()}") from None


def _become(user: Mapping[str, Any]) -> None:
    uid, gid = user["uid"], user["gid"]
    os.setgroups(user.get("additionalGids", ()))
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
