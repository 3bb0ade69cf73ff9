"""The build cache: what takes space in it, and making room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lamina.cli.images import FORMAT_HELP, filters_of
from lamina.cli.listing import Listing, show
from lamina.cli.quantity import human_duration, human_size
from lamina.cli.terminal import json_text
from lamina.cli.verbs import Verb

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session
    from lamina.engine.building.usage import CacheRecord

_DIGITS = 4  # docker's
_SHORT = 12
_HEADINGS = {
    "ID": "ID", "CacheType": "CACHE TYPE", "Reclaimable": "RECLAIMABLE", "Shared": "SHARED",
    "InUse": "IN USE", "Size": "SIZE", "CreatedSince": "CREATED", "LastUsedSince": "LAST USED",
    "UsageCount": "USAGE", "Description": "DESCRIPTION",
}
LISTING = Listing(_HEADINGS, ("ID", "Reclaimable", "Size", "LastUsedSince", "Description"))
VERBOSE = Listing(_HEADINGS)


def _du_arguments(parser: VerbParser) -> None:
    parser.flag("-v", "--verbose", about="everything about each record")
    parser.value("--format", metavar="FORMAT", default="", about=FORMAT_HELP)


def _du(arguments: Arguments, session: Session) -> None:
    from lamina.engine.building.usage import own_bytes

    with session.engine() as engine:
        found = engine.build_cache()
    listing = VERBOSE if arguments.verbose else LISTING
    now = session.clock()
    show(session, listing, (cache_row(record, now) for record in found), arguments.format)
    if arguments.format.strip() not in ("", "table"):
        return
    total, busy = own_bytes(found), own_bytes(record for record in found if record.is_busy)
    shared = {record.diff_id or record.id: record.size - record.own for record in found}
    session.print("")
    session.print(f"Shared:      {human_size(sum(shared.values()), _DIGITS)}")
    session.print(f"Reclaimable: {human_size(total - busy, _DIGITS)}")
    session.print(f"Total:       {human_size(total, _DIGITS)}")


def cache_row(record: CacheRecord, now: float) -> Mapping[str, object]:
    return {
        "ID": record.id[:_SHORT], "CacheType": record.type, "Reclaimable": _told(not record.is_busy),
        "Shared": _told(record.is_shared), "InUse": _told(record.is_busy),
        "Size": human_size(record.size, _DIGITS), "CreatedSince": _since(record.created, now),
        "LastUsedSince": _since(record.used, now), "UsageCount": str(record.uses),
        "Description": record.text,
    }


def _told(is_so: bool) -> str:
    return "true" if is_so else "false"


def _since(moment: float, now: float) -> str:
    return f"{human_duration(max(0.0, now - moment))} ago"


def _prune_arguments(parser: VerbParser) -> None:
    parser.flag("-a", "--all", about="also the records of layers that an image has: every step is done anew")
    parser.flag("-f", "--force", about="do not ask")
    parser.values("--filter", metavar="KEY=VALUE", about="until=24h: what nobody used for so long")
    parser.value("--keep-storage", metavar="SIZE", default=None,
                 about="remove no more than it takes to have this much left, such as 10GB")


def _prune(arguments: Arguments, session: Session) -> int:
    from lamina.cli.arguments import parse_size

    keep = None if arguments.keep_storage is None else parse_size(arguments.keep_storage, "--keep-storage")
    filters = filters_of(arguments.filter)
    what = "all build cache" if arguments.all else "all build cache that no image shares"
    if not arguments.force and not session.agrees(f"{what} and that no build is using"):
        return 0
    with session.engine() as engine:
        pruned = engine.prune_builds(all_records=arguments.all, filters=filters, keep=keep)
    print_pruned(session, pruned.ids)
    session.print(f"Total reclaimed space: {human_size(pruned.freed, _DIGITS)}")
    return 0


def _sbom_arguments(parser: VerbParser) -> None:
    parser.positional("image", "IMAGE", "its name or ID")


def _sbom(arguments: Arguments, session: Session) -> None:
    """A second document would make the output none: those of several scanners come as a list."""
    from lamina.engine.building.sbom import bills_of

    with session.engine() as engine:
        found = bills_of(engine, arguments.image)
    session.print(json_text(found[0] if len(found) == 1 else found, indent=2))


def print_pruned(session: Session, ids: tuple[str, ...]) -> None:
    if ids:
        session.print("Deleted build cache objects:")
        for name in ids:
            session.print(name[:_SHORT])
        session.print("")


SBOM = Verb(
    _sbom,
    usage="IMAGE",
    about="""\
The SPDX document that `lamina build --sbom` attached to an image, or another builder as BuildKit does it. A
pull leaves it in the registry; it is fetched from there when it is not here.""",
    arguments=_sbom_arguments,
    examples=("lamina builder sbom app:1", "lamina builder sbom app:1 | jq -r '.packages[].name'"),
)
DU = Verb(
    _du,
    usage="[OPTIONS]",
    about="""\
Steps whose layers are kept so that they need not be done again, and the directories of
RUN --mount=type=cache; the one used last comes first. What an image shares counts as the image's: Total
is what the build cache alone takes.""",
    arguments=_du_arguments,
    examples=("lamina builder du", "lamina builder du --verbose", "lamina builder du --format json"),
)
PRUNE = Verb(
    _prune,
    usage="[OPTIONS]",
    about="""\
The least recently used goes first. What a build is using now stays. Steps whose layers an image has cost
nothing, and stay without --all; directories of RUN --mount=type=cache go like steps.""",
    arguments=_prune_arguments,
    examples=(
        "lamina builder prune", "lamina builder prune --force --keep-storage 10GB",
        "lamina builder prune --all --force --filter until=168h",
    ),
)
