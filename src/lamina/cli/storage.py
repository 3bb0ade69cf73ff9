"""The state directory: what takes space, what can go, and whether all of it is whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lamina.cli.blobs import told
from lamina.cli.builder import print_pruned
from lamina.cli.images import FILTER_HELP, filters_of
from lamina.cli.progress import shown
from lamina.cli.quantity import human_size
from lamina.cli.terminal import json_text, visible
from lamina.cli.verbs import Verb

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session
    from lamina.content.collect import Finding
    from lamina.engine.engine import Engine

DF_DIGITS = 4  # docker's
_UNDECIDED = 125


# -- prune


def _image_prune_arguments(parser: VerbParser) -> None:
    parser.flag("-a", "--all", about="every image that is not in use, not only those without a name")
    parser.flag("-f", "--force", about="do not ask")
    parser.values("--filter", metavar="KEY=VALUE", about=FILTER_HELP + " (label, until)")


def _prune_arguments(parser: VerbParser) -> None:
    _image_prune_arguments(parser)
    parser.flag("--volumes", about="anonymous volumes that no container has, too")


def _image_prune(arguments: Arguments, session: Session) -> int:
    what = "all images that are not in use" if arguments.all else "all images without a name"
    if not arguments.force and not session.agrees(f"{what}, and content that nothing reaches"):
        return 0
    with session.engine() as engine:
        freed = _prune_images(arguments, session, engine)
    session.print(f"Total reclaimed space: {human_size(freed, DF_DIGITS)}")
    return 0


def _prune(arguments: Arguments, session: Session) -> int:
    """Containers first: what only they needed goes with them."""
    what = ["all containers that do not run", "all networks that no running container is on"]
    if arguments.volumes:
        what.append("all anonymous volumes that no container has")
    what.append("all images that are not in use" if arguments.all else "all images without a name")
    what.append("all build cache" if arguments.all else "build cache that no image shares")
    if not arguments.force and not session.agrees(f"{', '.join(what)}, and content that nothing reaches"):
        return 0
    filters = filters_of(arguments.filter)
    with session.engine() as engine:
        removed, freed = engine.prune_containers(filters)
        _print_removed(session, "Containers", removed)
        _print_removed(session, "Networks", engine.prune_networks(filters))
        if arguments.volumes:
            pruned = engine.prune_volumes({name: each for name, each in filters.items() if name != "until"})
            _print_removed(session, "Volumes", pruned.names)
            freed += pruned.freed
        freed += _prune_images(arguments, session, engine)
        if "label" not in filters:  # no step has one
            pruned_builds = engine.prune_builds(all_records=arguments.all, filters=filters)
            print_pruned(session, pruned_builds.ids)
            freed += pruned_builds.freed
    session.print(f"Total reclaimed space: {human_size(freed, DF_DIGITS)}")
    return 0


def _prune_images(arguments: Arguments, session: Session, engine: Engine) -> int:
    pruned = engine.prune(all_images=arguments.all, filters=filters_of(arguments.filter))
    if pruned.removed:
        session.print("Deleted Images:")
    for item in pruned.removed:
        session.print(f"{str(item.kind).lower()}: {visible(item.subject)}")
    if pruned.removed:
        session.print("")
    return pruned.freed


def _print_removed(session: Session, what: str, names: Sequence[str]) -> None:
    if names:
        session.print(f"Deleted {what}:")
        for name in names:
            session.print(visible(name))
        session.print("")


IMAGE_PRUNE = Verb(
    _image_prune,
    usage="[OPTIONS]",
    about="""\
Removes images without a name, and whatever an interrupted pull or a removed image left behind. What a
container, or another process, is using is never touched.""",
    arguments=_image_prune_arguments,
    examples=("lamina image prune", "lamina image prune --all --force --filter until=240h"),
)
PRUNE = Verb(
    _prune,
    usage="[OPTIONS]",
    about="""\
Removes containers that do not run, networks that nothing is on, images without a name, build cache that no
image shares, and whatever an interrupted pull or a removed image left behind. What another process is
using right now is never touched.""",
    arguments=_prune_arguments,
    examples=("lamina prune", "lamina system prune --all --volumes --force --filter until=240h"),
)


# -- check


def _check_arguments(parser: VerbParser) -> None:
    parser.flag("--repair", about="remove what is damaged and rebuild what can be rebuilt")
    parser.flag("--online", about="ask registries whether they have what was dropped here")
    parser.flag("-q", "--quiet", about="nothing but findings")
    parser.value("--format", metavar="FORMAT", default="", about="'json' (one finding a line)",
                 choices=["json"])


def _check(arguments: Arguments, session: Session) -> int:
    """0 for a store that is whole (now). 1 for what is wrong goes before 125 for what could not be asked."""
    session.is_quiet = session.is_quiet or arguments.quiet
    count = remaining = open_questions = 0
    with shown(session, session.stderr) as report, session.engine(report) as engine:
        for finding in engine.check(repair=arguments.repair, online=arguments.online):
            count += finding.is_decided
            remaining += finding.is_decided and not finding.repaired
            open_questions += not finding.is_decided
            for text in _finding(finding, arguments.format):
                session.print(text)
        dropped = engine.dropped_blobs()
    if not arguments.format:
        session.note(_verdict(count, remaining, open_questions))
        if dropped:
            is_known = arguments.online and not count and not open_questions
            session.note(told(dropped, is_asked=is_known, has_hint=not arguments.online))
    if remaining:
        return 1
    return _UNDECIDED if open_questions else 0


def _finding(finding: Finding, form: str) -> Iterator[str]:
    if form:
        yield json_text({"Subject": finding.subject, "Problem": finding.problem,
                         "Repaired": finding.repaired, "Decided": finding.is_decided})
    else:
        yield visible(f"{finding.subject}: {finding.problem}{' (repaired)' if finding.repaired else ''}")


def _verdict(count: int, remaining: int, open_questions: int) -> str:
    if open_questions:
        rest = _verdict(count, remaining, 0).rstrip(".") if count else "Everything that is here is whole"
        who = "a registry" if open_questions == 1 else f"registries for {open_questions} repositories"
        return f"{rest}; {who} could not be asked, which is worth another try later."
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
Reads every stored byte and compares it with its digest; follows every image to its layers. A layer whose
blob was dropped is made again and compared; repairing it fetches the blob. Exit code 0 when all is whole,
1 when something is wrong, 125 when that could not be decided, as when a registry cannot be asked.""",
    arguments=_check_arguments,
    examples=("lamina check", "lamina check --repair && lamina pull redis:7"),
    trouble=_UNDECIDED,
)
