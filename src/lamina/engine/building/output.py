"""Where a build's result goes besides the store (``--output``): a directory, an archive, a registry."""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lamina.engine import archives
from lamina.engine.delivery import deliver
from lamina.engine.locations import Location, Transport
from lamina.engine.refetching import RefetchingStore
from lamina.errors import InvalidInput, nearest
from lamina.oci.descriptor import INDEXES, Descriptor
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.engine.building.sbom import Bill
    from lamina.engine.core import Core

KINDS = ("local", "tar", "oci", "docker", "image", "registry", "cacheonly")
_KEYS = ("type", "dest", "name", "push", "tar")
_TO_STDOUT = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """``destination`` is a path, or ``-`` for standard output. ``names`` are references to push to."""

    kind: str
    destination: str = ""
    names: tuple[str, ...] = ()
    is_pushed: bool = False
    is_archive: bool = True

    @property
    def needs_store(self) -> bool:
        """Whether the image is to stay here."""
        return self.kind in ("image", "registry")


def parse_output(text: str) -> Output:
    """``type=KIND,dest=PATH,…``; a path alone is a directory, and ``-`` alone a tar on standard output."""
    if "=" not in text:
        return Output(kind="tar" if text == _TO_STDOUT else "local", destination=text)
    try:
        (fields,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError):
        raise InvalidInput(f"--output {text}: its quotes do not match") from None
    found = dict(field.partition("=")[::2] for field in fields)
    for key in found:
        if key not in _KEYS:
            raise InvalidInput(f"--output {text}: no such key {key}{nearest(key, _KEYS)}")
    kind = found.get("type", "")
    if kind not in KINDS:
        raise InvalidInput(f"--output {text}: expected type= one of {', '.join(KINDS)}, got {kind!r}")
    destination = found.get("dest", "")
    if kind == "local" and destination in ("", _TO_STDOUT):
        raise InvalidInput(f"--output {text}: a directory is needed, as dest=PATH")
    if kind in ("image", "registry", "cacheonly") and destination:
        raise InvalidInput(f"--output {text}: {kind} takes no dest=")
    return Output(
        kind=kind, destination=destination or (_TO_STDOUT if kind in ("tar", "oci", "docker") else ""),
        names=tuple(name for name in found.get("name", "").split(",") if name),
        is_pushed=kind == "registry" or _is_true(found.get("push", "false"), text),
        is_archive=_is_true(found.get("tar", "true"), text),
    )


def _is_true(value: str, text: str) -> bool:
    if value.lower() not in ("true", "false", "1", "0", ""):
        raise InvalidInput(f"--output {text}: expected true or false, got {value!r}")
    return value.lower() in ("true", "1", "")


def check_outputs(outputs: Sequence[Output], tags: Sequence[str], *, is_terminal: bool) -> None:
    """What can be known to fail before any work is done."""
    for output in outputs:
        if output.is_pushed and not (output.names or tags):
            raise InvalidInput("--push: the image needs a name to be pushed to; give one with -t")
        if output.destination == _TO_STDOUT and is_terminal:
            raise InvalidInput(
                f"--output type={output.kind}: a terminal is no place for it; redirect it, or give dest=FILE"
            )


def deliver_build(
    engine: Core, root: Descriptor, output: Output, names: Sequence[str], *, stdout: BinaryIO | None,
    compression: str = "gzip", bills: Sequence[Bill] = (),
) -> None:
    """The image is in the store. ``names`` are its canonical ones. A directory gets ``bills`` as files."""
    if output.is_pushed:
        for name in output.names or names:
            location = Location(transport=Transport.REGISTRY, name=name)
            deliver(engine, root, location, compression=compression)
    elif output.kind in ("local", "tar"):
        _filesystem(engine, root, output, stdout, is_alone=len(bills) == 1)
        if output.kind == "local":
            _write_bills(bills, Path(output.destination))
    elif output.kind in ("oci", "docker"):
        _archive(engine, root, output, names, stdout)


def _filesystem(
    engine: Core, root: Descriptor, output: Output, stdout: BinaryIO | None, *, is_alone: bool
) -> None:
    """``is_alone``: an index, of one image."""
    if root.media_type in INDEXES and not is_alone:
        raise InvalidInput(f"--output type={output.kind}: one platform at a time")
    if output.kind == "local":
        with tempfile.TemporaryFile() as spool:
            archives.export(engine, str(root.digest), spool)
            spool.seek(0)
            _unpack(spool, Path(output.destination))
        return
    _written(output.destination, stdout, lambda out: archives.export(engine, str(root.digest), out))


def _unpack(tar: BinaryIO, place: Path) -> None:
    """As the user who builds; root keeps owners. What is there already stays beside it."""
    from lamina.build.streamed import extract_into

    place.mkdir(parents=True, exist_ok=True)
    extract_into(tar, place, ids=None if os.geteuid() == 0 else (os.geteuid(), os.getegid()))


def _write_bills(bills: Sequence[Bill], place: Path) -> None:
    """By renaming: what the image has under these names may be a link to anywhere."""
    from lamina.content.durable import write_file

    for bill in bills:
        for name, text in bill.documents:
            write_file(place / name, text)


def _archive(
    engine: Core, root: Descriptor, output: Output, names: Sequence[str], stdout: BinaryIO | None
) -> None:
    from lamina.archive import ArchiveWriter

    if not output.is_archive:
        location = Location(
            transport=Transport.LAYOUT, name=names[0] if names else "latest", path=Path(output.destination)
        )
        deliver(engine, root, location)
        return

    def write(out: BinaryIO) -> None:
        writer = ArchiveWriter(out, f"{output.kind}-archive")
        writer.add(RefetchingStore(engine, is_final=True), root, list(names))
        writer.finish()

    _written(output.destination, stdout, write)


def _written(destination: str, stdout: BinaryIO | None, write: Callable[[BinaryIO], None]) -> None:
    if destination != _TO_STDOUT:
        from lamina.content.wholefile import whole_file

        with whole_file(Path(destination)) as out:
            write(out)
        return
    if stdout is None:
        raise InvalidInput("--output: there is no standard output to write to")
    with tempfile.TemporaryFile() as spool:  # whole, or nothing of it
        write(spool)
        spool.seek(0)
        shutil.copyfileobj(spool, stdout, 1 << 20)
        stdout.flush()
