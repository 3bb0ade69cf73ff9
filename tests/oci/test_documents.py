"""Digests, descriptors, manifests, indexes and configs: strict readings that keep the bytes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import InvalidInput, LaminaError, Unsupported
from lamina.oci.config import ImageConfig, InvalidConfig, chain_ids
from lamina.oci.descriptor import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    InvalidDescriptor,
    Platform,
)
from lamina.oci.digest import Digest, Digester, InvalidDigest
from lamina.oci.manifest import (
    MAX_DOCUMENT,
    Index,
    InvalidManifest,
    Manifest,
    UnsupportedManifest,
    parse_graph_node,
    successors,
)

CONFIG = Descriptor(media_type=OCI_CONFIG, digest=Digest.of(b"c"), size=1)
LAYER = Descriptor(media_type=OCI_LAYER_GZIP, digest=Digest.of(b"l"), size=1)


@pytest.mark.parametrize(
    "text",
    ["", "sha256", "sha256:", "sha256:" + "a" * 63, "sha256:" + "A" * 64, "md5:" + "a" * 32,
     "sha256:../../../etc/passwd" + "a" * 40, "sha256:" + "a" * 64 + "\n", "sha256:" + "a" * 64 + "/..",
     None, 5, ["sha256:" + "a" * 64]],
)
def test_only_a_digest_is_a_digest(text: Any) -> None:
    with pytest.raises(InvalidDigest):
        Digest.parse(text)


@given(st.lists(st.binary(max_size=50)))
def test_a_digester_agrees_with_hashlib_however_it_is_fed(chunks: list[bytes]) -> None:
    digester = Digester("sha512")
    for chunk in chunks:
        digester.update(chunk)
    whole = b"".join(chunks)
    assert digester.digest() == f"sha512:{hashlib.sha512(whole).hexdigest()}" == Digest.of(whole, "sha512")
    assert digester.size == len(whole)


@pytest.mark.parametrize(
    ("field", "value"),
    [("mediaType", None), ("mediaType", "text"), ("mediaType", "a/b\r\nX: y"), ("size", -1), ("size", "1"),
     ("size", True), ("size", 1.5), ("size", 1 << 63), ("digest", "x"), ("platform", []),
     ("platform", {"os": 1}), ("annotations", {"a": 1}), ("annotations", [])],
)
def test_a_descriptor_with_a_wrong_field_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidInput):
        Descriptor.from_json(LAYER.to_json() | {field: value})


def test_a_descriptor_survives_json() -> None:
    full = Descriptor(
        media_type=OCI_MANIFEST, digest=Digest.of(b"x"), size=3, annotations={"a": "b"},
        platform=Platform(os="linux", architecture="arm64", variant="v9", os_version="1"), artifact_type="x/y",
    )
    assert Descriptor.from_json(json.loads(json.dumps(full.to_json()))) == full


@pytest.mark.parametrize(
    ("text", "shown"),
    [("linux/amd64", "linux/amd64"), ("arm64", "linux/arm64"), ("linux/arm64/v8", "linux/arm64"),
     ("linux/aarch64", "linux/arm64"), ("linux/x86_64", "linux/amd64"), ("linux/arm", "linux/arm/v7"),
     ("linux/armhf", "linux/arm/v7"), ("linux/arm/6", "linux/arm/v6"), ("windows/amd64", "windows/amd64")],
)
def test_platform_spellings(text: str, shown: str) -> None:
    assert str(Platform.parse(text)) == shown


@pytest.mark.parametrize("text", ["", "a/b/c/d", "linux/", "linux/am d64", "../x"])
def test_a_wrong_platform_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Platform.parse(text)


def entry(platform: str, data: bytes) -> Descriptor:
    return Descriptor(
        media_type=OCI_MANIFEST, digest=Digest.of(data), size=1, platform=Platform.parse(platform)
    )


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [("linux/amd64", b"amd"), ("linux/arm/v7", b"v7"), ("linux/arm/v6", b"v6"), ("linux/arm/v5", None),
     ("linux/arm64", b"arm64"), ("linux/s390x", None), ("windows/amd64", None)],
)
def test_an_index_answers_with_the_best_platform(wanted: str, chosen: bytes | None) -> None:
    index = Index.build([entry("linux/amd64", b"amd"), entry("linux/arm/v6", b"v6"),
                         entry("linux/arm/v7", b"v7"), entry("linux/arm64/v8", b"arm64")])
    found = index.for_platform(Platform.parse(wanted))
    assert (found and found.digest) == (chosen and Digest.of(chosen))


def test_a_parsed_document_keeps_its_bytes() -> None:
    raw = b'{ "schemaVersion": 2,  "mediaType":"%s",\n"config": %s, "layers": [], "futureField": [1] }' % (
        OCI_MANIFEST.encode(), json.dumps(CONFIG.to_json()).encode())
    manifest = Manifest.parse(raw)
    assert manifest.raw == raw
    assert manifest.descriptor.digest == Digest.of(raw)
    assert manifest.descriptor.size == len(raw)


def test_building_twice_gives_the_same_bytes() -> None:
    one = Manifest.build(CONFIG, [LAYER], annotations={"b": "2", "a": "1"})
    two = Manifest.build(CONFIG, [LAYER], annotations={"a": "1", "b": "2"})
    assert one.raw == two.raw
    assert successors(one.descriptor, one.raw) == (CONFIG, LAYER)


def document(**changes: Any) -> bytes:
    whole = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": CONFIG.to_json(), "layers": []}
    return json.dumps({key: value for key, value in (whole | changes).items() if value is not ...}).encode()


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"", InvalidManifest), (b"[]", InvalidManifest), (b"null", InvalidManifest), (b"{", InvalidManifest),
        (b"\xff\xfe", InvalidManifest), (b"[" * 100_000, InvalidManifest),
        (b'{"a":' * 100_000, InvalidManifest), (b" " * (MAX_DOCUMENT + 1), InvalidManifest),
        (document(schemaVersion=1), UnsupportedManifest), (document(schemaVersion="2"), InvalidManifest),
        (document(schemaVersion=...), InvalidManifest),
        (document(mediaType=5), InvalidManifest), (document(mediaType="text/html"), UnsupportedManifest),
        (document(manifests=[]), InvalidManifest), (document(layers=None), InvalidManifest),
        (document(layers={}), InvalidManifest), (document(layers=[None]), InvalidDescriptor),
        (document(config=None), InvalidDescriptor), (document(layers=[LAYER.to_json()] * 3000), InvalidManifest),
    ],
)
def test_wrong_manifests_are_refused_in_one_sentence(raw: bytes, error: type[LaminaError]) -> None:
    with pytest.raises(error) as caught:
        Manifest.parse(raw)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_sender_and_document_must_agree() -> None:
    # CVE-2021-41190: one digest must not be an image for one reader and an index for another.
    with pytest.raises(InvalidManifest, match="its sender"):
        parse_graph_node(document(), OCI_INDEX)
    with pytest.raises(InvalidManifest, match="both"):
        parse_graph_node(document(mediaType=..., manifests=[]), OCI_MANIFEST)


def test_a_document_without_media_type_is_read_as_its_sender_says() -> None:
    assert isinstance(parse_graph_node(document(mediaType=...), DOCKER_MANIFEST), Manifest)
    empty = b'{"schemaVersion":2,"manifests":null}'
    assert isinstance(parse_graph_node(empty, DOCKER_INDEX), Index)
    assert isinstance(parse_graph_node(empty), Index)


def test_schema_1_is_refused_with_a_clear_sentence() -> None:
    with pytest.raises(Unsupported, match="schema 1 is not supported"):
        parse_graph_node(b'{"schemaVersion":1,"fsLayers":[]}', "application/vnd.docker.distribution.manifest.v1+json")


def config(**changes: Any) -> bytes:
    whole = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
    return json.dumps(whole | changes).encode()


@pytest.mark.parametrize(
    "changes",
    [{"rootfs": None}, {"rootfs": {"type": "base"}}, {"rootfs": {"diff_ids": "x"}},
     {"rootfs": {"diff_ids": ["x"]}}, {"rootfs": {"diff_ids": [None]}}, {"config": []}, {"os": 5},
     {"history": {}}, {"history": [5]}, {"history": [{"empty_layer": "yes"}]},
     {"history": [{"created_by": 7}]}, {"created": 1}],
)
def test_wrong_configs_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        ImageConfig.parse(config(**changes))


def test_null_fields_as_go_writes_them_are_empty() -> None:
    parsed = ImageConfig.parse(config(config=None, history=None, rootfs={"type": "layers", "diff_ids": None}))
    assert (parsed.execution, parsed.history, parsed.diff_ids) == ({}, (), ())


def test_a_config_that_is_an_array_is_refused() -> None:
    with pytest.raises((InvalidConfig, InvalidManifest)):
        ImageConfig.parse(b"[]")


def test_history_is_matched_to_layers_as_far_as_it_goes() -> None:
    digests = [Digest.of(bytes([n])) for n in range(3)]
    parsed = ImageConfig.parse(config(
        rootfs={"type": "layers", "diff_ids": digests},
        history=[{"created_by": "A"}, {"created_by": "E", "empty_layer": True}, {"created_by": "B"}],
    ))
    assert [line and line.created_by for line in parsed.layer_history()] == ["A", "B", None]


def test_chain_ids_follow_the_specification() -> None:
    one, two, three = (Digest.of(bytes([n])) for n in range(3))
    chain = list(chain_ids([one, two, three]))
    assert chain[0] == one
    assert chain[1] == Digest.of(f"{one} {two}".encode())
    assert chain[2] == Digest.of(f"{chain[1]} {three}".encode())


@pytest.mark.parametrize("raw", [
    b'{"created":"\\ud800","rootfs":{}}',
    b'{"created":"\xed\xa0\x80","rootfs":{}}',
    '{"rootfs":{}}'.encode("utf-16"),
])
def test_text_that_no_file_can_hold_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInput, match="not JSON"):
        ImageConfig.parse(raw)


def test_a_whole_surrogate_pair_is_a_letter() -> None:
    assert ImageConfig.parse(b'{"created":"\\ud83d\\ude00","rootfs":{}}').created == "\U0001f600"
