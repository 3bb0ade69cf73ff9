"""Whether something is gone from an image, and where in the store it still is: the certificate, wired."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, BinaryIO

import lamina
from lamina.content.catalog import ImageRecord
from lamina.engine.borrowing import borrowed
from lamina.engine.watching import WatchedSource, watched
from lamina.errors import InvalidInput, LaminaError
from lamina.image import Image, Layer
from lamina.insight.certificate import Certificate, Sought
from lamina.insight.erasure import Content, Wanted, search_image
from lamina.insight.needles import pattern_needle, secret_needle
from lamina.layer.entry import normalise
from lamina.oci.descriptor import Platform
from lamina.oci.digest import Digest
from lamina.oci.reference import Reference

if TYPE_CHECKING:
    from lamina.engine.core import Core
    from lamina.insight.leaks import Leaks
    from lamina.layer.index import LayerIndex


def verify_erased(
    engine: Core, name: str, *, secrets: Mapping[str, bytes], patterns: Sequence[str], paths: Sequence[str],
    platform: Platform | None, everywhere: bool, image_only: bool,
) -> Certificate:
    wanted = _wanted(secrets, patterns, paths)
    if everywhere and image_only:
        raise InvalidInput("either everywhere or the image only")
    with borrowed(engine, name, platform) as record:
        searched = search_image(record.descriptor, content_of(engine), wanted)
        outside = None
        if not image_only:
            from lamina.engine.elsewhere import search_elsewhere

            outside = search_elsewhere(engine, record, wanted, searched.findings)
    return Certificate(
        image=name, names=_names(record), root=record.descriptor.digest, time=_moment(engine.clock()),
        version=lamina.__version__, sought=_sought(wanted), searched=searched, everywhere=everywhere,
        elsewhere=None if outside is None else outside.found,
        elsewhere_undecided=() if outside is None else outside.undecided,
    )


def content_of(engine: Core) -> Content:
    return Content(source=WatchedSource(engine.store, engine.report), index=_index_of(engine),
                   kept_tar=_kept_tar(engine), dropped=_dropped(engine),
                   scratch=str(engine.root / "ingest"))


def _wanted(secrets: Mapping[str, bytes], patterns: Sequence[str], paths: Sequence[str]) -> Wanted:
    if not (secrets or patterns or paths):
        raise InvalidInput("nothing to search for: no secret, no pattern and no path")
    needles = [secret_needle(content, label) for label, content in secrets.items()]
    needles += [pattern_needle(text) for text in patterns]
    return Wanted(needles=tuple(needles), paths=tuple(map(_path, paths)))


def _path(text: str) -> str:
    path = normalise(text)
    if not path:
        raise InvalidInput(f"{text!r}: every image has a root; name a path below it")
    return path


def _sought(wanted: Wanted) -> tuple[Sought, ...]:
    needles = [Sought(kind=str(each.kind), label=each.label, size=each.size) for each in wanted.needles]
    return (*needles, *(Sought(kind="path", label=f"/{path}") for path in wanted.paths))


def _index_of(engine: Core) -> Callable[[Image, Layer], LayerIndex]:
    """A layer that nobody unpacked yet (pushed into ``serve``) is read now, once for all of its image."""
    failures: dict[Digest, LaminaError] = {}

    def index(image: Image, layer: Layer) -> LayerIndex:
        known = image.descriptor.digest
        if not engine.layers_store.has_index(layer.diff_id) and known not in failures:
            from lamina.engine.landing import unpack_present

            try:
                unpack_present(engine, image)
            except LaminaError as error:
                failures[known] = error
        if known in failures and not engine.layers_store.has_index(layer.diff_id):
            raise failures[known]
        return engine.layers_store.index(layer.diff_id)

    return index


def _kept_tar(engine: Core) -> Callable[[Digest], BinaryIO | None]:
    def open_tar(diff_id: Digest) -> BinaryIO | None:
        with suppress(FileNotFoundError):
            tar = open(engine.layers_store.tar(diff_id), "rb", buffering=0)  # noqa: SIM115 - the caller closes
            return watched(tar, diff_id, os.fstat(tar.fileno()).st_size, engine.report)
        known = engine.store.dropped.of_layer(diff_id)
        if not any(engine.store.dropped_blob(blob.digest) for blob in known):
            return None
        size = engine.layers_store.facts(diff_id).tar_size
        return watched(engine.layers_store.open_tar(diff_id), diff_id, size, engine.report)

    return open_tar


def _dropped(engine: Core) -> Callable[[Digest], str]:
    def repository(blob: Digest) -> str:
        found = engine.store.dropped_blob(blob)
        return "" if found is None else found.repository

    return repository


def _names(record: ImageRecord) -> tuple[str, ...]:
    return tuple(Reference.parse(name).familiar for name in record.names)


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def secrets(engine: Core, name: str, *, platform: Platform | None) -> Leaks:
    from lamina.engine import images
    from lamina.engine.contents import Contents
    from lamina.insight.leaks import find_leaks

    with borrowed(engine, name, platform) as record:
        image = images.load_record(engine, record)
        with Contents(engine, image) as contents:
            return find_leaks(image, content_of(engine), contents.open)
