"""Descriptors: media type, digest and size, which together name and bound a piece of content."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lamina.errors import InvalidInput
from lamina.oci.digest import Digest
from lamina.values import dataclass, field

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD = OCI_LAYER + "+zstd"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER + ".gzip"
DOCKER_LAYER_ZSTD = DOCKER_LAYER + ".zstd"
DOCKER_SCHEMA1 = frozenset({
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
})

INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
# Documents that point at other content, and are therefore read whole (under a cap) when they move.
GRAPH_NODES = INDEXES | MANIFESTS
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})
# Layers whose owner forbids redistribution (image-spec layer.md, "Non-Distributable Layers").
FOREIGN_LAYERS = frozenset({
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
})
LAYERS = FOREIGN_LAYERS | {
    OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD,
}

# Sizes are int64 in every implementation; one below the sign bit keeps sums honest too.
MAX_SIZE = 1 << 62
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")


class InvalidDescriptor(InvalidInput):
    pass


_SYSTEMS = ("linux", "windows", "darwin", "freebsd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What an image runs on. ``str()`` gives ``linux/arm64/v8``."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """``os/arch[/variant]``, or ``arch`` alone for Linux. Names are normalised as Go spells them."""
        parts = text.strip().lower().split("/")
        if not all(re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", part) for part in parts) or len(parts) > 3:
            raise InvalidInput(f"{text!r}: not a platform (expected os/architecture[/variant])")
        if len(parts) == 1:
            if parts[0] in _SYSTEMS:
                raise InvalidInput(f"{text!r}: no architecture (expected {parts[0]}/amd64, say)")
            parts = ["linux", *parts]
        architecture, variant = normalise_architecture(parts[1], parts[2] if len(parts) == 3 else "")
        return cls(os=parts[0], architecture=architecture, variant=variant)

    @classmethod
    def from_json(cls, value: Any) -> Platform:
        if not isinstance(value, dict):
            raise InvalidDescriptor(f"platform: expected an object, got {type(value).__name__}")
        texts = {}
        for name in ("os", "architecture", "variant", "os.version"):
            text = value.get(name) or ""
            if not isinstance(text, str):
                raise InvalidDescriptor(f"platform.{name}: expected a string, not {text!r}")
            texts[name.replace(".", "_")] = text
        texts["architecture"], texts["variant"] = normalise_architecture(
            texts["architecture"], texts["variant"]
        )
        return cls(**texts)

    def to_json(self) -> dict[str, str]:
        pairs = (("architecture", self.architecture), ("os", self.os), ("os.version", self.os_version),
                 ("variant", self.variant))
        return {name: value for name, value in pairs if value}

    def accepts(self, other: Platform) -> bool:
        """Whether an image for ``other`` runs here: the same, or an older variant of the same."""
        if (self.os, self.architecture) != (other.os, other.architecture):
            return False
        if not other.variant or self.variant == other.variant:
            return True
        return _variant_rank(other) <= _variant_rank(self)

    def preference(self, other: Platform) -> int:
        """Larger is better, among those that :meth:`accepts` lets through."""
        return 1000 if other.variant == self.variant else _variant_rank(other)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


# containerd's platforms/database.go knows the same aliases; the names on the right are Go's GOARCH.
_ARCHITECTURES = {
    "x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "i686": "386",
    "armhf": "arm", "armel": "arm", "armv7l": "arm", "armv6l": "arm",
}
_VARIANTS = {"armhf": "v7", "armel": "v6", "armv7l": "v7", "armv6l": "v6"}
_DEFAULT_VARIANTS = {"arm64": "v8", "amd64": "v1"}


def normalise_architecture(architecture: str, variant: str = "") -> tuple[str, str]:
    """Go's spelling of an architecture; the default variant of one is written as no variant."""
    known = _ARCHITECTURES.get(architecture, architecture)
    variant = variant or _VARIANTS.get(architecture, "")
    if variant.isdigit():
        variant = "v" + variant
    if known == "arm" and not variant:
        variant = "v7"
    if variant == _DEFAULT_VARIANTS.get(known):
        variant = ""
    return known, variant


def _variant_rank(platform: Platform) -> int:
    digits = (platform.variant or _DEFAULT_VARIANTS.get(platform.architecture, "v0")).lstrip("v")
    return int(digits) if digits.isdigit() and len(digits) < 4 else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str = ""

    @classmethod
    def from_json(cls, value: Any, where: str = "descriptor") -> Descriptor:
        """Raises :class:`InvalidDescriptor` or ``InvalidDigest``; ``where`` names the field in messages."""
        if not isinstance(value, dict):
            raise InvalidDescriptor(f"{where}: expected an object, got {type(value).__name__}")
        media_type, size = value.get("mediaType"), value.get("size")
        if not isinstance(media_type, str) or _MEDIA_TYPE.fullmatch(media_type) is None:
            raise InvalidDescriptor(f"{where}.mediaType: {media_type!r} is not a media type")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_SIZE:
            raise InvalidDescriptor(f"{where}.size: {size!r} is not a size")
        platform = value.get("platform")
        return cls(
            media_type=media_type,
            digest=Digest.parse(value.get("digest")),
            size=size,
            platform=None if platform is None else Platform.from_json(platform),
            annotations=string_map(value.get("annotations"), f"{where}.annotations"),
            artifact_type=value["artifactType"] if isinstance(value.get("artifactType"), str) else "",
        )

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.platform is not None:
            document["platform"] = self.platform.to_json()
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        if self.artifact_type:
            document["artifactType"] = self.artifact_type
        return document

    def __str__(self) -> str:
        return f"{self.digest} ({self.media_type}, {self.size} bytes)"


def string_map(value: Any, where: str) -> dict[str, str]:
    """A JSON object of strings; ``null`` is an empty one, as Go writes it."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise InvalidDescriptor(f"{where}: expected an object of strings")
    return dict(value)
