"""Where an image is, or shall go: a name in the store, or a registry, an archive or a layout by prefix.

The prefixes are skopeo's: ``docker://REF``, ``oci:DIR[:NAME]``, ``oci-archive:FILE[:NAME]`` and
``docker-archive:FILE[:NAME]``. A path that begins with ``/``, ``./`` or ``../`` is an archive or a layout
too, since no reference begins so. Everything else is a name or an ID in the store.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from lamina.errors import InvalidInput
from lamina.values import dataclass


class Transport(StrEnum):
    STORE = "store"
    REGISTRY = "docker"
    LAYOUT = "oci"
    OCI_ARCHIVE = "oci-archive"
    DOCKER_ARCHIVE = "docker-archive"


ARCHIVES = (Transport.OCI_ARCHIVE, Transport.DOCKER_ARCHIVE)
_REGISTRY_PREFIX = "docker://"
_FILE_PREFIXES = (Transport.LAYOUT, Transport.OCI_ARCHIVE, Transport.DOCKER_ARCHIVE)
_PATHS = ("/", "./", "../")


class InvalidLocation(InvalidInput):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """``name`` is a reference or an ID, or what an image is called inside the file ``path``; maybe ``""``."""

    transport: Transport
    name: str = ""
    path: Path | None = None

    @property
    def is_store(self) -> bool:
        return self.transport is Transport.STORE


def parse_location(text: str) -> Location:
    """Raises :class:`InvalidLocation` for a prefix with nothing behind it."""
    if text.startswith(_REGISTRY_PREFIX):
        name = text.removeprefix(_REGISTRY_PREFIX)
        if not name:
            raise InvalidLocation(f"{text}: expected a reference after {_REGISTRY_PREFIX}")
        return Location(transport=Transport.REGISTRY, name=name)
    for transport in _FILE_PREFIXES:
        prefix = f"{transport}:"
        if text.startswith(prefix):
            # As in skopeo, the path ends at the first colon.
            file, _, name = text.removeprefix(prefix).partition(":")
            if not file:
                raise InvalidLocation(f"{text}: expected a path after {prefix}")
            return Location(transport=transport, name=name, path=Path(file))
    if text.startswith(_PATHS):
        place = Path(text)
        transport = Transport.LAYOUT if place.is_dir() else Transport.DOCKER_ARCHIVE
        return Location(transport=transport, path=place)
    return Location(transport=Transport.STORE, name=text)
