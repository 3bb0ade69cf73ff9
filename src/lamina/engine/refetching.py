"""Dropped blobs as if they were here: read from where they come back, landed again, or done without."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from lamina.content.arrival import Arrival
from lamina.content.collect import reachable
from lamina.content.copy import copy_graph
from lamina.content.dropped import DroppedBlob
from lamina.content.lease import Lease
from lamina.content.store import BlobNotFound, Ingest, verified
from lamina.engine.origins import MAX_HOPS, Origins, has
from lamina.errors import LaminaError
from lamina.layer.compress import Compression
from lamina.oci.descriptor import OCI_LAYER, Descriptor
from lamina.oci.digest import Digest
from lamina.snapshot.layers import LayerStore
from lamina.values import replace

if TYPE_CHECKING:
    from lamina.engine.core import Core
    from lamina.snapshot.unpack import Unpacker


class RefetchingStore:
    """The store, as a ``ContentStore`` from which nothing was dropped.

    Bytes of a dropped blob pass through, verified, and are not kept: :func:`fetch` is for that.
    """

    def __init__(self, engine: Core, *, hops: int = 0, is_final: bool = False) -> None:
        """``hops``: how many of our kind have passed on already what this is asked for.

        ``is_final``: nobody can take back what was read here when it turns out to be wrong, or waits
        until another has been asked.
        """
        self._engine = engine
        self._store = engine.store
        self._origins = Origins(engine, hops=hops)
        self._is_final = is_final

    def after(self, hops: int) -> RefetchingStore | None:
        """The same for others, who may be asking because we asked them; ``None`` where that is likely."""
        return RefetchingStore(self._engine, hops=hops, is_final=self._is_final) if hops < MAX_HOPS else None

    def doubts(self, wanted: Descriptor) -> int:
        """See :class:`lamina.content.copy.SecondThoughts`."""
        return self._origins.doubts(wanted.digest)

    def has(self, wanted: Descriptor) -> bool:
        # In the end once more: its row goes when somebody else has fetched it.
        return self._store.has(wanted) or self._dropped(wanted) is not None or self._store.has(wanted)

    def open(self, wanted: Descriptor) -> BinaryIO:
        return self.open_at(wanted, 0)

    def open_at(self, wanted: Descriptor, offset: int) -> BinaryIO:
        try:
            return self._store.open_at(wanted, offset)
        except BlobNotFound:
            blob = self._dropped(wanted)
        if blob is None:  # somebody else has fetched it by now, or it never was
            return self._store.open_at(wanted, offset)
        return self._open_dropped(blob, offset)

    def _open_dropped(self, blob: DroppedBlob, offset: int) -> BinaryIO:
        """From the first repository that serves it; a plain tar is made again here."""
        layers = self._engine.layers_store
        if blob.digest == blob.diff_id and not offset and layers.has_data(blob.diff_id):
            return cast("BinaryIO", verified(blob.descriptor, layers.open_tar(blob.diff_id)))
        if self._is_final and not offset:
            return self._origins.open_whole(blob)
        return self._origins.open(blob, offset)

    def put(self, expected: Descriptor, source: BinaryIO) -> None:
        self._store.put(expected, source)

    def ingest(self) -> Ingest:
        return self._store.ingest()

    def compression_of(self, blob: Descriptor) -> Compression | None:
        """Noted when it was dropped: nobody fetches a blob to see how it begins."""
        found = self._dropped(blob)
        return None if found is None else Compression(found.compression)

    def _dropped(self, wanted: Descriptor) -> DroppedBlob | None:
        found = self._store.dropped_blob(wanted.digest)
        return found if found is not None and found.descriptor.size == wanted.size else None


def served(engine: Core, blob: DroppedBlob, *, is_kept: bool = False) -> DroppedBlob:
    """With the repository that serves a blob now. Raises as :meth:`Origins.first` does.

    ``is_kept``: one that dropped it too, and would have to ask on, does not count: it may be us whom it asks.
    """
    origins = Origins(engine, hops=MAX_HOPS - 1 if is_kept else 0)
    return replace(blob, repository=origins.first(blob, has(blob)))


# -- landed again


def fetch(engine: Core, root: Descriptor) -> tuple[DroppedBlob, ...]:
    """Lands the dropped blobs that ``root`` reaches, as far as its documents are here; gives those.

    ``root`` may be a blob itself.
    """
    with Lease(engine.store.state, f"fetch {root.digest}") as lease:
        return _fetch_held(engine, root, lease)


def _fetch_held(engine: Core, root: Descriptor, lease: Lease) -> tuple[DroppedBlob, ...]:
    """Held first: nobody drops again what lands. A row goes when its blob is there."""
    store = engine.store
    away: dict[Digest, DroppedBlob] = {}

    def choose(_parent: Descriptor, children: Sequence[Descriptor]) -> Iterable[Descriptor]:
        lease.hold([child.digest for child in children])
        for child in children:
            blob = store.dropped_blob(child.digest)
            if blob is not None:
                away[child.digest] = blob
        return [child for child in children if child.digest in away or store.has(child)]

    chosen = list(choose(root, [root]))
    if chosen:
        copy_graph(
            RefetchingStore(engine), store, root, choose=choose,
            report=lambda event: engine.report(event) if event.subject in away else None,
            workers=engine.settings.max_concurrent_downloads,
        )
    store.dropped.remove(away)
    return tuple(away.values())


def bring_back(engine: Core, diff_id: Digest) -> Path | None:
    """A blob of a layer, any that can be fetched, for data that nothing here has any more."""
    failures: list[LaminaError] = []
    for blob in engine.store.dropped.of_layer(diff_id):
        try:
            fetch(engine, blob.descriptor)
        except LaminaError as error:
            failures.append(error)
        else:
            return engine.store.blob_path(blob.digest)
    if failures:
        raise failures[0]
    return None


def insist_served(engine: Core, roots: Iterable[Descriptor]) -> None:
    """Raises what asking for them would, before anything is begun that needs dropped blobs of images."""
    away = {blob.digest: blob for blob in engine.store.dropped_blobs()}
    origins = Origins(engine)
    for digest in sorted(reachable(engine.store, roots) & away.keys()) if away else ():
        origins.first(away[digest], has(away[digest]))


# -- done without


def is_spared(engine: Core, blob: Digest, diff_id: Digest) -> bool:
    """Whether a blob was dropped, and what is unpacked of its layer is still here in its place."""
    layers = engine.layers_store
    return (
        engine.store.dropped_blob(blob) is not None and layers.has_index(diff_id) and layers.has_data(diff_id)
    )


def submit(engine: Core, unpacker: Unpacker, blob: Descriptor, diff_id: Digest) -> None:
    """A layer to be unpacked whose blob is here, or was dropped."""
    try:
        arrival = engine.store.arrived(blob)
    except FileNotFoundError:
        dropped = engine.store.dropped_blob(blob.digest)
        if dropped is None:  # as in :class:`RefetchingStore`
            unpacker.submit(blob, diff_id, engine.store.arrived(blob))
            return
        if unpacker.is_here(diff_id):
            return
        arrival = _without_blob(engine, dropped)
    unpacker.submit(blob, diff_id, arrival)


def _without_blob(engine: Core, blob: DroppedBlob) -> Arrival:
    """The tar in the place of the blob, kept or made again for another driver; or the blob, fetched."""
    layers = engine.layers_store
    tar = layers.tar(blob.diff_id)
    if tar.exists():
        return Arrival.complete(_as_tar(layers, blob.diff_id), tar)
    if layers.has_index(blob.diff_id) and layers.has_data(blob.diff_id):
        with tempfile.TemporaryFile(prefix="tar-", dir=engine.store.scratch) as file:
            try:
                LayerStore(engine.root).rebuild(blob.diff_id, file.write)
            except LaminaError:
                pass  # a form that is not whole
            else:
                file.flush()
                return Arrival.complete(_as_tar(layers, blob.diff_id), Path(f"/proc/self/fd/{file.fileno()}"))
    fetch(engine, blob.descriptor)
    return engine.store.arrived(blob.descriptor)


def _as_tar(layers: LayerStore, diff_id: Digest) -> Descriptor:
    return Descriptor(media_type=OCI_LAYER, digest=diff_id, size=layers.facts(diff_id).tar_size)
