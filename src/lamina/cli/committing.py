"""Containers as images, and what they changed: commit, and docker's list of changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.cli.listing import Listing, show
from lamina.cli.terminal import json_text, visible
from lamina.cli.verbs import Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session
    from lamina.snapshot.changes import Change

_HEADINGS = {"Change": "CHANGE", "Path": "PATH"}


def show_changes(changes: Sequence[Change], form: str, session: Session) -> None:
    """``form`` is the text after ``--format``: docker's lines without one, ``json`` for one document."""
    form = form.strip()
    if form == "json":
        session.print(json_text([_row(change) for change in changes], indent=2))
    elif form:
        show(session, Listing(_HEADINGS), map(_row, changes), form)
    else:
        for change in changes:
            session.print(f"{change.kind} {visible(change.path)}")


def _row(change: Change) -> dict[str, object]:
    return {"Change": change.kind, "Path": change.path}


def _arguments(parser: VerbParser) -> None:
    parser.positional("container", "CONTAINER", "a name, an ID, or the beginning of an ID")
    parser.positional("name", "REPOSITORY[:TAG]", "the name to give the image", nargs="?")
    parser.value("-a", "--author", metavar="TEXT", default="",
                 about="who made it, as in 'Ann <ann@example.org>'")
    parser.values("-c", "--change", metavar="INSTRUCTION",
                  about="a Dockerfile instruction for the config, such as 'CMD [\"sh\"]'; may be repeated")
    parser.value("-m", "--message", metavar="TEXT", default="", about="a comment for the image's history")
    parser.flag("-p", "--pause", default=True,
                about="pause the container meanwhile (the default; --pause=false lets it run on)")
    parser.value("--format", metavar="FORMAT", default="", choices=["oci", "docker"],
                 about="oci or docker; by default that of the container's image")


def _commit(arguments: Arguments, session: Session) -> None:
    from lamina.cli.archives import creation_time

    with session.engine() as engine:
        digest = engine.commit(
            arguments.container, arguments.name, message=arguments.message, author=arguments.author,
            changes=arguments.change, pause=arguments.pause, created=creation_time(session) or "",
            form=arguments.format,
        )
    session.print(str(digest))


COMMIT = Verb(
    _commit,
    usage="[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    about="""\
What the container changed becomes one layer on its image: exactly that, with owners, times to the
nanosecond, extended attributes, hard links and whiteouts, and no file that was only opened. The
container's own settings become the image's. Volumes are not part of it. Where no file changed there is
no new layer, only a line of history. SOURCE_DATE_EPOCH is honoured.""",
    arguments=_arguments,
    examples=(
        "lamina commit web web:patched",
        "lamina commit -m 'as of today' -c 'CMD [\"/bin/sh\"]' web app:debug",
    ),
)
