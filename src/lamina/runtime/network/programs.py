"""Finding and running the programs that do the work: netavark, CNI plugins, pasta, slirp4netns."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lamina.errors import Unavailable
from lamina.values import dataclass

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Where distributions put what only other programs call.
_LIBEXEC = ("/usr/local/libexec/podman", "/usr/libexec/podman", "/usr/local/lib/podman", "/usr/lib/podman")
_PLUGINS = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni", "/usr/local/libexec/cni")
_NEEDED_PLUGINS = ("bridge", "portmap", "static")


class NetworkFailed(Unavailable):
    """A program that should have connected a container, or cleaned up after it, did not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """By their paths; ``""`` for what is not installed. ``cni`` is a directory."""

    netavark: str = ""
    aardvark: str = ""
    cni: str = ""
    pasta: str = ""
    slirp4netns: str = ""
    path: str = SYSTEM_PATH


def find_programs(path: str = "", cni_path: str = "") -> Programs:
    """``path`` and ``cni_path`` are the environment's PATH and CNI_PATH."""
    search = ":".join(part for part in (path, SYSTEM_PATH) if part)
    places = search.split(":")
    return Programs(
        netavark=find_program("netavark", [*_LIBEXEC, *places]),
        aardvark=find_program("aardvark-dns", [*_LIBEXEC, *places]),
        cni=next((
            place for place in [*filter(None, cni_path.split(":")), *_PLUGINS]
            if all(os.access(f"{place}/{plugin}", os.X_OK) for plugin in _NEEDED_PLUGINS)
        ), ""),
        pasta=find_program("pasta", places),
        slirp4netns=find_program("slirp4netns", places),
        path=search,
    )


def find_program(name: str, places: Sequence[str]) -> str:
    """Its path in the first place that has it; empty if none has. ``shutil.which`` costs 2 ms of imports."""
    for place in places:
        candidate = f"{place}/{name}"
        if place.startswith("/") and os.access(candidate, os.X_OK) and os.path.isfile(candidate):
            return candidate
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    code: int
    output: bytes
    errors: str


def run(
    command: Sequence[str],
    *,
    document: object = None,
    environ: Mapping[str, str],
    prepare: Callable[[], None] | None = None,
) -> Outcome:
    """Runs a program to its end. ``prepare`` is called in the child, before the program begins.

    Its streams are files in memory, not pipes: what it leaves behind (aardvark-dns, pasta) keeps them open.
    """
    given, output, errors = (os.memfd_create(name) for name in ("stdin", "stdout", "stderr"))
    try:
        if document is not None:
            os.write(given, json.dumps(document).encode())
            os.lseek(given, 0, os.SEEK_SET)
        child = spawn(command, environ=environ, streams=(given, output, errors), prepare=prepare)
        _, status = os.waitpid(child, 0)
        return Outcome(
            code=os.waitstatus_to_exitcode(status), output=_content(output),
            errors=_content(errors).decode("utf-8", "replace").strip(),
        )
    finally:
        for descriptor in (given, output, errors):
            os.close(descriptor)


def spawn(
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    streams: tuple[int, int, int],
    keep: Sequence[int] = (),
    prepare: Callable[[], None] | None = None,
) -> int:
    """Starts a program in a session of its own, with these streams and descriptors; gives its pid."""
    child = os.fork()
    if child != 0:
        return child
    try:
        os.setsid()
        # An ignored SIGPIPE, as Python has it, is inherited; pasta of 2023 takes it for a failure and exits.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.chdir("/")
        if prepare is not None:
            prepare()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        for descriptor in keep:
            os.set_inheritable(descriptor, True)
        os.execve(command[0], list(command), dict(environ))  # noqa: S606 - a path that find_programs gave
    except BaseException as error:
        os.write(streams[2], f"{command[0]}: {error}".encode())
    finally:
        os._exit(127)


def has_option(program: str, option: str, environ: Mapping[str, str]) -> bool:
    """Whether a program's own help speaks of an option: versions are not always told, or true."""
    outcome = run([program, "--help"], environ=environ)
    return option.encode() in outcome.output or option in outcome.errors


def answer_of(outcome: Outcome, about: str) -> Any:
    """What a program printed, as JSON. Raises :class:`NetworkFailed` with its own words."""
    try:
        answer = json.loads(outcome.output) if outcome.output.strip() else {}
    except ValueError:
        answer = {}
    if outcome.code != 0:
        said = answer.get("error") or answer.get("msg") if isinstance(answer, dict) else ""
        details = answer.get("details", "") if isinstance(answer, dict) else ""
        reason = ": ".join(filter(None, (said, details))) or outcome.errors or f"exit code {outcome.code}"
        raise NetworkFailed(f"{about}: {' '.join(reason.split())}")
    return answer


def _content(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0)
