"""The state directory: what takes space, what can go, and whether all of it is whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from lamina.cli.images import FILTER_HELP, FORMAT_HELP, filters_of, short_id
from lamina.cli.listing import Listing, show
from lamina.cli.progress import shown
from lamina.cli.quantity import human_size, since
from lamina.cli.terminal import json_text, visible
from lamina.cli.verbs import Verb

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session
    from lamina.engine.housekeeping import ImageUsage, UsageRow

DF_DIGITS = 4  # docker's


# -- system df

USAGE_LISTING = Listing({
    "Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
})
IMAGE_USAGE_LISTING = Listing({
    "Repository": "REPOSITORY", "Tag": "TAG", "ID": "IMAGE ID", "CreatedSince": "CREATED", "Size": "SIZE",
    "SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE",
})


def _df_arguments(parser: VerbParser) -> None:
    parser.flag("-v", "--verbose", about="one line for each image, with its shared and unique bytes")
    parser.value("--format", metavar="FORMAT", default="", about=FORMAT_HELP)


def _df(arguments: Arguments, session: Session) -> None:
    with session.engine() as engine:
        if arguments.verbose:
            now = session.clock()
            rows = [_image_usage_row(row, now) for row in engine.image_usage()]
            listing = IMAGE_USAGE_LISTING
        else:
            rows = [_usage_row(row) for row in engine.usage()]
            listing = USAGE_LISTING
    show(session, listing, rows, arguments.format)


def _usage_row(row: UsageRow) -> Mapping[str, object]:
    share = f" ({100 * row.reclaimable // row.size}%)" if row.size else ""
    return {
        "Type": row.type, "TotalCount": str(row.total), "Active": str(row.active),
        "Size": human_size(row.size, DF_DIGITS),
        "Reclaimable": human_size(row.reclaimable, DF_DIGITS) + share,
    }


def _image_usage_row(row: ImageUsage, now: float) -> Mapping[str, object]:
    return {
        "Repository": row.repository or "<none>", "Tag": row.tag or "<none>", "ID": short_id(row.id),
        "CreatedSince": since(row.created, now), "Size": human_size(row.size, DF_DIGITS),
        "SharedSize": human_size(row.shared, DF_DIGITS), "UniqueSize": human_size(row.unique, DF_DIGITS),
    }


DF = Verb(
    _df,
    usage="[OPTIONS]",
    about="""\
Bytes on disk: what is stored as it came, and what is unpacked. Each layer counts once, however many
images share it. RECLAIMABLE is what the matching prune frees.""",
    arguments=_df_arguments,
    examples=("lamina system df", "lamina system df -v"),
)


# -- prune


def _prune_arguments(parser: VerbParser) -> None:
    parser.flag("-a", "--all", about="every image that is not in use, not only those without a name")
    parser.flag("-f", "--force", about="do not ask")
    parser.values("--filter", metavar="KEY=VALUE", about=FILTER_HELP + " (label, until)")


def _prune(arguments: Arguments, session: Session) -> int:
    if not arguments.force and not _agreed(arguments, session):
        return 0
    with session.engine() as engine:
        pruned = engine.prune(all_images=arguments.all, filters=filters_of(arguments.filter))
    if pruned.removed:
        session.print("Deleted Images:")
    for item in pruned.removed:
        session.print(f"{str(item.kind).lower()}: {visible(item.subject)}")
    if pruned.removed:
        session.print("")
    session.print(f"Total reclaimed space: {human_size(pruned.freed, DF_DIGITS)}")
    return 0


def _agreed(arguments: Arguments, session: Session) -> bool:
    what = "all images that are not in use" if arguments.all else "all images without a name"
    session.stderr.write(f"WARNING! This will remove {what}, and content that nothing reaches.\n"
                         "Are you sure you want to continue? [y/N] ")
    session.stderr.flush()
    return session.stdin.readline().strip().lower() in ("y", "yes")


PRUNE = Verb(
    _prune,
    usage="[OPTIONS]",
    about="""\
Removes images without a name, and whatever an interrupted pull or a removed image left behind. What
another process is using right now is never touched.""",
    arguments=_prune_arguments,
    examples=("lamina prune", "lamina prune --all --force --filter until=240h"),
)


# -- check


def _check_arguments(parser: VerbParser) -> None:
    parser.flag("--repair", about="remove what is damaged and rebuild what can be rebuilt")
    parser.flag("-q", "--quiet", about="nothing but findings")
    parser.value("--format", metavar="FORMAT", default="", about="'json' (one finding a line)",
                 choices=["json"])


def _check(arguments: Arguments, session: Session) -> int:
    """1 for a finding that is still there, 0 for a store that is whole (now)."""
    session.is_quiet = session.is_quiet or arguments.quiet
    count = remaining = 0
    with shown(session, session.stderr) as report, session.engine(report) as engine:
        for finding in engine.check(repair=arguments.repair):
            count += 1
            remaining += not finding.repaired
            for text in _finding(finding.subject, finding.problem, finding.repaired, arguments.format):
                session.print(text)
    if not arguments.format:
        session.note(_verdict(count, remaining))
    return 1 if remaining else 0


def _finding(subject: str, problem: str, is_repaired: bool, form: str) -> Iterator[str]:
    if form:
        yield json_text({"Subject": subject, "Problem": problem, "Repaired": is_repaired})
    else:
        yield visible(f"{subject}: {problem}{' (repaired)' if is_repaired else ''}")


def _verdict(count: int, remaining: int) -> str:
    if not count:
        return "Everything is whole."
    found = f"{count} finding{'' if count == 1 else 's'}"
    if not remaining:
        return f"{found}, all repaired."
    advice = "`lamina check --repair` puts right what it can, and a new pull fetches what is missing"
    return f"{found}, {remaining} not repaired; {advice}."


CHECK = Verb(
    _check,
    usage="[OPTIONS]",
    about="""\
Reads every stored byte and compares it with its digest; follows every image to its layers. Exit code 0
when all is whole, 1 when something is wrong, 125 when that could not be decided.""",
    arguments=_check_arguments,
    examples=("lamina check", "lamina check --repair && lamina pull redis:7"),
    trouble=125,
)
