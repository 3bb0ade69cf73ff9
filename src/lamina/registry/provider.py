"""What a served registry asks of whatever holds its content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

from lamina.content.store import Fetcher, Target, read_all
from lamina.oci.descriptor import Descriptor
from lamina.oci.digest import Digest
from lamina.oci.manifest import MAX_DOCUMENT, Manifest, parse_graph_node


class ServedRepository(Target, Protocol):
    """One repository: a target whose names are tags, and which knows what it holds.

    It may also be a ``RangedFetcher``, a ``Mounter``, a :class:`PassesOn`, an :class:`Eraser`, a
    :class:`ReferrerKeeper`.
    """

    def names(self) -> Iterable[str]: ...

    def stat(self, digest: Digest) -> int | None:
        """The size of content that may be read through this repository."""
        ...


class RepositoryProvider(Protocol):
    @property
    def may_write(self) -> bool: ...

    def repositories(self) -> Iterable[str]:
        """Those that exist."""
        ...

    def repository(self, name: str) -> ServedRepository:
        """Any valid name; one that does not exist yet is empty until something is put into it."""
        ...


@runtime_checkable
class PassesOn(Protocol):
    """A repository that asks other registries for some of its content."""

    def asked_through(self, hops: int) -> ServedRepository:
        """For a question that so many registries of our kind have passed on already (see :func:`hops_of`)."""
        ...


@runtime_checkable
class Eraser(Protocol):
    """A repository from which things can be removed; both raise ``NotFound``."""

    def untag(self, name: str) -> None: ...

    def delete(self, digest: Digest) -> None: ...


@runtime_checkable
class ReferrerKeeper(Protocol):
    """A repository that can say which manifests have a subject (see :func:`find_referrers`)."""

    def referrers(self, subject: Digest) -> Iterable[Descriptor]: ...


def via(hops: int) -> dict[str, str]:
    """What a question carries, so that registries which pass it on in a circle find out (RFC 9110, 7.6.3)."""
    return {"Via": ", ".join(["1.1 lamina"] * hops)} if hops else {}


def hops_of(fields: Iterable[str]) -> int:
    """How many registries of our kind the values of ``Via`` name."""
    return sum(part.split()[1:2] == ["lamina"] for field in fields for part in field.split(","))


def find_referrers(
    source: Fetcher, candidates: Iterable[Descriptor], subject: Digest
) -> Iterator[Descriptor]:
    """Those among manifests that are about ``subject``, described as the referrers API wants them."""
    for candidate in candidates:
        document = parse_graph_node(read_all(source, candidate, MAX_DOCUMENT), candidate.media_type)
        found = document.subject if isinstance(document, Manifest) else None
        if found is not None and found.digest == subject and isinstance(document, Manifest):
            yield Descriptor(
                media_type=document.media_type, digest=candidate.digest, size=candidate.size,
                annotations=document.annotations,
                artifact_type=document.artifact_type or document.config.media_type,
            )
