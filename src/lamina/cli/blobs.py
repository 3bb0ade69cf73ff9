"""Blobs that a registry keeps for us: dropping them here, and fetching them again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lamina.cli.arguments import UsageError
from lamina.cli.listing import Listing, show
from lamina.cli.progress import shown
from lamina.cli.quantity import human_size
from lamina.cli.terminal import visible
from lamina.cli.verbs import Verb

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session
    from lamina.content.dropped import DroppedBlob

_DIGITS = 4


# -- ls

_HEADINGS = {"Digest": "BLOB", "Size": "SIZE", "DiffID": "LAYER", "Repository": "COMES BACK FROM"}


def _size(value: object) -> str:
    return human_size(int(str(value)), _DIGITS)


def _short(value: object) -> str:
    return str(value).partition(":")[2][:12]


def _ls_arguments(parser: VerbParser) -> None:
    from lamina.cli.images import FORMAT_HELP

    parser.flag("--no-trunc", about="whole digests in the table")
    parser.value("--format", metavar="FORMAT", default="", about=FORMAT_HELP)


def _ls(arguments: Arguments, session: Session) -> None:
    with session.engine() as engine:
        rows = [
            {"Digest": str(blob.digest), "Size": blob.descriptor.size, "DiffID": str(blob.diff_id),
             "Repository": blob.repository}
            for blob in engine.dropped_blobs()
        ]
    digest = str if arguments.no_trunc else _short
    listing = Listing(_HEADINGS, spell={"Digest": digest, "Size": _size, "DiffID": digest}, right=("Size",))
    show(session, listing, rows, arguments.format)


LS = Verb(
    _ls,
    usage="[OPTIONS]",
    about="Compressed blobs that are not here, by the registry and repository that has each.",
    arguments=_ls_arguments,
    examples=("lamina blobs ls", "lamina blobs ls --format json"),
)


# -- drop


def _drop_arguments(parser: VerbParser) -> None:
    parser.positional("names", "IMAGE", "images by name or ID", nargs="*")
    parser.flag("-a", "--all", about="of all images that are here")


def _drop(arguments: Arguments, session: Session) -> None:
    if bool(arguments.names) == arguments.all:
        not_both = ", not both" if arguments.all else ""
        raise UsageError(f"blobs drop: name images, or give --all{not_both}")
    with session.engine() as engine:
        result = engine.drop_blobs(*arguments.names)
    for blob in result.dropped:
        session.print(f"dropped: {blob.digest} ({human_size(blob.descriptor.size, _DIGITS)}), "
                      f"which {visible(blob.repository)} has")
    for kept in result.kept:
        session.print(f"kept: {kept.digest}: {visible(kept.reason)}")
    if not result.dropped and not result.kept:
        session.note("No compressed layer is here that could be dropped.")
    session.print(f"Total reclaimed space: {human_size(result.freed, _DIGITS)}")


DROP = Verb(
    _drop,
    usage="[OPTIONS] [IMAGE...]",
    about="""\
Removes compressed blobs that a registry serves, asked just now, and whose layers can be made again, byte for
byte, out of what is unpacked: all of that is read first. What was built, committed or loaded here stays.
Push and save fetch what they need of it, and so does everything else that cannot do without.""",
    arguments=_drop_arguments,
    examples=("lamina blobs drop redis:7", "lamina blobs drop --all"),
)


# -- fetch


def _fetch_arguments(parser: VerbParser) -> None:
    parser.positional("names", "IMAGE", "images by name or ID", nargs="+")
    parser.flag("-q", "--quiet", about="say only how much it was")


def _fetch(arguments: Arguments, session: Session) -> None:
    session.is_quiet = session.is_quiet or arguments.quiet
    fetched: list[DroppedBlob] = []
    with shown(session, session.stderr) as report, session.engine(report) as engine:
        for name in arguments.names:
            fetched += engine.fetch_blobs(name)
    session.print(f"Fetched {counted(fetched)}")


FETCH = Verb(
    _fetch,
    usage="[OPTIONS] IMAGE...",
    about="Brings back the compressed blobs of images that were dropped here, each verified by its digest.",
    arguments=_fetch_arguments,
    examples=("lamina blobs fetch redis:7",),
)


def counted(blobs: Sequence[DroppedBlob]) -> str:
    size = human_size(sum(blob.descriptor.size for blob in blobs), _DIGITS)
    return f"1 blob ({size})" if len(blobs) == 1 else f"{len(blobs)} blobs ({size})"


def told(blobs: Sequence[DroppedBlob], *, is_asked: bool = False, has_hint: bool = True) -> str:
    """What was dropped, and who has it or had it, in one sentence; empty if nothing was.

    ``is_asked``: they have all just said that they still have it. Else ``has_hint`` says how to ask them.
    """
    if not blobs:
        return ""
    repositories = sorted({blob.repository for blob in blobs})
    others = len(repositories) - 2
    there = " and ".join(repositories) if others <= 0 else f"{', '.join(repositories[:2])} and {others} more"
    has = "has" if len(repositories) == 1 else "have"
    hint = " (--online asks whether that is still so)" if has_hint and not is_asked else ""
    verb = has if is_asked else "had"
    return f"{counted(blobs)} dropped here; {visible(there)} {verb} what is missing{hint}."
