"""Reading an image: its documents, its layers in order, and the way through indexes to a platform."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest

from lamina.content.memory import MemoryStore
from lamina.content.store import BlobNotFound, DigestMismatch
from lamina.errors import IntegrityError, InvalidInput, NotFound, Unsupported
from lamina.image import Image, IndexTooDeep, LayerCountMismatch, NotAnImage, PlatformNotFound
from lamina.oci.config import InvalidConfig, chain_ids
from lamina.oci.descriptor import OCI_CONFIG, OCI_LAYER, Descriptor, Platform
from lamina.oci.digest import Digest
from lamina.oci.manifest import Index, Manifest, dump_document

AMD64 = Platform(os="linux", architecture="amd64")
ARM64 = Platform(os="linux", architecture="arm64")
RISCV = Platform(os="linux", architecture="riscv64")
UNKNOWN = Platform(os="unknown", architecture="unknown")


def put(store: MemoryStore, data: bytes, media_type: str) -> Descriptor:
    wanted = Descriptor(media_type=media_type, digest=Digest.of(data), size=len(data))
    store.put(wanted, io.BytesIO(data))
    return wanted


def config_document(diff_ids: list[Digest], platform: Platform = AMD64, **more: Any) -> bytes:
    return dump_document({
        **platform.to_json(), "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}, **more,
    })


def put_image(
    store: MemoryStore, layers: tuple[bytes, ...] = (b"x",), platform: Platform = AMD64, **more: Any
) -> Descriptor:
    """Layers are stored as they are: their digest is their diff id."""
    descriptors = [put(store, layer, OCI_LAYER) for layer in layers]
    config = put(store, config_document([layer.digest for layer in descriptors], platform, **more), OCI_CONFIG)
    manifest = Manifest.build(config, descriptors)
    return put(store, manifest.raw, manifest.media_type)


def put_index(store: MemoryStore, *entries: Descriptor) -> Descriptor:
    index = Index.build(entries)
    return put(store, index.raw, index.media_type)


def said(descriptor: Descriptor, platform: Platform | None) -> Descriptor:
    return replace(descriptor, platform=platform)


def test_layers_pair_descriptor_diff_id_and_history() -> None:
    store = MemoryStore()
    history = [
        {"created_by": "first"}, {"created_by": "ENV A=b", "empty_layer": True}, {"created_by": "second"},
    ]
    root = put_image(store, (b"one", b"two"), history=history)
    image = Image.load(store, root, None)
    assert [layer.number for layer in image.layers] == [0, 1]
    assert [layer.diff_id for layer in image.layers] == [Digest.of(b"one"), Digest.of(b"two")]
    assert [layer.history.created_by for layer in image.layers if layer.history] == ["first", "second"]
    assert image.descriptor == root
    assert image.id == image.config.digest
    assert image.chain_ids == tuple(chain_ids([Digest.of(b"one"), Digest.of(b"two")]))


def test_missing_history_is_said_so() -> None:
    store = MemoryStore()
    image = Image.load(store, put_image(store, (b"one", b"two")), None)
    assert [layer.history for layer in image.layers] == [None, None]


def test_a_manifest_is_taken_whatever_its_platform() -> None:
    store = MemoryStore()
    image = Image.load(store, put_image(store, platform=ARM64), AMD64)
    assert image.config.platform == ARM64


def test_layer_counts_must_agree() -> None:
    store = MemoryStore()
    config = put(store, config_document([Digest.of(b"one")]), OCI_CONFIG)
    manifest = Manifest.build(config, [put(store, b"one", OCI_LAYER)] * 2)
    with pytest.raises(LayerCountMismatch, match="lists 2 layers, its config 1") as caught:
        Image.load(store, put(store, manifest.raw, manifest.media_type), None)
    assert isinstance(caught.value, IntegrityError)


def test_an_artifact_is_not_an_image() -> None:
    store = MemoryStore()
    manifest = Manifest.build(put(store, b"{}", "application/vnd.oci.empty.v1+json"), [])
    with pytest.raises(NotAnImage, match=r"oci\.empty") as caught:
        Image.load(store, put(store, manifest.raw, manifest.media_type), None)
    assert isinstance(caught.value, Unsupported)


@pytest.mark.parametrize("platform", [AMD64, ARM64])
def test_an_index_is_followed_to_the_platform(platform: Platform) -> None:
    store = MemoryStore()
    images = {each: said(put_image(store, platform=each), each) for each in (AMD64, ARM64)}
    image = Image.load(store, put_index(store, *images.values()), platform)
    assert image.descriptor.digest == images[platform].digest


def test_a_missing_platform_lists_what_there_is() -> None:
    store = MemoryStore()
    root = put_index(store, said(put_image(store), AMD64), said(put_image(store, platform=ARM64), ARM64))
    with pytest.raises(PlatformNotFound, match=r"no image for linux/riscv64 .there is linux/amd64, linux/arm64") as caught:
        Image.load(store, root, RISCV)
    assert isinstance(caught.value, NotFound)


def test_without_a_platform_an_index_must_hold_one_image() -> None:
    store = MemoryStore()
    one = said(put_image(store), AMD64)
    attestation = replace(
        said(put_image(store, (b"statement",)), UNKNOWN),
        annotations={"vnd.docker.reference.type": "attestation-manifest"},
    )
    assert Image.load(store, put_index(store, one, attestation), None).descriptor.digest == one.digest
    assert Image.load(store, put_index(store, put_index(store, one)), None).descriptor.digest == one.digest
    with pytest.raises(PlatformNotFound, match="lists 2 images"):
        Image.load(store, put_index(store, one, put_image(store, platform=ARM64)), None)


def test_entries_without_a_platform_are_looked_into() -> None:
    store = MemoryStore()
    wanted = put_image(store, platform=ARM64)
    absent = Descriptor(media_type=wanted.media_type, digest=Digest.of(b"absent"), size=6)
    root = put_index(store, absent, put_image(store), wanted)
    assert Image.load(store, root, ARM64).descriptor == wanted


def test_nested_indexes_are_followed() -> None:
    store = MemoryStore()
    arm = said(put_image(store, platform=ARM64), ARM64)
    inner = put_index(store, said(put_image(store), AMD64))
    assert Image.load(store, put_index(store, inner, put_index(store, arm)), ARM64).descriptor.digest == arm.digest


@pytest.mark.parametrize("platform", [AMD64, None])
def test_nesting_has_an_end(platform: Platform | None) -> None:
    store = MemoryStore()
    root = put_image(store)
    for _ in range(8):
        root = put_index(store, root)
    with pytest.raises(IndexTooDeep) as caught:
        Image.load(store, root, platform)
    assert isinstance(caught.value, InvalidInput)


def test_a_search_reads_a_bounded_number_of_documents() -> None:
    store = MemoryStore()
    entries = [put_image(store, (b"%d" % number,)) for number in range(100)]
    with pytest.raises(IndexTooDeep, match="in 64 documents"):
        Image.load(store, put_index(store, *entries), ARM64)


def test_an_attestation_is_never_chosen() -> None:
    store = MemoryStore()
    attestation = replace(
        said(put_image(store, (b"statement",)), AMD64),
        annotations={"vnd.docker.reference.type": "attestation-manifest"},
    )
    real = said(put_image(store), AMD64)
    assert Image.load(store, put_index(store, attestation, real), AMD64).descriptor.digest == real.digest


def test_documents_are_verified() -> None:
    class Liar(MemoryStore):
        def open(self, wanted: Descriptor) -> io.BytesIO:
            return io.BytesIO(super().open(wanted).read().replace(b"amd64", b"amd46"))

    store = Liar()
    with pytest.raises(DigestMismatch):
        Image.load(store, put_image(store), None)


def test_what_is_missing_is_named() -> None:
    store = MemoryStore()
    root = put_image(store)
    config = Image.load(store, root, None).manifest.config
    store.delete(config.digest)
    with pytest.raises(BlobNotFound, match=config.digest):
        Image.load(store, root, None)


def test_a_broken_config_is_refused() -> None:
    store = MemoryStore()
    manifest = Manifest.build(put(store, b'{"rootfs": 7}', OCI_CONFIG), [])
    with pytest.raises(InvalidConfig):
        Image.load(store, put(store, manifest.raw, manifest.media_type), None)
