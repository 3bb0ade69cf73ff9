"""Files of an image: list and print them, from the union of its layers or from one layer."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lamina.cli.arguments import UsageError
from lamina.cli.listing import Listing, show
from lamina.cli.quantity import human_size, minute_of
from lamina.cli.terminal import is_terminal, visible, visible_chunks
from lamina.cli.verbs import Verb
from lamina.layer.entry import Kind

if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session
    from lamina.engine.explain import FileRow

LAYER_HELP = "only this layer, as it was made; layers count from 0 at the base (`lamina layers`)"
_TYPE_BITS = {
    Kind.FILE: stat.S_IFREG, Kind.DIRECTORY: stat.S_IFDIR, Kind.SYMLINK: stat.S_IFLNK,
    Kind.HARDLINK: stat.S_IFREG, Kind.CHAR: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK, Kind.FIFO: stat.S_IFIFO,
}
FILE_LISTING = Listing(
    {"Mode": "MODE", "Owner": "OWNER", "Size": "SIZE", "Modified": "MODIFIED", "Layer": "LAYER",
     "Name": "NAME", "Path": "PATH", "Kind": "KIND", "Target": "TARGET"},
    ("Mode", "Owner", "Size", "Modified", "Layer", "Name"),
    right=("Size", "Layer"),
)


def split_path(name: str, path: str | None, default: str = "") -> tuple[str, str]:
    """``IMAGE:/PATH`` or ``IMAGE PATH``. A tag never begins with a slash, so the first ``:/`` divides."""
    if path is not None:
        return name, path
    image, colon, rest = name.partition(":/")
    if colon:
        return image, "/" + rest
    if not default:
        raise UsageError(f"{name}: expected a path too, as in {name}:/etc/os-release")
    return name, default


def _ls_arguments(parser: VerbParser) -> None:
    parser.positional("name", "IMAGE[:PATH]", "an image, and a path in it that begins with /")
    parser.positional("path", "PATH", "the same path, as a word of its own", nargs="?")
    parser.flag("-l", "--long", about="mode, owner, size, time, and the layer that each file comes from")
    parser.flag("-a", "--all", about="accepted for ls's sake: every file is shown anyway")
    parser.flag("-R", "--recursive", about="everything below, as whole paths")
    parser.flag("-H", "--human", about="sizes for people, with -l")
    parser.value("--layer", metavar="N", type=int, default=None, about=LAYER_HELP)
    parser.value("--format", metavar="FORMAT", default="",
                 about="'table', 'json' (one object a line) or a Go template such as '{{.Path}}'")


def _ls(arguments: Arguments, session: Session) -> None:
    name, path = split_path(arguments.name, arguments.path, "/")
    arguments.human |= getattr(arguments, "help", False)  # in -lh; -h alone was answered with the help
    with session.engine() as engine:
        found = engine.ls(name, path, layer=arguments.layer, recursive=arguments.recursive)
    if arguments.long or arguments.format:
        rows = (_row(file, arguments) for file in found)
        show(session, FILE_LISTING, rows, arguments.format)
        return
    for file in found:
        session.print(_shown_name(file, is_whole=arguments.recursive))


def _shown_name(file: FileRow, *, is_whole: bool) -> str:
    return visible(f"/{file.path.lstrip('/')}" if is_whole else file.name)


def _row(file: FileRow, arguments: Arguments) -> Mapping[str, object]:
    """In a table ``Name`` shows where a link leads, as ls has it; JSON has both apart."""
    name = f"/{file.path.lstrip('/')}" if arguments.recursive else file.name
    if file.target and not arguments.format:
        name += f" -> {file.target}" if file.kind is Kind.SYMLINK else f" = /{file.target}"
    return {
        "Mode": stat.filemode(_TYPE_BITS[file.kind] | file.mode),
        "Owner": f"{file.uid}:{file.gid}",
        "Size": human_size(file.size) if arguments.human else file.size,
        "Modified": minute_of(file.mtime),
        "Layer": file.layer,
        "Name": name,
        "Path": f"/{file.path.lstrip('/')}",
        "Kind": file.kind.name.lower(),
        "Target": file.target,
    }


LS = Verb(
    _ls,
    usage="[OPTIONS] IMAGE[:PATH]",
    about="""\
Shows the union of the layers, exactly what a container would see, without unpacking anything. With
--layer it shows one layer as it was made, whiteouts (.wh.NAME, which hide NAME below) included.""",
    arguments=_ls_arguments,
    examples=(
        "lamina ls -l redis:7:/usr/local/bin", "lamina ls -R redis:7", "lamina ls --layer 0 redis:7 /etc",
    ),
)


def _cat_arguments(parser: VerbParser) -> None:
    parser.positional("name", "IMAGE[:PATH]", "an image, and a path in it that begins with /")
    parser.positional("path", "PATH", "the same path, as a word of its own", nargs="?")
    parser.value("--layer", metavar="N", type=int, default=None, about=LAYER_HELP)


def _cat(arguments: Arguments, session: Session) -> None:
    """Exact bytes in a pipe; on a terminal, text that cannot steer it."""
    name, path = split_path(arguments.name, arguments.path)
    with session.engine() as engine, engine.cat(name, path, layer=arguments.layer) as stream:
        if is_terminal(session.stdout):
            for text in visible_chunks(stream):
                session.write(text)
            return
        out = session.output_bytes()
        while chunk := stream.read(1 << 20):
            out.write(chunk)
        out.flush()


CAT = Verb(
    _cat,
    usage="[OPTIONS] IMAGE[:PATH]",
    about="""\
Follows links inside the image. With --layer it prints the file as that layer has it, even if a layer
above hides it. On a terminal control characters are shown as escapes; a pipe gets the exact bytes.""",
    arguments=_cat_arguments,
    examples=("lamina cat redis:7 /etc/os-release", "lamina cat --layer 1 app:2:/app/config.json"),
)
