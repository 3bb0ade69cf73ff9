"""The two families of documents, docker's and OCI's: what each calls a manifest, a config, and a layer."""

from __future__ import annotations

from lamina.errors import InvalidInput
from lamina.oci.descriptor import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
)

FORMS = ("oci", "docker")
_IN_DOCKER = {OCI_LAYER: DOCKER_LAYER, OCI_LAYER_GZIP: DOCKER_LAYER_GZIP}
_IN_OCI = {docker: oci for oci, docker in _IN_DOCKER.items()}


def media_types(form: str) -> tuple[str, str]:
    """Of manifest and config. Raises ``InvalidInput`` for what is none of :data:`FORMS`."""
    if form not in FORMS:
        raise InvalidInput(f"{form}: not a format of images (one of {', '.join(FORMS)})")
    return (DOCKER_MANIFEST, DOCKER_CONFIG) if form == "docker" else (OCI_MANIFEST, OCI_CONFIG)


def layer_type(media_type: str, form: str) -> str:
    """The same kind of layer in a family's words, or as it was where that has none."""
    words = _IN_DOCKER if form == "docker" else _IN_OCI
    return words.get(media_type, media_type)
