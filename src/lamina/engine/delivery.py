"""An image that is in the store, brought to where it shall go: a registry, an archive, a layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.archive import ArchiveWriter
from lamina.archive.directory import LayoutDirectory
from lamina.content.collect import reachable
from lamina.content.wholefile import whole_file
from lamina.engine.landing import present, without_foreign
from lamina.engine.locations import ARCHIVES, Location, Transport
from lamina.engine.refetching import RefetchingStore
from lamina.engine.removed import discard
from lamina.errors import InvalidInput
from lamina.oci.descriptor import Descriptor
from lamina.oci.reference import InvalidReference, Reference

if TYPE_CHECKING:
    from lamina.engine.core import Core


def check_target(location: Location) -> None:
    """What can be known to fail before any work is done."""
    if location.transport in (Transport.STORE, Transport.REGISTRY):
        reference = Reference.parse(location.name)
        if reference.digest is not None:
            raise InvalidInput(f"{location.name}: a name to give cannot hold a digest")
        return
    assert location.path is not None
    if location.transport in ARCHIVES and location.path.is_dir():
        raise InvalidInput(f"{location.path}: a directory; an archive needs a file's name")
    if location.transport is Transport.LAYOUT and location.path.exists() and not location.path.is_dir():
        raise InvalidInput(f"{location.path}: not a directory; a layout needs one")


def deliver(engine: Core, root: Descriptor, location: Location, *, compression: str = "gzip") -> None:
    """Copies what ``root`` reaches and this store has. A name in the store is the caller's to give.

    ``compression`` is for plain layers on their way to a registry. A file appears when it is whole.
    """
    if location.transport is Transport.REGISTRY:
        _push(engine, root, Reference.parse(location.name).with_default_tag(), compression)
    elif location.transport in ARCHIVES:
        assert location.path is not None
        with whole_file(location.path) as out:
            writer = ArchiveWriter(out, location.transport.value)
            writer.add(RefetchingStore(engine, is_final=True), root, _names(location))
            writer.finish()
    elif location.transport is Transport.LAYOUT:
        assert location.path is not None
        from lamina.content.copy import copy_graph

        with _naming(location.path):
            layout = LayoutDirectory.create(location.path)
            copy_graph(RefetchingStore(engine), layout, root, choose=present(engine.store))
            layout.tag(location.name, root)


def _push(engine: Core, root: Descriptor, reference: Reference, compression: str) -> None:
    from lamina.content.copy import copy_graph
    from lamina.convert import compress_layers
    from lamina.engine.transfer import as_push, siblings

    before = reachable(engine.store, [root])
    source = RefetchingStore(engine, is_final=True)
    sent = compress_layers(source, root, compression)
    try:
        repository = engine.registries.repository(reference)
        copy_graph(
            source, repository, sent, choose=without_foreign,
            origins=lambda blob: siblings(engine.store, blob, reference),
            report=as_push(engine.report), workers=engine.settings.max_concurrent_uploads,
        )
        repository.put_manifest(engine.store.read_document(sent), sent.media_type, reference.tag)
    finally:
        discard(engine, reachable(engine.store, [sent]) - before, ())  # what was made for the journey


def _names(location: Location) -> tuple[str, ...]:
    """What the image is called in an archive: a reference in full, or nothing."""
    if not location.name:
        return ()
    try:
        return (Reference.parse(location.name).with_default_tag().canonical,)
    except InvalidReference:
        return (location.name,)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """A disk that is full is told of this place, not of the store."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
