"""An image from anywhere, for as long as somebody looks at it.

What is in the store is only leased. What is in a registry, an archive or a layout is landed as a pull or a
load would land it, verified, but without a name; afterwards it goes again, unless it was here before or
somebody named it meanwhile.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.archive import ArchiveSource
from lamina.content.catalog import ImageRecord
from lamina.content.collect import reachable
from lamina.content.lease import Lease
from lamina.content.store import Fetcher
from lamina.engine import housekeeping
from lamina.engine.landing import hold_all, land
from lamina.engine.locations import Location, Transport, parse_location
from lamina.engine.lookup import ImageNotFound, find_image
from lamina.engine.reached import diff_ids_of
from lamina.engine.removed import discard
from lamina.image import Image
from lamina.oci.descriptor import Descriptor, Platform
from lamina.oci.reference import Reference
from lamina.values import replace

if TYPE_CHECKING:
    from lamina.engine.core import Core


@contextmanager
def borrowed(engine: Core, text: str, platform: Platform | None = None) -> Iterator[ImageRecord]:
    """One platform of an image, all of it in the store until the context ends.

    ``text`` is what ``parse_location`` reads. ``images.load_record`` opens the record.
    """
    location = parse_location(text)
    if location.is_store:
        record = _for_platform(engine, _find(engine, location.name), platform)
        with Lease(engine.store.state, f"look at {text}") as lease:
            _hold(engine, record, lease)
            yield record
        return
    with opened(engine, location) as (source, root), landed(engine, source, root, platform) as record:
        yield record


@contextmanager
def landed(
    engine: Core, source: Fetcher, root: Descriptor, platform: Platform | None = None
) -> Iterator[ImageRecord]:
    """An image of another source, in the store until the context ends."""
    was_here = engine.store.catalog.with_digest(root.digest) is not None
    record = land(engine, source, root, names=(), platform=platform, report=engine.report).record
    content = reachable(engine.store, [record.descriptor])
    layers = diff_ids_of(engine, [record.descriptor])
    try:
        with Lease(engine.store.state, f"look at {root.digest}") as lease:
            _hold(engine, record, lease)
            yield record
    finally:
        if not was_here:
            housekeeping.drop_unnamed(engine, record)
            discard(engine, content, layers)  # where a prune took the record, and left what was leased


@contextmanager
def opened(engine: Core, location: Location) -> Iterator[tuple[Fetcher, Descriptor]]:
    """Where content comes from, and the root document of the image that is meant there."""
    if location.transport is Transport.STORE:
        yield engine.store, _find(engine, location.name).descriptor
    elif location.transport is Transport.REGISTRY:
        reference = Reference.parse(location.name).with_default_tag()
        repository = engine.registries.repository(reference)
        yield repository, repository.resolve(str(reference.digest or reference.tag))
    else:
        assert location.path is not None
        with (
            tempfile.TemporaryDirectory(prefix="load-", dir=engine.root / "ingest") as scratch,
            ArchiveSource(location.path, scratch=Path(scratch), report=engine.report) as archive,
        ):
            yield archive, _resolve(archive, location.name)


def _find(engine: Core, name: str) -> ImageRecord:
    """In the store. Whoever forgot that a file needs a prefix, or ``./``, is told."""
    try:
        return find_image(engine.store.catalog, name)
    except ImageNotFound as error:
        if Path(name).exists():
            error.add_note(f"./{name} is the file or directory of that name")
        raise


def _for_platform(engine: Core, record: ImageRecord, platform: Platform | None) -> ImageRecord:
    """The record with the manifest for ``platform``, if one was asked for, in the place of the usual one."""
    if platform is None:
        return record
    image = Image.load(engine.store, record.descriptor, platform)
    image.insist_on(platform)
    return replace(
        record, manifest=image.descriptor.digest, config=image.id, platform=str(image.config.platform)
    )


def _resolve(archive: ArchiveSource, name: str) -> Descriptor:
    """As the archive spells the name, or as people do."""
    if name:
        for spelled in (name, *_spellings(name)):
            found = [root for names, root in archive.images() if spelled in names]
            if found:
                return found[0]
    return archive.resolve(name)


def _spellings(name: str) -> tuple[str, ...]:
    reference = Reference.parse(name).with_default_tag()
    return reference.familiar, reference.canonical


def _hold(engine: Core, record: ImageRecord, lease: Lease) -> None:
    hold_all(engine.store, record.descriptor, lease)
    lease.hold(diff_ids_of(engine, [record.descriptor]))
