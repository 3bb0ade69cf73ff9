"""Blobs that a registry keeps for us: which of them are not needed here, and letting them go.

A blob goes when its layer can be made again, byte for byte, out of what is unpacked of it, and a repository
was seen to serve it a moment ago. What was built, committed or loaded here stays, as do documents.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from lamina.content.collect import own_size
from lamina.content.dropped import DroppedBlob
from lamina.content.lease import cached_content, leased_content
from lamina.convert import compression_of
from lamina.engine import images
from lamina.engine.lookup import find_image
from lamina.engine.refetching import served
from lamina.errors import LaminaError, NotFound
from lamina.image import Image, Layer
from lamina.oci.descriptor import FOREIGN_LAYERS, LAYERS
from lamina.oci.digest import Digest
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.remaking import remakes
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.engine.core import Core


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptBlob:
    """Why a blob stays, in words."""

    digest: Digest
    size: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DropResult:
    """``freed`` is bytes on disk. A blob that was dropped before is in neither list."""

    dropped: tuple[DroppedBlob, ...]
    kept: tuple[KeptBlob, ...]
    freed: int


def drop(engine: Core, names: Sequence[str]) -> DropResult:
    """Of some images, or of all without a name. What is unpacked is read whole first, and compared."""
    catalog = engine.store.catalog
    records = [find_image(catalog, name) for name in names] if names else catalog.records()
    found = [images.load_record(engine, record) if names else images.load_sound(engine, record)
             for record in records]
    return _drop(engine, [image for image in found if image is not None], {}, is_read=True)


def drop_pulled(engine: Core, image: Image, repository: str, served: Collection[Digest]) -> DropResult:
    """Of an image that was landed and unpacked just now; ``served`` came from ``repository`` for it."""
    return _drop(engine, [image], dict.fromkeys(served, repository), is_read=False)


def _drop(
    engine: Core, chosen: Iterable[Image], sources: Mapping[Digest, str], *, is_read: bool
) -> DropResult:
    choosing = _Choosing(engine, sources, is_read=is_read)
    layers = {layer.descriptor.digest: layer for image in chosen for layer in image.layers}
    for layer in layers.values():
        choosing.look_at(layer)
    freed, busy = _unlink(engine, choosing.droppable)
    held = [KeptBlob(digest=blob.digest, size=blob.descriptor.size, reason="in use")
            for blob in choosing.droppable if blob.digest in busy]
    return DropResult(
        dropped=tuple(blob for blob in choosing.droppable if blob.digest not in busy),
        kept=(*choosing.kept, *held), freed=freed,
    )


class _Choosing:
    """``sources`` are the repositories that served a blob a moment ago."""

    def __init__(self, engine: Core, sources: Mapping[Digest, str], *, is_read: bool) -> None:
        self.droppable: list[DroppedBlob] = []
        self.kept: list[KeptBlob] = []
        self._engine = engine
        self._sources = sources
        self._is_read = is_read
        self._made_here = cached_content(engine.store.state)
        self._forms = LayerStore(engine.root)  # which knows of no blobs

    def look_at(self, layer: Layer) -> None:
        blob, store = layer.descriptor, self._engine.store
        if not store.has(blob):
            return
        try:
            reason = self._reason(layer)
            if not reason:
                self.droppable.append(self._described(layer))
        except (FileNotFoundError, NotFound):
            reason = "no registry serves it any more"
        except LaminaError as error:
            reason = f"nobody could be asked for it: {error.__cause__ or error}"
        if reason and store.has(blob):  # else somebody was faster
            self.kept.append(KeptBlob(digest=blob.digest, size=blob.size, reason=reason))

    def _reason(self, layer: Layer) -> str:
        """The cheap questions first. Empty if nothing here is in the way."""
        blob, store = layer.descriptor, self._engine.store
        facts = store.catalog.layer(blob.digest)
        if blob.media_type not in LAYERS - FOREIGN_LAYERS:
            return f"{blob.media_type} is nothing that a registry must serve"
        if blob.digest in self._made_here:
            return "made here, by a build"
        if not (blob.digest in self._sources or store.catalog.origins(blob.digest)):
            return "no registry is known to have it"
        if facts is None or facts.diff_id != layer.diff_id:
            return "its layer was never unpacked here"
        if not own_size(os.stat(store.blob_path(blob.digest))):
            return "it is the unpacked layer itself, and takes no room of its own"
        if not remakes(self._forms, layer.diff_id, is_read=self._is_read):
            return "what is unpacked of its layer does not give all of its bytes again"
        return ""

    def _described(self, layer: Layer) -> DroppedBlob:
        """Raises what keeps every repository from serving it."""
        blob = DroppedBlob(
            descriptor=layer.descriptor, diff_id=layer.diff_id,
            compression=compression_of(self._engine.store, layer.descriptor),
            repository=self._sources.get(layer.descriptor.digest, ""), dropped=self._engine.clock(),
        )
        return blob if blob.repository else served(self._engine, blob, is_kept=True)


def _unlink(engine: Core, blobs: Sequence[DroppedBlob]) -> tuple[int, set[Digest]]:
    """The bytes that went, and which blobs somebody uses. Rows are durable before anything goes.

    Decided under the lock that leases take: who holds a blob keeps it, who comes later sees that it is gone.
    Only where the row is there still: who fetched the blob in between took it away.
    """
    if not blobs:
        return 0, set()
    store, freed = engine.store, 0
    store.dropped.add(blobs)
    with store.state.transaction():
        held = leased_content(store.state)
        noted, layers = store.dropped.walk(), engine.layers_store
        known = {blob.digest for blob in noted if layers.has_data(blob.diff_id)} - held
        busy = {blob.digest for blob in blobs} - known
        for blob in blobs:
            if blob.digest not in busy:
                freed += _size(engine, blob.digest)
                store.delete(blob.digest)
        # Not the rows of those that another dropper unlinked before us.
        store.dropped.remove([blob for blob in busy if store.blob_path(blob).exists()])
    return freed, busy


def _size(engine: Core, blob: Digest) -> int:
    try:
        return own_size(os.stat(engine.store.blob_path(blob)))
    except FileNotFoundError:
        return 0
