"""Images as files: save and load, import and export, through files or standard streams."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.cli.images import short_id
from lamina.cli.output import OUTPUT_HELP, STREAM, written
from lamina.cli.platforms import PLATFORM_HELP, platform_of
from lamina.cli.progress import shown
from lamina.cli.session import Refused
from lamina.cli.terminal import is_terminal, visible
from lamina.cli.verbs import Verb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session

# -- save and export: bytes out


def _save_arguments(parser: VerbParser) -> None:
    parser.positional("names", "IMAGE", "a name, an ID, or the beginning of an ID", nargs="+")
    parser.value("-o", "--output", metavar="FILE", default="", about=OUTPUT_HELP)
    parser.value("--format", metavar="FORMAT", default="docker-archive",
                 choices=["docker-archive", "oci-archive"],
                 about="docker-archive (default; every engine loads it) or oci-archive")


def _save(arguments: Arguments, session: Session) -> None:
    with session.engine() as engine, written(arguments.output, session, "save") as out:
        engine.save(arguments.names, out, form=arguments.format)


SAVE = Verb(
    _save,
    usage="[OPTIONS] IMAGE [IMAGE...]",
    about="""\
Layers go into the archive as they are stored, so a pulled image keeps its digests. The file appears
under its name when it is whole. The same images give the same bytes.""",
    arguments=_save_arguments,
    examples=(
        "lamina save -o redis.tar redis:7",
        "lamina save app:1 app:2 | ssh host docker load",
        "lamina save --format oci-archive -o app.tar app:1",
    ),
)


def _export_arguments(parser: VerbParser) -> None:
    parser.positional("name", "NAME", "a name, an ID, or the beginning of an ID")
    parser.value("-o", "--output", metavar="FILE", default="", about=OUTPUT_HELP)
    parser.value("--type", metavar="TYPE", choices=["image", "container"], default="",
                 about="image or container, where both have the name")


def _export(arguments: Arguments, session: Session) -> None:
    from lamina.runtime.container import ContainerNotFound

    with session.engine() as engine, written(arguments.output, session, "export") as out:
        is_container = arguments.type == "container"
        if not arguments.type:
            with suppress(ContainerNotFound):
                engine.container(arguments.name)
                is_container = True
        export = engine.export_container if is_container else engine.export
        export(arguments.name, out)


EXPORT = Verb(
    _export,
    usage="[OPTIONS] NAME",
    about="""\
The filesystem of a container, or of an image, as one tar: with owners, modes, times and extended
attributes. Volumes are not part of it. For an image it is what a container would see; nothing is
unpacked.""",
    arguments=_export_arguments,
    examples=(
        "lamina export web -o web-root.tar", "lamina export redis:7 -o redis-root.tar",
        "lamina export redis:7 | tar -tv | head",
    ),
)


# -- load and import: bytes in


def _load_arguments(parser: VerbParser) -> None:
    parser.value("-i", "--input", metavar="FILE", default="",
                 about="an archive or an OCI layout directory, instead of standard input")
    parser.value("--platform", metavar="PLATFORM", default="", about=PLATFORM_HELP)
    parser.flag("-q", "--quiet", about="no progress")


def _load(arguments: Arguments, session: Session) -> None:
    session.is_quiet = session.is_quiet or arguments.quiet
    platform = platform_of(arguments.platform)
    with (
        _readable(arguments.input, session, "load", "-i FILE") as source,
        shown(session, session.stderr) as report, session.engine(report) as engine,
    ):
        loaded = engine.load(source, platform=platform)
    for name in loaded:
        kind = "Loaded image ID" if name.startswith("sha256:") else "Loaded image"
        session.print(f"{kind}: {visible(name)}")


LOAD = Verb(
    _load,
    usage="[OPTIONS]",
    about="""\
Reads what docker, podman, skopeo and lamina save: docker-archive and OCI archives, plain or compressed
with gzip or zstd, with one image or several, and OCI layout directories.""",
    arguments=_load_arguments,
    examples=("lamina load -i redis.tar", "docker save app | lamina load", "lamina load -i ./layout"),
)


def _import_arguments(parser: VerbParser) -> None:
    parser.positional("file", "FILE|-", "a tar of a root filesystem, perhaps compressed; - is standard input")
    parser.positional("name", "NAME[:TAG]", "the name to give the image", nargs="?")
    parser.values("-c", "--change", metavar="INSTRUCTION",
                  about="a Dockerfile instruction for the config, such as 'CMD [\"sh\"]'; may be repeated")
    parser.value("-m", "--message", metavar="TEXT", default="", about="a comment for the image's history")
    parser.value("--platform", metavar="PLATFORM", default="", about=PLATFORM_HELP)


def _import(arguments: Arguments, session: Session) -> None:
    platform = platform_of(arguments.platform)
    created = creation_time(session)
    with _readable(arguments.file, session, "import", "a file's name") as source, session.engine() as engine:
        if not hasattr(source, "read"):
            raise Refused(f"import: {visible(str(source))} is a directory; expected a tar")
        digest = engine.import_image(
            source, arguments.name, changes=arguments.change, message=arguments.message,
            platform=platform, created=created,
        )
    session.print(str(digest))
    if arguments.name:
        session.hint(f"note: {short_id(digest)} is now {visible(arguments.name)}, an image of one layer.")


def creation_time(session: Session) -> str | None:
    """SOURCE_DATE_EPOCH makes the same tar the same image."""
    epoch = session.settings.source_date_epoch
    if epoch is None:
        return None
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%dT%H:%M:%SZ}"


IMPORT = Verb(
    _import,
    usage="[OPTIONS] FILE|- [NAME[:TAG]]",
    about="""\
Makes an image of one layer. `lamina export` goes the other way; for archives of images, with their
layers and history, there is `lamina load`. SOURCE_DATE_EPOCH is honoured.""",
    arguments=_import_arguments,
    examples=(
        "lamina import alpine-minirootfs.tar.gz alpine:mine",
        "tar -C root -c . | lamina import -c 'CMD [\"/bin/sh\"]' - tiny",
    ),
)


@contextmanager
def _readable(name: str, session: Session, verb: str, instead: str) -> Iterator[BinaryIO]:
    """A file, or standard input if it is not somebody's keyboard. A directory is given as its path."""
    if name in ("", STREAM):
        if is_terminal(session.stdin):
            raise Refused(f"{verb}: nothing to read from a terminal; give {instead}, or redirect the input")
        yield session.input_bytes()
    elif os.path.isdir(name):
        yield Path(name)  # type: ignore[misc]
    elif "://" in name and not os.path.exists(name):
        raise Refused(f"{verb}: {visible(name)}: not fetched here: `curl -L URL | lamina {verb} ...`")
    else:
        with open(name, "rb") as stream:
            yield stream
