"""Bringing an image in, wherever it comes from: copy, unpack while it arrives, prove, then name it."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from lamina.content.arrival import Arrival
from lamina.content.catalog import ImageRecord, LayerFacts
from lamina.content.copy import copy_graph, plan_copy
from lamina.content.lease import Lease
from lamina.content.local import LocalStore
from lamina.content.store import Fetcher
from lamina.engine.refetching import is_spared, submit
from lamina.engine.removed import discard
from lamina.errors import Denied, IntegrityError, InvalidInput, Unsupported
from lamina.events import Action, Event, Report, silent
from lamina.image import Image, Layer, NotAnImage
from lamina.oci.descriptor import FOREIGN_LAYERS, INDEXES, LAYERS, Descriptor, Platform
from lamina.oci.digest import Digest
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.engine.core import Core
    from lamina.snapshot.snapshotter import Snapshotter
    from lamina.snapshot.unpack import ReceivedLayer, Unpacker


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """``fetched`` are blobs that the source gave, each verified."""

    image: Image
    record: ImageRecord
    moved: bool
    fetched: frozenset[Digest] = frozenset()


class Documents:
    """A fetcher that answers with what the store has, and asks another for the rest.

    The config must be read before the first layer byte moves, so that diff ids are known; it is fetched
    once, and not at all when it is here.
    """

    def __init__(self, source: Fetcher, store: LocalStore) -> None:
        self._source = source
        self._store = store
        self._known: dict[Digest, bytes] = {}
        self.fetched: set[Digest] = set()

    def open(self, wanted: Descriptor) -> BinaryIO:
        return self.open_at(wanted, 0)

    def open_at(self, wanted: Descriptor, offset: int) -> BinaryIO:
        raw = self._known.get(wanted.digest)
        if raw is not None:
            return io.BytesIO(raw[offset:])
        if self._store.has(wanted):
            return self._store.open_at(wanted, offset)
        self.fetched.add(wanted.digest)
        if offset == 0:
            return self._source.open(wanted)
        begin = getattr(self._source, "open_at", None)
        if begin is None:
            raise Unsupported(f"{wanted.digest}: this source cannot begin in the middle")
        stream: BinaryIO = begin(wanted, offset)
        return stream

    def has(self, wanted: Descriptor) -> bool:
        return wanted.digest in self._known or self._store.has(wanted) or self._source.has(wanted)

    def know(self, image: Image) -> None:
        self._known[image.manifest.descriptor.digest] = image.manifest.raw
        self._known[image.manifest.config.digest] = image.config.raw


def land(
    engine: Core,
    source: Fetcher,
    root: Descriptor,
    *,
    names: tuple[str, ...],
    platform: Platform | None = None,
    report: Report = silent,
) -> Landed:
    """Copies one platform of an image into the store, unpacks it, and gives it its names, last.

    ``platform`` was asked for and must be met; without it an index is followed to the host's, and an image
    for one platform alone is taken whatever it is for, as docker does. Wrong bytes leave nothing behind; an
    interrupted transfer leaves what it has for the next attempt.
    """
    documents = Documents(source, engine.store)
    image = Image.load(documents, root, platform or engine.platform)
    documents.know(image)
    image.insist_on(platform)
    for layer in image.layers:
        _refuse_foreign(layer.descriptor, engine.store)
    known = engine.store.catalog.with_digest(root.digest)
    if known is not None and _is_complete(engine, known, image, names):
        for layer in image.layers:
            report(Event(action=Action.EXISTS, subject=layer.descriptor.digest))
        return Landed(image=image, record=known, moved=False)
    content = {root.digest, image.manifest.descriptor.digest, image.manifest.config.digest,
               *(layer.descriptor.digest for layer in image.layers)}
    with Lease(engine.store.state, "land an image") as lease, withdrawn(engine, content, image, lease):
        lease.hold([*content, *image.config.diff_ids])  # the collector leaves unpacked layers alone too
        moved = any(not _is_had(engine, layer) for layer in image.layers)
        _copy_and_unpack(engine, documents, root, image, report)
        record = engine.store.record(root, names=names, manifest=image.manifest)
    return Landed(image=image, record=record, moved=moved, fetched=frozenset(documents.fetched))


def _is_complete(engine: Core, known: ImageRecord, image: Image, names: tuple[str, ...]) -> bool:
    """Filed under these names, for this platform, and unpacked: then there is nothing to do or to write.

    No lease is needed: a record is what leases only stand in for.
    """
    return (
        known.manifest == image.manifest.descriptor.digest
        and set(names) <= set(known.names)
        and engine.store.has(image.manifest.descriptor)
        and engine.store.has(image.manifest.config)
        and all(
            _is_had(engine, layer) and engine.layers_store.has_index(layer.diff_id)
            and engine.store.catalog.layer(layer.descriptor.digest) is not None
            for layer in image.layers
        )
    )


def _is_had(engine: Core, layer: Layer) -> bool:
    return engine.store.has(layer.descriptor) or is_spared(engine, layer.descriptor.digest, layer.diff_id)


@contextmanager
def withdrawn(engine: Core, content: Collection[Digest], image: Image, lease: Lease) -> Iterator[None]:
    """What is wrong leaves the store as it was; what was only interrupted stays, to be resumed."""
    try:
        yield
    except (InvalidInput, IntegrityError, Unsupported, Denied):
        lease.close()
        discard(engine, content, image.config.diff_ids)
        raise


def _copy_and_unpack(
    engine: Core, source: Fetcher, root: Descriptor, image: Image, report: Report
) -> None:
    diff_ids = {layer.descriptor.digest: layer.diff_id for layer in image.layers}

    def speak(event: Event) -> None:
        if event.subject in diff_ids:
            report(event)

    with engine.unpacker(speak) as unpacker:

        def observe(leaf: Descriptor, arrival: Arrival) -> None:
            diff_id = diff_ids.get(leaf.digest)
            if diff_id is not None:
                unpacker.submit(leaf, diff_id, arrival)

        spared = _spare(engine, unpacker, image, speak)
        copy_graph(
            source, engine.store, root, choose=only(image.manifest.descriptor.digest, without=spared),
            observe=observe, report=speak, workers=engine.settings.max_concurrent_downloads,
        )
        place = {diff_id: number for number, diff_id in enumerate(image.config.diff_ids)}
        received = {layer.blob: layer for layer in unpacker.finish(image.config.diff_ids)}
        for layer in image.layers:
            blob = layer.descriptor.digest
            if blob not in received and engine.store.catalog.layer(blob) is None:
                # An attempt that was ended before it could say so has unpacked it.
                received[blob] = unpacker.received(blob, layer.diff_id)
        _learn(engine.store, sorted(received.values(), key=lambda layer: place[layer.diff_id]), report)


def _spare(engine: Core, unpacker: Unpacker, image: Image, report: Report) -> set[Digest]:
    """Layers whose blobs were dropped and need not come again: they are unpacked, if for another driver."""
    spared = set()
    for layer in image.layers:
        blob = layer.descriptor
        if not engine.store.has(blob) and is_spared(engine, blob.digest, layer.diff_id):
            report(Event(action=Action.EXISTS, subject=blob.digest, total=blob.size))
            submit(engine, unpacker, blob, layer.diff_id)
            spared.add(blob.digest)
    return spared


def unpack_present(engine: Core, image: Image, driver: Snapshotter | None = None) -> None:
    """For an image whose blobs are here but whose layers were never read, as after a push to us."""
    unpack_layers(engine, [(layer.descriptor, layer.diff_id) for layer in image.layers], driver)


def unpack_layers(
    engine: Core, layers: Sequence[tuple[Descriptor, Digest]], driver: Snapshotter | None = None
) -> None:
    """A stack whose blobs are here, or were dropped, each with its diff id, base first.

    Held until it is a snapshot: nobody takes away meanwhile what is unpacked of it already.
    """
    with Lease(engine.store.state, "unpack") as lease, engine.unpacker(silent, driver) as unpacker:
        lease.hold([diff_id for _, diff_id in layers])
        for descriptor, diff_id in layers:
            submit(engine, unpacker, descriptor, diff_id)
        _learn(engine.store, unpacker.finish([diff_id for _, diff_id in layers]), silent)


def receive_layer(engine: Core, descriptor: Descriptor, diff_id: Digest) -> None:
    """A layer whose blob is here, verified against its diff id and indexed. Raises ``DiffIDMismatch``."""
    with engine.unpacker(silent) as unpacker:
        unpacker.submit(descriptor, diff_id, engine.store.arrived(descriptor))
        _learn(engine.store, unpacker.wait([diff_id]), silent)


def _learn(store: LocalStore, layers: Sequence[ReceivedLayer], report: Report) -> None:
    with store.state.transaction():
        for received in layers:
            store.catalog.learn_layer(received.blob, LayerFacts(
                diff_id=received.diff_id, tar_size=received.tar_size, content_size=received.content_size,
                entries=received.entries,
            ))
    for received in layers:
        report(Event(action=Action.PULLED, subject=received.blob))


def only(
    manifest: Digest, *, without: Collection[Digest] = ()
) -> Callable[[Descriptor, Sequence[Descriptor]], Iterable[Descriptor]]:
    """Of an index, the one manifest (or the index that leads to it); of a manifest, all but ``without``."""

    def choose(parent: Descriptor, children: Sequence[Descriptor]) -> Iterable[Descriptor]:
        if parent.media_type not in INDEXES:
            return [child for child in children if child.digest not in without]
        chosen = [child for child in children if child.digest == manifest]
        return chosen or [child for child in children if child.media_type in INDEXES]

    return choose


def without_foreign(_parent: Descriptor, children: Sequence[Descriptor]) -> Iterable[Descriptor]:
    """Layers whose licence forbids redistribution are never pushed (image-spec layer.md)."""
    return [child for child in children if child.media_type not in FOREIGN_LAYERS]


def present(store: LocalStore) -> Callable[[Descriptor, Collection[Descriptor]], Iterable[Descriptor]]:
    """Of an index, what is here: the platforms that somebody pulled."""

    def choose(parent: Descriptor, children: Collection[Descriptor]) -> Iterable[Descriptor]:
        if parent.media_type in INDEXES:
            return [child for child in children if store.has(child)]
        return children

    return choose


def hold_all(store: LocalStore, root: Descriptor, lease: Lease) -> None:
    plan = plan_copy(store, root, present(store))
    lease.hold([descriptor.digest for descriptor, _raw in plan.documents])
    lease.hold([leaf.digest for leaf in plan.leaves])


def _refuse_foreign(layer: Descriptor, store: LocalStore) -> None:
    if layer.media_type not in LAYERS:
        raise NotAnImage(f"{layer.digest}: {layer.media_type!r} is not a layer that lamina can read")
    if layer.media_type in FOREIGN_LAYERS and not store.has(layer):
        # CVE-2020-15157: its urls lead to hosts that must never see credentials; nobody follows them.
        raise NotAnImage(f"{layer.digest}: a foreign layer, which its registry does not hold")
