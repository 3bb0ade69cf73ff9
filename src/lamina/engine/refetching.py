"""Dropped blobs as if they were here: read from where they come back, landed again, or done without."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

from lamina.content.arrival import Arrival
from lamina.content.collect import Finding, reachable
from lamina.content.copy import copy_graph
from lamina.content.dropped import DroppedBlob
from lamina.content.lease import Lease
from lamina.content.store import BlobNotFound, Ingest, verified
from lamina.errors import Denied, LaminaError, NotFound, Unavailable
from lamina.layer.compress import Compression
from lamina.oci.descriptor import OCI_LAYER, Descriptor
from lamina.oci.digest import Digest
from lamina.oci.reference import Reference
from lamina.snapshot.layers import LayerStore
from lamina.values import replace

if TYPE_CHECKING:
    from lamina.engine.engine import Engine
    from lamina.registry.remote import RemoteRepository
    from lamina.snapshot.unpack import Unpacker

_T = TypeVar("_T")
# Registries of our kind that one question for a blob may go through: they may stand in a circle.
_MAX_HOPS = 3


class NoLongerServed(NotFound):
    """Every repository that was known to have it says that it has not."""


class OriginUnreachable(Unavailable):
    pass


class OriginRefuses(Denied):
    pass


class RefetchingStore:
    """The store, as a ``ContentStore`` from which nothing was dropped.

    Bytes of a dropped blob pass through, verified, and are not kept: :func:`fetch` is for that.
    """

    def __init__(self, engine: Engine, *, hops: int = 0) -> None:
        """``hops``: how many of our kind have passed on already what this is asked for."""
        self._engine = engine
        self._store = engine.store
        self._hops = hops

    def after(self, hops: int) -> RefetchingStore | None:
        """The same for others, who may be asking because we asked them; ``None`` where that is likely."""
        return RefetchingStore(self._engine, hops=hops) if hops < _MAX_HOPS else None

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
        return open_dropped(self._engine, blob, offset, hops=self._hops)

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


def open_dropped(engine: Engine, blob: DroppedBlob, offset: int = 0, *, hops: int = 0) -> BinaryIO:
    """From the first repository that serves it; a plain tar is made again here.

    Raises :class:`NoLongerServed`, :class:`OriginUnreachable`, :class:`OriginRefuses`.
    """
    if blob.digest == blob.diff_id and not offset and engine.layers_store.has_data(blob.diff_id):
        return cast("BinaryIO", verified(blob.descriptor, engine.layers_store.open_tar(blob.diff_id)))
    stream = _first(engine, blob, hops, lambda repository: repository.open_at(blob.descriptor, offset))
    return stream if offset else cast("BinaryIO", verified(blob.descriptor, stream))


def served(engine: Engine, blob: DroppedBlob, *, is_kept: bool = False) -> DroppedBlob:
    """With the repository that serves a blob now. Raises as :func:`open_dropped` does.

    ``is_kept``: one that dropped it too, and would have to ask on, does not count: it may be us whom it asks.
    """

    def ask(repository: RemoteRepository) -> str:
        if not repository.has(blob.descriptor):
            raise BlobNotFound(f"{blob.digest}: not in {repository.name}")
        return repository.name

    return replace(blob, repository=_first(engine, blob, _MAX_HOPS - 1 if is_kept else 0, ask))


def _first(engine: Engine, blob: DroppedBlob, hops: int, act: Callable[[RemoteRepository], _T]) -> _T:
    """What the first repository answers that can. The error that is raised says what the others did."""
    from lamina.registry.provider import via

    names = dict.fromkeys(filter(None, (blob.repository, *engine.store.catalog.origins(blob.digest))))
    complaints: list[LaminaError] = []
    for name in names:
        try:
            return act(engine.registries.repository(Reference.parse(name), headers=via(hops + 1)))
        except LaminaError as error:
            complaints.append(error)
    raise _gone(blob, tuple(names), complaints)


def _gone(blob: DroppedBlob, names: Sequence[str], complaints: Sequence[LaminaError]) -> LaminaError:
    there = " and ".join(names)
    for error in complaints:
        if isinstance(error, Denied):
            registry = Reference.parse(names[0]).registry
            return OriginRefuses(
                f"{blob.digest}: was dropped here, and {there} refuses it ({error}); "
                f"`lamina login {registry}` may help"
            )
        if not isinstance(error, NotFound):
            return OriginUnreachable(
                f"{blob.digest}: was dropped here, and {there} cannot be asked for it ({error}); "
                "try again when it can be reached"
            )
    verb = "serves" if len(names) == 1 else "serve"
    return NoLongerServed(
        f"{blob.digest}: was dropped here, and {there} no longer {verb} it; "
        "`lamina pull` the image from where it is now, or squash it, which makes layers of its own"
    )


# -- landed again


def fetch(engine: Engine, root: Descriptor) -> tuple[DroppedBlob, ...]:
    """Lands the dropped blobs that ``root`` reaches, as far as its documents are here; gives those.

    ``root`` may be a blob itself.
    """
    with Lease(engine.store.state, f"fetch {root.digest}") as lease:
        return _fetch_held(engine, root, lease)


def _fetch_held(engine: Engine, root: Descriptor, lease: Lease) -> tuple[DroppedBlob, ...]:
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


def bring_back(engine: Engine, diff_id: Digest) -> Path | None:
    """A blob of a layer, fetched for data that nothing here has any more."""
    for blob in engine.store.dropped.of_layer(diff_id):
        fetch(engine, blob.descriptor)
        return engine.store.blob_path(blob.digest)
    return None


def insist_served(engine: Engine, roots: Iterable[Descriptor]) -> None:
    """Raises what :func:`open_dropped` would, before anything is begun that needs dropped blobs of images."""
    away = {blob.digest: blob for blob in engine.store.dropped_blobs()}
    for digest in sorted(reachable(engine.store, roots) & away.keys()) if away else ():
        served(engine, away[digest])


def check_served(engine: Engine) -> Iterator[Finding]:
    """Asks for each dropped blob whether it could be fetched now."""
    for blob in engine.store.dropped_blobs():
        try:
            served(engine, blob)
        except LaminaError as error:
            yield Finding(subject=blob.digest, problem=str(error).removeprefix(f"{blob.digest}: "))


# -- done without


def is_spared(engine: Engine, blob: Digest, diff_id: Digest) -> bool:
    """Whether a blob was dropped, and what is unpacked of its layer is still here in its place."""
    layers = engine.layers_store
    return (
        engine.store.dropped_blob(blob) is not None and layers.has_index(diff_id) and layers.has_data(diff_id)
    )


def submit(engine: Engine, unpacker: Unpacker, blob: Descriptor, diff_id: Digest) -> None:
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


def _without_blob(engine: Engine, blob: DroppedBlob) -> Arrival:
    """The tar in the place of the blob, kept or made again for another driver; or the blob, fetched."""
    layers = engine.layers_store
    tar = layers.tar(blob.diff_id)
    if tar.exists():
        return Arrival.complete(_as_tar(layers, blob.diff_id), tar)
    if layers.has_index(blob.diff_id) and layers.has_data(blob.diff_id):
        with tempfile.TemporaryFile(prefix="tar-", dir=engine.root / "ingest") as file:
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
