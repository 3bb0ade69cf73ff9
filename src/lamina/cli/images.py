"""Images that are here: list, inspect, history, names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lamina.cli.listing import Listing, show, show_documents
from lamina.cli.quantity import human_size, moment, since
from lamina.cli.several import collected
from lamina.cli.terminal import visible
from lamina.cli.verbs import Verb
from lamina.errors import InvalidInput, LaminaError

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session
    from lamina.engine.engine import Engine
    from lamina.engine.images import HistoryRow, ImageSummary

FORMAT_HELP = "'table', 'json' (one object a line), 'table TEMPLATE' or a Go template such as '{{.ID}}'"
FILTER_HELP = "only those that match KEY=VALUE; may be repeated"
_NONE = "<none>"
_INSTRUCTION_WIDTH = 45  # docker's

IMAGE_LISTING = {
    "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "ID": "IMAGE ID",
    "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "Size": "SIZE", "Platform": "PLATFORM",
}
HISTORY_LISTING = {
    "ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY",
    "Size": "SIZE", "Comment": "COMMENT", "Layer": "LAYER",
}


def short_id(digest: str) -> str:
    return digest.partition(":")[2][:12] or digest


def filters_of(pairs: Sequence[str]) -> dict[str, list[str]]:
    """``["label=a=b", "label=c"]`` as ``{"label": ["a=b", "c"]}``."""
    from lamina.cli.arguments import UsageError

    found: dict[str, list[str]] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--filter: expected KEY=VALUE, got {pair!r}")
        found.setdefault(key, []).append(value)
    return found


# -- images


def _images_arguments(parser: VerbParser) -> None:
    parser.positional("names", "REPOSITORY[:TAG]", "only images of this name", nargs="*")
    parser.flag("-a", "--all", about="accepted for docker's sake: every image is shown anyway")
    parser.flag("--digests", about="show digests")
    parser.values("-f", "--filter", metavar="KEY=VALUE",
                  about=FILTER_HELP + " (dangling, label, before, since, reference)")
    parser.value("--format", metavar="FORMAT", default="", about=FORMAT_HELP)
    parser.flag("--no-trunc", about="show whole IDs")
    parser.flag("-q", "--quiet", about="show IDs only")


def _images(arguments: Arguments, session: Session) -> None:
    with session.engine() as engine:
        found = engine.images(names=arguments.names, filters=filters_of(arguments.filter))
    if arguments.quiet and not arguments.format:
        for digest in dict.fromkeys(str(image.id) for image in found):
            session.print(digest if arguments.no_trunc else short_id(digest))
        return
    columns = ["Repository", "Tag", "ID", "CreatedSince", "Size"]
    if arguments.digests:
        columns.insert(2, "Digest")
    rows = _image_rows(found, session.clock(), is_whole=arguments.no_trunc)
    show(session, Listing(IMAGE_LISTING, columns), rows, arguments.format)


def _image_rows(
    found: Iterable[ImageSummary], now: float, *, is_whole: bool
) -> Iterator[Mapping[str, object]]:
    for image in found:
        yield {
            "Repository": image.repository or _NONE,
            "Tag": image.tag or _NONE,
            "Digest": str(image.digest) or _NONE,
            "ID": str(image.id) if is_whole else short_id(image.id),
            "CreatedSince": since(image.created, now),
            "CreatedAt": moment(image.created),
            "Size": human_size(image.size),
            "Platform": image.platform,
        }


IMAGES = Verb(
    _images,
    usage="[OPTIONS] [REPOSITORY[:TAG]]",
    about="SIZE is what an image's files take together with those of the layers that it shares with others;\n"
          "`lamina system df -v` tells shared from unique bytes.",
    arguments=_images_arguments,
    examples=(
        "lamina images",
        "lamina images -q --filter dangling=true",
        "lamina images --format 'table {{.Repository}}:{{.Tag}}\\t{{.Size}}'",
    ),
)


# -- inspect


def _inspect_arguments(parser: VerbParser) -> None:
    parser.positional("names", "NAME", "a container, image, volume or network", nargs="+")
    parser.value("-f", "--format", metavar="FORMAT", default="", about="'json' or a Go template such as "
                 "'{{.Architecture}}'")
    parser.value("--type", metavar="TYPE", choices=["container", "image", "network", "volume"], default="",
                 about="container, image, network or volume; without it the first that has the name")
    parser.flag("-s", "--size", about="accepted for docker's sake: sizes are always shown")


def _inspect(arguments: Arguments, session: Session) -> int:
    """Those found are printed even if others are missing, as docker does it."""
    with session.engine() as engine:
        found, code = collected(
            session, arguments.names, lambda name: _document(engine, name, arguments.type)
        )
    show_documents(session, [document for _, document in found], arguments.format)
    if not arguments.format and any(kind == "image" for kind, _ in found):
        session.hint("note: RootFS.Layers lists diff ids, the digests of uncompressed layers; pull printed\n"
                     "      the digests of compressed ones. "
                     f"`lamina layers {visible(arguments.names[0])}` shows both.")
    return code


def _document(engine: Engine, name: str, wanted: str) -> tuple[str, dict[str, Any]]:
    """With its kind: a container before an image of its name, as docker has it; then a network, a volume."""
    from lamina.errors import NotFound

    readers: dict[str, Callable[[str], dict[str, Any]]] = {
        "container": engine.inspect_container, "image": engine.inspect,
        "network": engine.inspect_network, "volume": engine.inspect_volume,
    }
    if wanted:
        return wanted, readers[wanted](name)
    missing: NotFound | None = None
    for kind, read in readers.items():
        try:
            return kind, read(name)
        except NotFound as error:
            missing = error if kind == "image" else missing
        except InvalidInput:
            if kind == "image":
                raise
    assert missing is not None
    missing.add_note("nor is there a container, network or volume of that name")
    raise missing


INSPECT = Verb(
    _inspect,
    usage="[OPTIONS] NAME [NAME...]",
    about="""\
Prints a JSON array with docker's field names. Of an image, RootFS.Layers lists the layers' diff ids, base
first: a diff id is the digest of a layer's uncompressed tar. What `lamina pull` prints for the same layer
is the digest of its compressed blob; `lamina layers` shows both.""",
    arguments=_inspect_arguments,
    examples=(
        "lamina inspect redis:latest", "lamina inspect -f '{{.State.Status}}' web",
        "lamina inspect -f '{{json .RootFS.Layers}}' redis:latest",
        "lamina inspect -f '{{.Os}}/{{.Architecture}}' redis:latest",
    ),
)


# -- history


def _history_arguments(parser: VerbParser) -> None:
    parser.positional("name", "IMAGE", "a name, an ID, or the beginning of an ID")
    parser.value("--format", metavar="FORMAT", default="", about=FORMAT_HELP)
    parser.flag("-H", "--human", default=True,
                about="sizes and times for people (the default; --human=false gives exact ones)")
    parser.flag("--no-trunc", about="show whole IDs and instructions")
    parser.flag("-q", "--quiet", about="show IDs only")


def _history(arguments: Arguments, session: Session) -> None:
    with session.engine() as engine:
        rows = [_history_row(row, arguments, session.clock()) for row in engine.history(arguments.name)]
    if arguments.quiet and not arguments.format:
        for row in rows:
            session.print(str(row["ID"]))
        return
    created = "CreatedSince" if arguments.human else "CreatedAt"
    columns = ["ID", created, "CreatedBy", "Size", "Comment"]
    show(session, Listing(HISTORY_LISTING, columns), rows, arguments.format)


def _history_row(row: HistoryRow, arguments: Arguments, now: float) -> Mapping[str, object]:
    instruction = " ".join(row.created_by.split())
    if not arguments.no_trunc and len(instruction) > _INSTRUCTION_WIDTH:
        instruction = instruction[: _INSTRUCTION_WIDTH - 1] + "…"
    return {
        "ID": row.id if arguments.no_trunc or row.id.startswith("<") else short_id(row.id),
        "CreatedSince": since(row.created, now),
        "CreatedAt": moment(row.created) if arguments.human else row.created or "N/A",
        "CreatedBy": row.created_by if arguments.no_trunc else instruction,
        "Size": human_size(row.size) if arguments.human else str(row.size),
        "Comment": row.comment,
        "Layer": "" if row.layer is None else str(row.layer),
    }


HISTORY = Verb(
    _history,
    usage="[OPTIONS] IMAGE",
    about="""\
Newest first, as docker shows it. A line of size 0B may have made no layer at all (ENV, CMD): `lamina
layers` shows the layers alone, base first, with what each adds, changes and hides.""",
    arguments=_history_arguments,
    examples=("lamina history redis", "lamina history --no-trunc --format '{{.CreatedBy}}' redis"),
)


# -- names


def _tag_arguments(parser: VerbParser) -> None:
    parser.positional("source", "SOURCE", "an image that is here: a name or an ID")
    parser.positional("target", "TARGET[:TAG]", "the name to give it (tag 'latest' if none)")


def _tag(arguments: Arguments, session: Session) -> None:
    with session.engine() as engine:
        engine.tag(arguments.source, arguments.target)


TAG = Verb(
    _tag,
    usage="SOURCE TARGET[:TAG]",
    about="An image may have any number of names; a name that another image had moves to this one.",
    arguments=_tag_arguments,
    examples=("lamina tag redis:latest registry.example.com/cache/redis:7",),
)


def _rmi_arguments(parser: VerbParser) -> None:
    parser.positional("names", "IMAGE", "a name, an ID, or the beginning of an ID", nargs="+")
    parser.flag("-f", "--force", about="also by ID when it has several names; a missing image is no error")
    parser.flag("--no-prune", about="keep content that nothing else needs")


def _rmi(arguments: Arguments, session: Session) -> int:
    """Each one is tried, whatever happened to those before it."""
    from lamina.cli import failures
    from lamina.errors import NotFound

    code = 0
    with session.engine() as engine:
        for name in arguments.names:
            try:
                removed = engine.remove(name, force=arguments.force, prune=not arguments.no_prune)
            except LaminaError as error:
                session.flush()
                failure = failures.report(error, session)
                code = code if arguments.force and isinstance(error, NotFound) else failure
                continue
            for item in removed:
                session.print(f"{item.kind}: {visible(item.subject)}")
    return code


RMI = Verb(
    _rmi,
    usage="[OPTIONS] IMAGE [IMAGE...]",
    about="""\
Removes a name; with the last name goes the image, and with it each layer that no other image has.
What is shared stays, so removing an image frees its unique bytes only (`lamina system df -v`).""",
    arguments=_rmi_arguments,
    examples=("lamina rmi redis:7", "lamina rmi $(lamina images -q --filter dangling=true)"),
)
