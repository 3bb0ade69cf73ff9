"""A registry in memory: a real one made small, for tests of whoever talks to registries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lamina.content.memory import MemoryStore
from lamina.content.store import BlobNotFound, NameNotFound, read_all
from lamina.errors import LaminaError
from lamina.oci.descriptor import Descriptor
from lamina.oci.digest import Digest
from lamina.oci.manifest import MAX_DOCUMENT, parse_graph_node
from lamina.registry.provider import find_referrers


class MemoryRepository(MemoryStore):
    """Everything that a served repository can do."""

    def __init__(self, provider: MemoryProvider) -> None:
        super().__init__()
        self._provider = provider

    def stat(self, digest: Digest) -> int | None:
        data = self._blobs.get(digest)
        return None if data is None else len(data)

    def untag(self, name: str) -> None:
        if self._names.pop(name, None) is None:
            raise NameNotFound(f"{name}: no such name")

    def delete(self, digest: Digest) -> None:
        if self._blobs.pop(digest, None) is None:
            raise BlobNotFound(f"{digest}: not in this repository")
        self._names = {name: target for name, target in self._names.items() if target.digest != digest}

    def mount(self, wanted: Descriptor, repository: str) -> bool:
        sibling = self._provider.repository(repository)
        if not sibling.has(wanted):
            return False
        self.put(wanted, sibling.open(wanted))
        return True

    def referrers(self, subject: Digest) -> Iterator[Descriptor]:
        return find_referrers(self, self._manifests(), subject)

    def is_empty(self) -> bool:
        return not self._blobs

    def _manifests(self) -> Iterator[Descriptor]:
        for digest, data in list(self._blobs.items()):
            candidate = Descriptor(media_type="application/octet-stream", digest=digest, size=len(data))
            try:
                document = parse_graph_node(read_all(self, candidate, MAX_DOCUMENT))
            except LaminaError:
                continue
            yield Descriptor(media_type=document.media_type, digest=digest, size=len(data))


class MemoryProvider:
    """Repositories by name; one exists once it holds something."""

    def __init__(self, *, may_write: bool = True) -> None:
        self.may_write = may_write
        self._repositories: dict[str, MemoryRepository] = {}

    def repositories(self) -> Iterable[str]:
        return [name for name, repository in self._repositories.items() if not repository.is_empty()]

    def repository(self, name: str) -> MemoryRepository:
        return self._repositories.setdefault(name, MemoryRepository(self))
