"""The certificate of an erasure: what was searched for, in what, and the verdict."""

from __future__ import annotations

from enum import StrEnum

from lamina.insight.erasure import Gap, Searched
from lamina.oci.digest import Digest
from lamina.values import dataclass

NOTICE = (
    "Copies that were pushed or pulled before live on in registries and on other machines: a secret that was "
    "ever in an image must be revoked."
)


class Verdict(StrEnum):
    CLEAN = "clean"
    FOUND = "found"
    UNDECIDED = "undecided"


class ElsewhereKind(StrEnum):
    SHARED = "shared content"
    CONTENT = "content"
    LAYER = "layer"
    UNFINISHED = "unfinished download"
    BUILD = "build cache"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """What may be said of what was searched for: of a secret the name of its file and its size alone."""

    kind: str
    label: str
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """Something in the store, outside the image, that holds it: ``count`` times, first at ``where``.

    ``subject`` is a digest, or the name of an ingest, a step's key, or a file of a cache mount. ``images``
    are local images that have it.
    """

    kind: ElsewhereKind
    subject: str
    images: tuple[str, ...]
    sought: str
    label: str
    encoding: str
    where: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """``time`` is RFC 3339. ``everywhere``: what is elsewhere counts for the verdict; ``elsewhere`` is
    ``None`` where nobody looked. ``elsewhere_undecided`` is what could not be searched there.
    """

    image: str
    names: tuple[str, ...]
    root: Digest
    time: str
    version: str
    sought: tuple[Sought, ...]
    searched: Searched
    everywhere: bool = False
    elsewhere: tuple[Elsewhere, ...] | None = None
    elsewhere_undecided: tuple[Gap, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """What was found is found, whatever else could not be searched."""
        if self.searched.findings or (self.everywhere and self.elsewhere):
            return Verdict.FOUND
        if self.searched.undecided or (self.everywhere and self.elsewhere_undecided):
            return Verdict.UNDECIDED
        return Verdict.CLEAN
