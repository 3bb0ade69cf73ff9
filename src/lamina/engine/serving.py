"""The store as a registry: which served repository is which name here, over ``registry.server``.

What is called ``redis`` here is served as ``library/redis`` and answers to ``redis`` too; an image of another
registry is served under its full name, ``ghcr.io/org/app``, where that is a repository name. What is pushed
as ``app:1`` is called ``app:1`` here, as if it had been loaded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO, Protocol, Self

from lamina.content.collect import image_roots, reachable, sweep
from lamina.content.lease import Lease, live_content
from lamina.content.local import LocalStore
from lamina.content.store import BlobNotFound, Ingest, NameNotFound, RangedFetcher
from lamina.errors import Conflict, LaminaError
from lamina.http.server import RunningServer
from lamina.http.server import serve as serve_http
from lamina.oci.descriptor import GRAPH_NODES, MANIFESTS, Descriptor
from lamina.oci.digest import Digest
from lamina.oci.manifest import successors
from lamina.oci.reference import DEFAULT_REGISTRY, REPOSITORY, Reference
from lamina.registry.provider import find_referrers
from lamina.registry.server import RegistryApp

if TYPE_CHECKING:
    from lamina.content.ingest import LocalIngest
    from lamina.engine.core import Core


class BlobInUse(Conflict):
    pass


class Serving:
    """A registry that runs until it is closed. A context manager."""

    def __init__(
        self, store: LocalStore, address: str, port: int, *, may_write: bool,
        source: PassedOn | None = None,
    ) -> None:
        """``source`` may have more than the store: what was dropped, from where it comes back."""
        self._lease = Lease(store.state, "serve")
        self._app = RegistryApp(StoreProvider(store, self._lease, may_write=may_write, source=source))
        try:
            self._server: RunningServer = serve_http(self._app, address=address, port=port)
        except BaseException:
            self._lease.close()
            raise
        self.url = self._server.url

    def close(self) -> None:
        self._server.close()
        self._app.close()
        self._lease.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def serve(engine: Core, address: str, port: int, *, read_only: bool) -> Serving:
    from lamina.engine.refetching import RefetchingStore

    source = RefetchingStore(engine, is_final=True)
    return Serving(engine.store, address, port, may_write=not read_only, source=source)


def served_name(reference: Reference) -> str:
    """The repository that a local name is served as."""
    if reference.registry == DEFAULT_REGISTRY:
        return reference.repository
    # A port has a colon, and host names may have capitals: neither can stand in a repository name.
    return reference.name if REPOSITORY.fullmatch(reference.name) else reference.repository


class PassedOn(RangedFetcher, Protocol):
    """Content from wherever it comes back."""

    def after(self, hops: int) -> PassedOn | None:
        """The same for a question that came so far already; ``None`` for one that goes no further."""
        ...


class StoreProvider:
    """Every name of the store, by repository."""

    def __init__(
        self, store: LocalStore, lease: Lease, *, may_write: bool, source: PassedOn | None = None
    ) -> None:
        self._store = store
        self._lease = lease
        self._source = source
        self.may_write = may_write

    def repositories(self) -> Iterable[str]:
        found = set()
        for record in self._store.catalog.records():
            for name in record.names:
                reference = Reference.parse(name)
                found.add(served_name(reference))
                if reference.registry == DEFAULT_REGISTRY:
                    found.add(reference.familiar_name)
        return sorted(found)

    def repository(self, name: str) -> StoreRepository:
        return StoreRepository(self._store, self._lease, name, self._source)


class _HeldIngest:
    """Held from before it has its name: a client that was told "created" will not send it again."""

    def __init__(self, ingest: LocalIngest, lease: Lease) -> None:
        self._ingest = ingest
        self._lease = lease

    def write(self, chunk: bytes | memoryview) -> int:
        return self._ingest.write(chunk)

    def commit(self, media_type: str, expected: Digest | None = None) -> Descriptor:
        if expected is not None:
            self._lease.hold([expected])
        return self._ingest.commit(media_type, expected)

    def __enter__(self) -> Self:
        self._ingest.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ingest.__exit__(*exc)


class StoreRepository:
    """One repository of the store. Content is the whole store's: whoever may pull one image may pull all."""

    def __init__(
        self, store: LocalStore, lease: Lease, name: str, source: PassedOn | None = None
    ) -> None:
        self._store = store
        self._source: RangedFetcher = source or store
        self._passed_on = source
        self._lease = lease
        self._name = name

    # -- content

    def asked_through(self, hops: int) -> StoreRepository:
        """See :class:`~lamina.registry.provider.PassesOn`."""
        source = None if self._passed_on is None else self._passed_on.after(hops)
        return StoreRepository(self._store, self._lease, self._name, source)

    def open(self, wanted: Descriptor) -> BinaryIO:
        return self._source.open(wanted)

    def open_at(self, wanted: Descriptor, offset: int) -> BinaryIO:
        return self._source.open_at(wanted, offset)

    def has(self, wanted: Descriptor) -> bool:
        return self.stat(wanted.digest) == wanted.size

    def stat(self, digest: Digest) -> int | None:
        """Held before it is looked for: a client that is told of a blob will not send it again.

        What is not here is not held: whoever asks for any digest would make the state file grow.
        """
        size = self._size_here(digest)
        if size is None and self._passed_on is not None:
            blob = self._store.dropped_blob(digest)
            # Somebody may have fetched it by now.
            size = self._size_here(digest) if blob is None else blob.descriptor.size
        return size

    def _size_here(self, digest: Digest) -> int | None:
        path = self._store.blob_path(digest)
        if not path.exists():
            return None
        self._lease.hold([digest])
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return None

    def put(self, expected: Descriptor, source: BinaryIO) -> None:
        """A manifest that only its digest names is kept too, under that name."""
        self._lease.hold([expected.digest])
        self._store.put(expected, source)
        if expected.media_type in GRAPH_NODES:
            self._store.record(expected, names=(self._own(f"@{expected.digest}"),))

    def ingest(self) -> Ingest:
        return _HeldIngest(self._store.ingest(), self._lease)

    def mount(self, wanted: Descriptor, repository: str) -> bool:  # noqa: ARG002 - content is the whole store's
        return self.has(wanted)

    # -- names

    def names(self) -> Iterable[str]:
        return sorted(self._tags())

    def resolve(self, name: str) -> Descriptor:
        try:
            return self._store.resolve(self._tags()[name])
        except KeyError:
            raise NameNotFound(f"{self._name}:{name}: no such tag") from None

    def tag(self, name: str, target: Descriptor) -> None:
        """A tag takes the place of the names by digest that pushing made on the way."""
        self._store.record(target, names=(self._tags().get(name, self._own(f":{name}")),))
        children = successors(target, self._store.read_document(target))
        for descriptor in (target, *children):
            if descriptor.media_type in GRAPH_NODES:
                self._drop(self._own(f"@{descriptor.digest}"), descriptor.digest)

    def untag(self, name: str) -> None:
        tags = self._tags()
        if name not in tags:
            raise NameNotFound(f"{self._name}:{name}: no such tag")
        self._store.untag(tags[name])

    def delete(self, digest: Digest) -> None:
        """A manifest loses every name in this repository; other content goes if nothing needs it."""
        record = self._store.catalog.with_digest(digest)
        if record is None:
            self._delete_blob(digest)
            return
        mine = [name for name in record.names if self._is_mine(Reference.parse(name))]
        reached = reachable(self._store, [record.descriptor])
        if self._store.forget(digest, mine):
            sweep(self._store, self._roots, 0.0, grace=float("-inf"), among=reached)

    def referrers(self, subject: Digest) -> Iterator[Descriptor]:
        candidates = [
            record.descriptor for record in self._store.catalog.records()
            if record.descriptor.media_type in MANIFESTS
        ]
        with contextlib.suppress(LaminaError):
            yield from find_referrers(self._store, candidates, subject)

    def _delete_blob(self, digest: Digest) -> None:
        if not self._store.blob_path(digest).exists():
            raise BlobNotFound(f"{digest}: not in the store")
        with self._store.state.transaction():
            if digest in reachable(self._store, self._roots()):
                raise BlobInUse(f"{digest}: an image needs it")
            if digest in live_content(self._store.state, apart_from=self._lease):
                raise BlobInUse(f"{digest}: a pull, a push or another command is using it")
            self._store.delete(digest)

    def _roots(self) -> list[Descriptor]:
        return image_roots(self._store)

    def _own(self, suffix: str) -> str:
        return Reference.parse(f"{self._name}{suffix}").canonical

    def _drop(self, name: str, digest: Digest) -> None:
        record = self._store.catalog.named(name)
        if record is not None and record.descriptor.digest == digest:
            self._store.forget(digest, [name])

    def _tags(self) -> dict[str, str]:
        """Tag to canonical name. A name of docker.io wins over one of another registry."""
        found: dict[str, str] = {}
        for record in self._store.catalog.records():
            for name in record.names:
                reference = Reference.parse(name)
                is_first = reference.tag not in found or reference.registry == DEFAULT_REGISTRY
                if reference.tag and is_first and self._is_mine(reference):
                    found[reference.tag] = name
        return found

    def _is_mine(self, reference: Reference) -> bool:
        return self._name in (served_name(reference), reference.familiar_name)
