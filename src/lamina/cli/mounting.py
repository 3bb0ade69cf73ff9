"""Layers as filesystems: mount, unmount, and the namespace where an ordinary user can do so."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lamina.cli.arguments import UsageError
from lamina.cli.images import FORMAT_HELP, short_id
from lamina.cli.listing import Listing, show
from lamina.cli.session import Refused
from lamina.cli.terminal import visible
from lamina.cli.verbs import Verb
from lamina.errors import Denied

if TYPE_CHECKING:
    from pathlib import Path

    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session
    from lamina.engine.engine import Engine
    from lamina.engine.mounts import MountRecord

ENGINE_FAILED, CANNOT_INVOKE, NOT_FOUND = 125, 126, 127
MOUNT_LISTING = Listing({"Image": "IMAGE", "ID": "IMAGE ID", "Driver": "DRIVER", "Path": "PATH"})


# -- mount


def _mount_arguments(parser: VerbParser) -> None:
    parser.positional("name", "IMAGE", "a name, an ID, or the beginning of an ID; if none, what is mounted",
                      nargs="?")
    parser.value("--format", metavar="FORMAT", default="", about="for the list of mounts: " + FORMAT_HELP)


def _mount(arguments: Arguments, session: Session) -> int:
    if arguments.command:
        if not arguments.name:
            raise UsageError("mount: which image is the command to see? (lamina mount IMAGE -- COMMAND)")
        session.trouble = ENGINE_FAILED
        return _mount_for(arguments.name, arguments.command, session)
    with session.engine() as engine:
        if arguments.name:
            session.print(visible(str(_mounted(engine, arguments.name))))
        else:
            show(session, MOUNT_LISTING, map(_mount_row, engine.mounts()), arguments.format)
    return 0


def _mount_row(record: MountRecord) -> dict[str, object]:
    return {
        "Image": record.name, "ID": short_id(record.id), "Driver": record.driver, "Path": str(record.path),
    }


def _mounted(engine: Engine, name: str) -> Path:
    try:
        return engine.mount(name)
    except Denied as error:
        if os.geteuid() != 0:
            error.add_note("an ordinary user's mounts live in a namespace: "
                           f"`lamina mount {visible(name)} -- COMMAND`, or `lamina unshare` first")
        raise


def _mount_for(name: str, command: Sequence[str], session: Session) -> int:
    """The mount lives as long as the command, in a namespace that nobody else sees."""
    enter_namespace(session)
    with session.engine() as engine:
        path = engine.mount(name)
        try:
            session.flush()
            return run_command(command, {**session.environ, "LAMINA_MOUNT": str(path)})
        finally:
            engine.unmount(str(path))


MOUNT = Verb(
    _mount,
    usage="[OPTIONS] [IMAGE] [-- COMMAND [ARGUMENT...]]",
    about="""\
Mounts an image's layers, read-only, and prints where; `lamina umount` ends it. With a command, the mount
lives as long as the command, which finds it in $LAMINA_MOUNT.

An ordinary user's mount exists only inside a namespace: give a command, or enter one with `lamina
unshare` first. Exit codes with a command: its own, 126 if it cannot be run, 127 if it is not found,
125 if the mount failed.""",
    arguments=_mount_arguments,
    examples=(
        "lamina mount redis:7 -- sh -c 'ls $LAMINA_MOUNT/usr/local/bin'",
        "cd $(lamina mount redis:7)",
    ),
    command="--",
)


# -- umount


def _umount_arguments(parser: VerbParser) -> None:
    parser.positional("names", "IMAGE|PATH", "what `lamina mount` was given, or what it printed", nargs="*")
    parser.flag("-a", "--all", about="everything that is mounted")


def _umount(arguments: Arguments, session: Session) -> None:
    if bool(arguments.names) == arguments.all:
        raise UsageError("umount: name an image or a path, or say --all")
    with session.engine() as engine:
        names = [str(record.path) for record in engine.mounts()] if arguments.all else arguments.names
        for name in names:
            engine.unmount(name)
            session.print(visible(name))


UMOUNT = Verb(
    _umount,
    usage="[OPTIONS] [IMAGE|PATH...]",
    about="Mounting an image twice gives the same place; unmounting it once ends it.",
    arguments=_umount_arguments,
    examples=("lamina umount redis:7", "lamina umount --all"),
)


# -- unshare


def _unshare(arguments: Arguments, session: Session) -> int:
    """Becomes the command: its exit code is ours."""
    command = arguments.command or [session.environ.get("SHELL") or "/bin/sh"]
    # Root of the namespace would look into root's own place: keep to the one that this user has.
    environ = {**session.environ, "LAMINA_ROOT": str(session.settings.root)}
    enter_namespace(session, is_needed=True)
    session.flush()
    session.stderr.flush()
    return replace_by(command, environ)


UNSHARE = Verb(
    _unshare,
    usage="[COMMAND [ARGUMENT...]]",
    about="""\
Runs a command, or a shell, as root of a new user and mount namespace, where an ordinary user can mount
images. Files that layers give to other owners keep them if /etc/subuid has a range for you; without
one, everything is yours. What is mounted inside is gone when the command ends.""",
    examples=("lamina unshare", "lamina unshare sh -c 'ls $(lamina mount redis:7)'"),
    command="first",
    trouble=ENGINE_FAILED,
)


# -- namespaces and commands


def enter_namespace(session: Session, *, is_needed: bool = False) -> None:
    """Before any thread exists. Where the system forbids it, drivers that only copy still work."""
    from lamina.snapshot.namespace import current_identity, enter_user_namespace

    _keep_root(session)
    try:
        enter_user_namespace(current_identity())
    except (Denied, OSError) as error:
        if is_needed:
            raise Refused(f"unshare: {error}") from None
        session.note(f"note: no namespace of our own ({error}); trying without")


def _keep_root(session: Session) -> None:
    """Settings are read before the change: afterwards this user looks like root."""
    session.flags.setdefault("data-root", str(session.settings.root))


def run_command(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs it to its end; gives the exit code as a shell would (128 + signal)."""
    import signal
    import subprocess

    # Ctrl-C at the terminal reaches the command too, which decides what becomes of it. A handler that
    # does nothing is reset in the command, where SIG_IGN would stay.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        process = subprocess.Popen(command, env=environ)
        previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        code = process.wait()
        signal.signal(signal.SIGTERM, previous)
    except OSError as error:
        raise _not_run(command[0], error, environ) from None
    finally:
        signal.signal(signal.SIGINT, before)
    return code if code >= 0 else 128 - code


def replace_by(command: Sequence[str], environ: Mapping[str, str]) -> int:
    try:
        os.execvpe(command[0], list(command), dict(environ))  # noqa: S606 - to become it is the purpose
    except OSError as error:
        raise _not_run(command[0], error, environ) from None


class CommandNotRun(Refused):
    """``exit_code`` is a shell's: 127 for what is not there, 126 for what cannot be run."""


def _not_run(name: str, error: OSError, environ: Mapping[str, str]) -> CommandNotRun:
    is_missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
    if error.errno == errno.EACCES and "/" not in name:  # a directory of PATH that is closed to this user?
        is_missing = not any(os.path.exists(os.path.join(place, name)) for place in os.get_exec_path(environ))
    reason = "command not found" if is_missing else (error.strerror or str(error)).lower()
    failure = CommandNotRun(f"{name}: {reason}")
    failure.exit_code = NOT_FOUND if is_missing else CANNOT_INVOKE
    return failure
