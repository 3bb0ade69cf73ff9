"""What the bytes of an image are: directories, layers, extensions, instructions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from lamina.cli.arguments import UsageError
from lamina.cli.explain import shortened, spell_size
from lamina.cli.listing import Listing, show
from lamina.cli.platforms import PLATFORM_HELP, platform_of
from lamina.cli.quantity import human_size
from lamina.cli.verbs import Verb

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session
    from lamina.insight.usage import Portion

_BY = ("dir", "layer", "extension", "instruction")
_NAMES = {"dir": "DIRECTORY", "layer": "INSTRUCTION", "extension": "EXTENSION", "instruction": "INSTRUCTION"}
_PREFIXES = ("docker://", "oci-archive:", "docker-archive:", "oci:")


def split_place(name: str, path: str | None) -> tuple[str, str]:
    """``IMAGE[:/PATH]`` or ``IMAGE PATH``, where the image may be elsewhere and have colons of its own."""
    if path is not None:
        return name, path
    prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
    image, colon, rest = name.removeprefix(prefix).partition(":/")
    return prefix + image, f"/{rest}" if colon else "/"


def _arguments(parser: VerbParser) -> None:
    parser.positional("name", "IMAGE[:PATH]", "an image here or elsewhere, and a path that begins with /")
    parser.positional("path", "PATH", "the same path, as a word of its own", nargs="?")
    parser.value("--by", metavar="WHAT", choices=_BY, default="dir",
                 about="dir (the default), layer, extension or instruction")
    parser.value("-d", "--depth", metavar="N", type=int, default=1,
                 about="how many names below PATH tell directories apart; 1 if not said")
    parser.value("-n", "--rows", metavar="ROWS", type=int, default=0,
                 about="only so many rows, and one for the others")
    parser.flag("--hidden", about="also bytes that are stored but that no container sees")
    parser.value("--platform", metavar="PLATFORM", default="", about=PLATFORM_HELP)
    parser.value("--format", metavar="FORMAT", default="",
                 about="'table', 'json' (one object a line) or a Go template such as '{{.Size}} {{.Name}}'")


def _du(arguments: Arguments, session: Session) -> None:
    from lamina.cli.progress import shown

    if arguments.depth < 1:
        raise UsageError(f"--depth: expected 1 or more, got {arguments.depth}")
    if arguments.rows < 0:
        raise UsageError(f"--rows: expected 1 or more, got {arguments.rows}")
    name, path = split_place(arguments.name, arguments.path)
    platform = platform_of(arguments.platform)
    with shown(session, session.stderr) as report, session.engine(report) as engine:
        rows = engine.du(name, path, by=arguments.by, depth=arguments.depth, platform=platform)
    if not arguments.hidden and arguments.by != "layer":
        rows = tuple(row for row in rows if row.files)
    _show(_cut(rows, arguments.rows), arguments, session)


def _cut(rows: Sequence[Portion], most: int) -> Sequence[Portion]:
    from lamina.insight.usage import merge

    if not most or len(rows) <= most:
        return rows
    return [*rows[:most], merge(f"({len(rows) - most} more)", rows[most:])]


def _show(rows: Sequence[Portion], arguments: Arguments, session: Session) -> None:
    from lamina.insight.usage import merge

    columns = ["Size", "Files", "Name"]
    spell: dict[str, Callable[[object], str]] = {"Size": spell_size, "Hidden": spell_size, "Layer": _number}
    if arguments.by in ("layer", "instruction"):
        spell["Name"] = lambda text: shortened(str(text)) or "(its history does not say)"
    if arguments.hidden:
        columns[1:1] = ["Hidden"]
    if arguments.by == "layer":
        columns.insert(0, "Layer")
    headings = {
        "Layer": "LAYER", "Size": "SIZE", "Hidden": "HIDDEN", "Files": "FILES",
        "HiddenFiles": "HIDDEN FILES", "Name": _NAMES[arguments.by],
    }
    listing = Listing(headings, columns, spell=spell, right=("Layer", "Size", "Hidden", "Files"))
    show(session, listing, map(_row, rows), arguments.format)
    if not arguments.format:
        session.print(_total(merge("", rows), is_hidden=arguments.hidden))


def _row(row: Portion) -> Mapping[str, object]:
    return {
        "Name": row.name, "Layer": row.layer, "Size": row.bytes, "Files": row.files,
        "Hidden": row.hidden_bytes, "HiddenFiles": row.hidden_files,
    }


def _total(whole: Portion, *, is_hidden: bool) -> str:
    files = "1 file" if whole.files == 1 else f"{whole.files} files"
    text = f"{human_size(whole.bytes)} in {files}"
    if is_hidden:
        total = human_size(whole.bytes + whole.hidden_bytes)
        text += f", and {human_size(whole.hidden_bytes)} that no container sees: {total} stored"
    return text


def _number(value: object) -> str:
    return "" if value is None else str(value)


DU = Verb(
    _du,
    usage="[OPTIONS] IMAGE[:PATH]",
    about="""\
Shows what the files of an image take: the sizes of their content, uncompressed. Each file is in one
row, so rows add up: with --by dir a row has the files in and below a directory that no other row has.
A file with several names counts once, under the first. With --hidden, what lower layers store and
upper ones hide is counted too, and all rows together are every byte of content that the layers hold.""",
    arguments=_arguments,
    examples=(
        "lamina du redis:7", "lamina du --depth 2 -n 10 redis:7:/usr", "lamina du --by layer --hidden app:2",
        "lamina du --by extension docker://python:3.12",
    ),
)
