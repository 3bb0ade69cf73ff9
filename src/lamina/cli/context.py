"""What a build would see of its context, and which line of which ignore file left out the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.cli.listing import Listing, show
from lamina.cli.quantity import human_size
from lamina.cli.verbs import Verb
from lamina.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lamina.build.context import Context
    from lamina.build.listing import Listed
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session

_HEADINGS = {
    "Size": "SIZE", "Sent": "SENT", "Kind": "KIND", "Path": "PATH", "Rule": "RULE", "Place": "RULE AT",
}
_SPELL = {"Size": lambda size: human_size(int(str(size))), "Sent": lambda sent: "yes" if sent else "no"}
LISTING = Listing(_HEADINGS, ("Size", "Path"), spell=_SPELL, right=("Size",))
WHOLE = Listing(_HEADINGS, ("Size", "Sent", "Path", "Rule", "Place"), spell=_SPELL, right=("Size",))


def _arguments(parser: VerbParser) -> None:
    parser.positional("path", "PATH", "the context (default: this directory)", nargs="?")
    parser.value("-f", "--file", metavar="FILE", default="",
                 about="the Dockerfile, whose own FILE.dockerignore is read rather than .dockerignore")
    parser.flag("-a", "--all", about="what is left out too, and the rule that says so")
    parser.value("--sort", metavar="KEY", default="path", choices=("path", "size"),
                 about="path (default), or size with the largest first")
    parser.value("--format", metavar="FORMAT", default="",
                 about="'table', 'json' (one object a line) or a Go template such as '{{.Path}}'")


def _ls(arguments: Arguments, session: Session) -> None:
    from lamina.build.listing import listing

    with _opened(arguments.path or ".", arguments.file) as context:
        found = list(listing(context))
    shown = [each for each in found if each.is_sent or arguments.all]
    if arguments.sort == "size":
        shown.sort(key=lambda each: (-each.size, each.path))
    show(session, WHOLE if arguments.all else LISTING, map(_row, shown), arguments.format)
    session.note(_totals(found))


def _opened(path: str, file: str) -> Context:
    """Which ignore file counts hangs on the Dockerfile's name; but there need not be one yet."""
    from lamina.engine.building.contexts import open_context
    from lamina.engine.building.options import BuildOptions

    try:
        return open_context(path, BuildOptions(dockerfile=file))[0]
    except NotFound:
        if file:
            raise
        return open_context(path, BuildOptions(text=b""))[0]


def _row(listed: Listed) -> Mapping[str, object]:
    rule = listed.rule
    return {
        "Size": listed.size, "Sent": listed.is_sent, "Kind": listed.kind.name.lower(), "Path": listed.path,
        "Rule": rule.text if rule is not None else "", "Place": rule.place if rule is not None else "",
    }


def _totals(found: Sequence[Listed]) -> str:
    sent = [each for each in found if each.is_sent]
    left = [each for each in found if not each.is_sent]
    return f"{_sum(sent)} in the context; {_sum(left)} left out"


def _sum(found: Iterable[Listed]) -> str:
    sizes = [each.size for each in found]
    return f"{len(sizes)} path{'' if len(sizes) == 1 else 's'}, {human_size(sum(sizes))}"


LS = Verb(
    _ls,
    usage="[OPTIONS] [PATH]",
    about="""\
Nothing is built, and nothing is sent anywhere: a build reads from the context what its steps name. A
directory that is left out stands for all below it, with the bytes of its files.""",
    arguments=_arguments,
    examples=(
        "lamina context ls", "lamina context ls --all --sort size .",
        "lamina context ls -f deploy/Dockerfile --format '{{.Path}}' .",
    ),
)
