"""References: ``[registry/]repository[:tag][@digest]``, in the familiar and the canonical spelling.

The grammar is the distribution project's (``reference/regexp.go`` states it, CONVENTIONS of the
ecosystem follow it): the first component is a registry only when it holds a dot or a colon, is
``localhost``, or has an upper-case letter; otherwise the registry is docker.io, where a name without
a slash lives under ``library/``.
"""

from __future__ import annotations

import re

from lamina.errors import InvalidInput
from lamina.oci.digest import Digest, InvalidDigest
from lamina.values import dataclass, replace

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
_LEGACY_DEFAULT_REGISTRY = "index.docker.io"
_OFFICIAL = "library/"
_MAX_REPOSITORY = 255

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]{{1,5}})?")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_BARE_ID = re.compile(r"[a-f0-9]{64}")


class InvalidReference(InvalidInput):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Where both are given, the digest decides and the tag is only remembered."""

    registry: str
    repository: str
    tag: str = ""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """No tag is invented: see :meth:`with_default_tag`."""
        if not text:
            raise InvalidReference("a reference must not be empty")
        shown = repr(text[:300])
        if _BARE_ID.fullmatch(text):
            raise InvalidReference(f"{shown}: 64 hex digits are an image ID, not a name")
        name, at, digest_text = text.partition("@")
        try:
            digest = Digest.parse(digest_text) if at else None
        except InvalidDigest as error:
            raise InvalidReference(f"{shown}: {error}") from None
        # A colon after the last slash begins a tag; one before it is a port.
        path, colon, tag = name.rpartition(":")
        if not colon or "/" in tag:
            path, tag = name, ""
        elif TAG.fullmatch(tag) is None:
            raise InvalidReference(f"{shown}: {tag[:160]!r} is not a tag (128 of letters, digits, _.-)")
        registry, repository = _split_registry(path)
        if REGISTRY.fullmatch(registry) is None:
            raise InvalidReference(f"{shown}: {registry!r} is not a registry host")
        if REPOSITORY.fullmatch(repository) is None:
            lower = repository.lower()
            if lower != repository and REPOSITORY.fullmatch(lower):
                raise InvalidReference(f"{shown}: a repository name must be lower case: {lower!r}")
            raise InvalidReference(f"{shown}: {repository!r} is not a repository name")
        if len(repository) > _MAX_REPOSITORY:
            raise InvalidReference(f"{shown}: a repository name has at most {_MAX_REPOSITORY} characters")
        return cls(registry=registry, repository=repository, tag=tag, digest=digest)

    @property
    def name(self) -> str:
        """``docker.io/library/redis``: registry and repository."""
        return f"{self.registry}/{self.repository}"

    @property
    def canonical(self) -> str:
        """The full spelling: what the store files an image under."""
        return self.name + self._suffix()

    @property
    def familiar_name(self) -> str:
        """``redis``: what people type, without tag and digest."""
        if self.registry != DEFAULT_REGISTRY:
            return self.name
        official, _, rest = self.repository.partition(_OFFICIAL)
        return rest if not official and rest and "/" not in rest else self.repository

    @property
    def familiar(self) -> str:
        return self.familiar_name + self._suffix()

    def with_default_tag(self) -> Reference:
        return self if self.tag or self.digest else replace(self, tag=DEFAULT_TAG)

    def with_tag(self, tag: str) -> Reference:
        return replace(self, tag=tag, digest=None)

    def with_digest(self, digest: Digest) -> Reference:
        return replace(self, digest=digest)

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.canonical


def _split_registry(path: str) -> tuple[str, str]:
    first, slash, rest = path.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        registry, repository = first, rest
    else:
        registry, repository = DEFAULT_REGISTRY, path
    if registry == _LEGACY_DEFAULT_REGISTRY:
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = _OFFICIAL + repository
    return registry, repository
