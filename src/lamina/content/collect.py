"""Mark and sweep: what nothing reaches any more, and whether what is reached is whole.

Roots arrive from above: this module knows images and leases, not containers or build caches, and is
given those as further roots. What :func:`unreachable` counts is what :func:`sweep` frees.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator

from lamina.content.lease import live_content
from lamina.content.local import LocalStore
from lamina.content.store import CHUNK
from lamina.errors import InvalidInput
from lamina.oci.descriptor import GRAPH_NODES, Descriptor
from lamina.oci.digest import Digest, Digester
from lamina.oci.manifest import parse_graph_node, successors
from lamina.values import dataclass

# A blob lands before the document that reaches it: young ones get the benefit of the doubt.
GRACE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that ``check`` noticed. ``repaired`` says that it was put right on the way.

    Without ``is_decided`` it is only what keeps us from knowing: nothing is wrong as far as we can tell.
    """

    subject: str
    problem: str
    repaired: bool = False
    is_decided: bool = True


@dataclass(frozen=True, slots=True)
class Swept:
    """``freed`` is bytes on disk; ``blobs`` are the digests that went."""

    blobs: tuple[Digest, ...]
    freed: int


def reachable(store: LocalStore, roots: Iterable[Descriptor]) -> set[Digest]:
    """Every digest that the roots lead to, present or not. A document that cannot be read leads nowhere."""
    marked: set[Digest] = set()
    waiting = list(roots)
    while waiting:
        descriptor = waiting.pop()
        if descriptor.digest in marked:
            continue
        marked.add(descriptor.digest)
        if descriptor.media_type in GRAPH_NODES and store.has(descriptor):
            try:
                raw = store.read_document(descriptor)
                waiting.extend(successors(descriptor, raw))
            except InvalidInput:
                continue
    return marked


def image_roots(store: LocalStore) -> list[Descriptor]:
    return [record.descriptor for record in store.catalog.records()]


def unreachable(
    store: LocalStore, roots: Iterable[Descriptor], now: float, grace: float = GRACE_SECONDS
) -> list[tuple[Digest, int]]:
    """Blobs that nothing reaches, with the bytes that they take on disk."""
    marked = reachable(store, roots) | live_content(store.state)
    found = []
    for digest, _size in store.walk():
        if digest in marked:
            continue
        try:
            status = os.stat(store.blob_path(digest))
        except FileNotFoundError:
            continue
        if now - status.st_mtime >= grace:
            found.append((digest, own_size(status)))
    return found


def own_size(status: os.stat_result) -> int:
    """Bytes on disk that go when this name of a blob goes.

    A blob that is a plain tar may have a second name, as the unpacked layer; that one is then counted.
    """
    return status.st_blocks * 512 if status.st_nlink == 1 else 0


def sweep(
    store: LocalStore,
    roots: Callable[[], Iterable[Descriptor]],
    now: float,
    *,
    grace: float = GRACE_SECONDS,
    among: Collection[Digest] | None = None,
) -> Swept:
    """Removes what nothing reaches, or only those of them that are ``among`` some digests.

    Decided and done in one write transaction (see ``lease``), in which ``roots`` is asked too.
    """
    with store.state.transaction():
        known = list(roots())
        doomed = unreachable(store, known, now, grace)
        away = _unwanted(store, known) if store.dropped.walk() else []
        if among is not None:
            doomed = [(digest, size) for digest, size in doomed if digest in among]
            away = [digest for digest in away if digest in among]
        for digest, _size in doomed:
            store.delete(digest)
        store.catalog.forget_layers([*(digest for digest, _size in doomed), *away])
    return Swept(tuple(digest for digest, _size in doomed), sum(size for _digest, size in doomed))


def _unwanted(store: LocalStore, roots: Iterable[Descriptor]) -> list[Digest]:
    """Dropped blobs that nothing reaches: what is known of them goes as they would."""
    marked = reachable(store, roots) | live_content(store.state)
    return [blob.digest for blob in store.dropped_blobs() if blob.digest not in marked]


def check_blobs(store: LocalStore, *, repair: bool) -> Iterator[Finding]:
    """Reads every blob and compares it with its name. ``repair`` removes the ones that lie."""
    for digest, size in sorted(store.walk()):
        found = Digester(digest.algorithm)
        try:
            with open(store.blob_path(digest), "rb", buffering=0) as file:
                while chunk := file.read(CHUNK):
                    found.update(chunk)
        except FileNotFoundError:
            continue
        if found.digest() != digest:
            if repair:
                store.delete(digest)
            yield Finding(
                subject=digest, problem=f"damaged: its {size} bytes have the digest {found.digest()}",
                repaired=repair,
            )


def check_images(store: LocalStore) -> Iterator[Finding]:
    """Walks every image to its leaves. The platforms that were not pulled are absent on purpose.

    So are dropped blobs.
    """
    dropped = {blob.digest for blob in store.dropped.walk()}
    for record in store.catalog.records():
        shown = record.names[0] if record.names else str(record.config)
        missing = sorted(set(_missing(store, record.descriptor, record.manifest)) - dropped)
        for digest in missing:
            yield Finding(subject=shown, problem=f"{digest} is missing; pull the image again")


def _missing(store: LocalStore, root: Descriptor, manifest: Digest) -> Collection[Digest]:
    absent: set[Digest] = set()
    waiting = [root]
    while waiting:
        descriptor = waiting.pop()
        if not store.has(descriptor):
            absent.add(descriptor.digest)
            continue
        if descriptor.media_type in GRAPH_NODES:
            raw = store.read_document(descriptor)
            node = parse_graph_node(raw, descriptor.media_type)
            children = successors(descriptor, raw)
            # Of an index, only what was chosen, or has landed, must be whole.
            is_index = hasattr(node, "manifests")
            waiting.extend(
                child for child in children
                if not is_index or child.digest == manifest or store.has(child)
            )
    return absent
