"""The documents of attestations, as values."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.build.attestation import (
    InvalidBill,
    attestation_config,
    attestation_manifest,
    is_about,
    listed,
    package_url,
    read_spdx,
    settled,
    statement,
)
from lamina.oci.descriptor import OCI_CONFIG, Descriptor, Platform
from lamina.oci.digest import Digest
from lamina.oci.manifest import Index
from lamina.oci.reference import Reference

ARM = Platform(os="linux", architecture="arm64", variant="v8")
IMAGE = Digest.of(b"image")
SPDX = {
    "spdxVersion": "SPDX-2.3", "name": "/", "documentNamespace": "https://x/dir-fdf506d7-c154-40f2-9f1f-49bf9a8a386e",
    "creationInfo": {"created": "2026-01-01T00:00:00Z", "creators": ["Tool: x"]}, "packages": [],
}


@pytest.mark.parametrize(("name", "url"), [
    ("app:1", "pkg:docker/app@1?platform=linux%2Farm64%2Fv8"),
    ("me/app:1", "pkg:docker/me/app@1?platform=linux%2Farm64%2Fv8"),
    ("r.example:5000/a/b:x", "pkg:docker/a/b@x?platform=linux%2Farm64%2Fv8&repository_url=r.example%3A5000"),
])
def test_package_urls(name: str, url: str) -> None:
    assert package_url(Reference.parse(name), ARM) == url


@pytest.mark.parametrize("data", [
    b"", b"{", b"[]", b"null", b'"SPDX-2.3"', b'{"spdxVersion": 2}', b'{"spdxVersion": "CycloneDX"}', b"\xff", b"[" * 100_000,
])
def test_what_is_no_bill(data: bytes) -> None:
    with pytest.raises(InvalidBill, match=r"^scan\.json: it wrote"):
        read_spdx(data, "scan.json")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_bill_or_refused(data: bytes) -> None:
    with contextlib.suppress(InvalidBill):
        assert read_spdx(data, "x")["spdxVersion"]


def test_the_same_files_give_the_same_bill() -> None:
    other = {**SPDX, "documentNamespace": "https://x/dir-00000000-c154-40f2-9f1f-49bf9a8a386e",
             "creationInfo": {**SPDX["creationInfo"], "created": "2027-01-01T00:00:00Z"}}  # type: ignore[dict-item]
    first, second = (settled(one, "2023-11-14T22:13:20.123456Z", "sbom") for one in (SPDX, other))
    assert first == second
    assert first["creationInfo"] == {"created": "2023-11-14T22:13:20Z", "creators": ["Tool: x"]}
    changed = settled({**SPDX, "packages": [{"name": "more"}]}, "2023-11-14T22:13:20Z", "sbom")
    assert changed["documentNamespace"] != first["documentNamespace"]
    assert changed["documentNamespace"].startswith("https://x/dir-")


@pytest.mark.parametrize("odd", [{"creationInfo": 3}, {"documentNamespace": ["x"]}, {"creationInfo": None}])
def test_a_bill_may_be_odd(odd: dict[str, Any]) -> None:
    assert settled({**SPDX, **odd}, "2023-11-14T22:13:20Z", "sbom")["creationInfo"]["created"] == "2023-11-14T22:13:20Z"


def test_statements_name_the_image() -> None:
    said = json.loads(statement(SPDX, "kind", IMAGE, ["docker.io/library/app:1"], ARM))
    assert said["subject"] == [
        {"name": "pkg:docker/app@1?platform=linux%2Farm64%2Fv8", "digest": {"sha256": IMAGE.encoded}}]
    assert (said["predicateType"], said["predicate"]) == ("kind", SPDX)
    assert [one["name"] for one in json.loads(statement(SPDX, "k", IMAGE, [], ARM))["subject"]] == ["_"]


def test_an_index_says_whose_it_is() -> None:
    layer = Descriptor(media_type="application/vnd.in-toto+json", digest=Digest.of(b"s"), size=1)
    raw = attestation_config([layer.digest])
    manifest = attestation_manifest(Descriptor(media_type=OCI_CONFIG, digest=Digest.of(raw), size=len(raw)), [("k", layer)])
    assert manifest.layers[0].annotations == {"in-toto.io/predicate-type": "k"}
    (entry,) = Index.parse(json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [listed(manifest.descriptor, IMAGE)],
    }).encode()).manifests
    assert is_about(entry, IMAGE)
    assert not is_about(entry, Digest.of(b"other"))
    assert str(entry.platform) == "unknown/unknown"
