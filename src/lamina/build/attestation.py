"""What is said about an image beside it: in-toto statements, in a manifest that an index lists.

The documents are those of BuildKit's docs/attestations/attestation-storage.md: tools look for them there.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from lamina.build.failure import printable
from lamina.errors import InvalidInput
from lamina.oci.descriptor import OCI_CONFIG, OCI_MANIFEST, Descriptor, Platform
from lamina.oci.digest import Digest
from lamina.oci.manifest import Manifest, dump_document
from lamina.oci.reference import DEFAULT_REGISTRY, Reference

IN_TOTO = "application/vnd.in-toto+json"
SPDX = "https://spdx.dev/Document"
PREDICATE = "in-toto.io/predicate-type"
REFERENCE_TYPE, REFERENCE_DIGEST = "vnd.docker.reference.type", "vnd.docker.reference.digest"
ATTESTATION = "attestation-manifest"
_STATEMENT = "https://in-toto.io/Statement/v0.1"
_NAMELESS = "_"  # BuildKit's, for an image without a name
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NOWHERE = {"architecture": "unknown", "os": "unknown"}


class InvalidBill(InvalidInput):
    """What a scanner wrote is no SPDX document."""


def read_spdx(data: bytes, who: str) -> dict[str, Any]:
    """``who`` wrote it. Raises :class:`InvalidBill`."""
    try:
        document = json.loads(data)
        data.decode().encode()
    except (ValueError, RecursionError) as error:
        raise InvalidBill(f"{who}: it wrote no JSON ({printable(str(error))[:80]})") from None
    if not isinstance(document, dict) or not str(document.get("spdxVersion")).startswith("SPDX-2"):
        raise InvalidBill(f"{who}: it wrote JSON, and no document of SPDX 2")
    return document


def settled(document: Mapping[str, Any], created: str, name: str) -> dict[str, Any]:
    """The same for the same files: with a given time, RFC 3339, and a namespace that follows from the rest.

    Scanners put the present and a random number there. SPDX times have whole seconds (SPDX 2.3, 6.9).
    """
    creation = document.get("creationInfo")
    creation = {**(creation if isinstance(creation, dict) else {}), "created": _whole(created)}
    found = {**document, "name": name, "creationInfo": creation}
    if isinstance(space := document.get("documentNamespace"), str):
        rest = dump_document({key: value for key, value in found.items() if key != "documentNamespace"})
        number = uuid.uuid5(uuid.NAMESPACE_URL, str(Digest.of(rest)))
        found["documentNamespace"] = _UUID.sub(str(number), space)
    return found


def _whole(created: str) -> str:
    return re.sub(r"\.\d+Z$", "Z", created)


def package_url(reference: Reference, platform: Platform) -> str:
    """``pkg:docker/app@1?platform=linux%2Famd64`` (the package-url specification's type "docker")."""
    name = reference.familiar_name.removeprefix(f"{reference.registry}/")
    qualifiers = {"platform": str(platform)}
    if reference.registry != DEFAULT_REGISTRY:
        qualifiers["repository_url"] = reference.registry
    asked = "&".join(f"{key}={quote(value, safe='')}" for key, value in sorted(qualifiers.items()))
    return f"pkg:docker/{quote(name)}@{quote(reference.tag or '')}?{asked}"


def statement(
    predicate: Mapping[str, Any], kind: str, image: Digest, names: Sequence[str], platform: Platform
) -> bytes:
    """``names`` are canonical references of the image."""
    subjects = [package_url(Reference.parse(name), platform) for name in names] or [_NAMELESS]
    return dump_document({
        "_type": _STATEMENT, "predicateType": kind,
        "subject": [{"name": name, "digest": {image.algorithm: image.encoded}} for name in subjects],
        "predicate": predicate,
    })


def attestation_config(statements: Sequence[Digest]) -> bytes:
    """Of an image for no machine, since old tools know nothing but images."""
    root = {"type": "layers", "diff_ids": list(statements)}
    return dump_document({**_NOWHERE, "config": {}, "rootfs": root})


def attestation_manifest(config: Descriptor, statements: Sequence[tuple[str, Descriptor]]) -> Manifest:
    """``statements`` by the type of their predicate."""
    return Manifest.parse(dump_document({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": config.digest, "size": config.size},
        "layers": [
            {"mediaType": IN_TOTO, "digest": one.digest, "size": one.size, "annotations": {PREDICATE: kind}}
            for kind, one in statements
        ],
    }), OCI_MANIFEST)


def listed(attestation: Descriptor, image: Digest) -> dict[str, Any]:
    """The line in an index that says whose attestation this is."""
    notes = {REFERENCE_DIGEST: image, REFERENCE_TYPE: ATTESTATION}
    return {**attestation.to_json(), "annotations": notes, "platform": _NOWHERE}


def is_about(entry: Descriptor, image: Digest) -> bool:
    return (
        entry.annotations.get(REFERENCE_TYPE) == ATTESTATION
        and entry.annotations.get(REFERENCE_DIGEST) == image
    )
