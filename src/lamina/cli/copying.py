"""``cp``: files between this machine and containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.cli.output import STREAM
from lamina.cli.quantity import human_size
from lamina.cli.session import Refused
from lamina.cli.terminal import is_terminal, visible
from lamina.cli.verbs import Verb

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session
    from lamina.engine.copying import Copied


def split_place(text: str) -> tuple[str, str]:
    """Container and path; no container where the text begins like a path of this machine."""
    container, colon, path = text.partition(":")
    if text.startswith("/") or not colon or container.startswith("."):
        return "", text
    return container, path


def _cp_arguments(parser: VerbParser) -> None:
    parser.positional("source", "SRC", "CONTAINER:PATH, a path here, or - for a tar on standard input")
    parser.positional("destination", "DEST", "CONTAINER:PATH, a path here, or - for a tar on standard output")
    parser.flag("-a", "--archive", about="keep owners and groups")
    parser.flag("-L", "--follow-link", about="copy what a symlink leads to, not the link")
    parser.flag("-q", "--quiet", about="no word about what was copied")


def _cp(arguments: Arguments, session: Session) -> None:
    from lamina.cli.arguments import UsageError

    session.is_quiet = session.is_quiet or arguments.quiet
    source, destination = split_place(arguments.source), split_place(arguments.destination)
    for side, (_container, path) in (("source", source), ("destination", destination)):
        if not path:
            raise UsageError(f"cp: the {side} has no path; expected CONTAINER:PATH, or a path here")
    if source[0] and destination[0]:
        raise UsageError("cp: copying between containers is not supported; copy here first, or pipe: "
                         "lamina cp A:PATH - | lamina cp - B:DIRECTORY")
    if not source[0] and not destination[0]:
        raise UsageError("cp: must specify at least one container, as CONTAINER:PATH")
    if source[0]:
        _out(arguments, session, source, destination[1])
    else:
        _in(arguments, session, source[1], destination)


def _out(arguments: Arguments, session: Session, source: tuple[str, str], destination: str) -> None:
    if destination == STREAM:
        if is_terminal(session.stdout):
            raise Refused("cp: a tar is not for a terminal; redirect the output, or give a path")
        out = session.output_bytes()
        with session.engine() as engine:
            engine.copy_from(*source, out, follow=arguments.follow_link)
        out.flush()
        return
    with session.engine() as engine:
        copied = engine.copy_from(
            *source, destination, follow=arguments.follow_link, keeps_ids=arguments.archive
        )
    _tell(session, copied, destination)


def _in(arguments: Arguments, session: Session, source: str, destination: tuple[str, str]) -> None:
    name, path = destination
    if source == STREAM and is_terminal(session.stdin):
        raise Refused("cp: nothing to read from a terminal; redirect the input, or give a path")
    with session.engine() as engine:
        copied = engine.copy_to(
            name, session.input_bytes() if source == STREAM else source, path,
            follow=arguments.follow_link, keeps_ids=arguments.archive,
        )
    _tell(session, copied, f"{name}:{path}")


def _tell(session: Session, copied: Copied, where: str) -> None:
    session.note(f"Successfully copied {human_size(copied.size)} to {visible(where)}")
    if copied.devices:
        session.note(f"note: {copied.devices} devices were left out; making them takes root of the machine")


CP = Verb(
    _cp,
    usage="[OPTIONS] CONTAINER:SRC DEST|-  or  SRC|- CONTAINER:DEST",
    about="""\
Copies a file or a directory, whether the container runs or not. A directory goes into one that exists, and
becomes one that does not; DIR/. means what is in it. Files become those of the container's root, or yours on
this machine, unless -a is given; those in a tar from standard input (also with gzip, zstd, bzip2 or xz) have
the owners that it says. Nothing in the container is executed for it.""",
    arguments=_cp_arguments,
    examples=(
        "lamina cp web:/etc/nginx/nginx.conf .",
        "lamina cp ./site/. web:/usr/share/nginx/html",
        "lamina cp web:/var/log - | tar -tv",
    ),
)
