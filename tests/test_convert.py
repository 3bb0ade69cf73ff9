"""The same image in another compression."""

from __future__ import annotations

import gzip
import json
from random import Random

import pytest

from lamina.content.memory import MemoryStore
from lamina.content.store import DigestMismatch, read_all
from lamina.convert import DiffIDMismatch, compress_layers, inflating, recompress_layers
from lamina.image import Image
from lamina.layer.compress import Compression
from lamina.oci.descriptor import (
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Platform,
)
from lamina.oci.digest import Digest
from lamina.oci.manifest import MAX_DOCUMENT, Index, dump_document
from lamina.testing.images import make_image, make_index, make_layer, random_image

PLAIN = make_layer({"a": b"one" * 1000}, compression=Compression.NONE)
PACKED = make_layer({"b": b"two" * 1000})
ZSTD = make_layer({"c": b"three" * 1000}, compression=Compression.ZSTD)
IMAGE = make_image([PLAIN, PACKED, ZSTD], annotations={"kept": "yes"})


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def load(store: MemoryStore, root: Descriptor) -> Image:
    return Image.load(store, root, None)


def test_plain_layers_are_compressed_and_others_stay(store: MemoryStore) -> None:
    root = IMAGE.put(store)
    image = load(store, compress_layers(store, root))
    assert [layer.descriptor.media_type for layer in image.layers] == [OCI_LAYER_GZIP, OCI_LAYER_GZIP, OCI_LAYER_ZSTD]
    assert [layer.descriptor for layer in image.layers[1:]] == [PACKED.descriptor, ZSTD.descriptor]
    blob = read_all(store, image.layers[0].descriptor, MAX_DOCUMENT)
    assert gzip.decompress(blob) == PLAIN.tar


def test_config_and_other_fields_stay(store: MemoryStore) -> None:
    root = IMAGE.put(store)
    image = load(store, compress_layers(store, root))
    assert image.manifest.config == IMAGE.manifest.config
    assert image.config.raw == IMAGE.config.raw
    before, after = json.loads(IMAGE.manifest.raw), json.loads(image.manifest.raw)
    assert list(before) == list(after)
    assert {name: value for name, value in after.items() if name != "layers"} == {
        name: value for name, value in before.items() if name != "layers"}


def test_layer_annotations_and_unknown_fields_stay(store: MemoryStore) -> None:
    IMAGE.put(store)
    document = json.loads(IMAGE.manifest.raw)
    document["layers"][0] |= {"annotations": {"a": "b"}, "org.example.new": [1]}
    raw = dump_document(document)
    root = Descriptor(media_type=OCI_MANIFEST, digest=Digest.of(raw), size=len(raw))
    store.put(root, __import__("io").BytesIO(raw))
    made = json.loads(load(store, compress_layers(store, root)).manifest.raw)["layers"][0]
    assert (made["annotations"], made["org.example.new"]) == ({"a": "b"}, [1])


def test_nothing_to_do_is_the_same_image(store: MemoryStore) -> None:
    root = make_image([PACKED, ZSTD]).put(store)
    before = sorted(store.walk())
    assert compress_layers(store, root) == root
    assert compress_layers(store, IMAGE.put(store), "none").digest == IMAGE.descriptor.digest
    assert [item for item in sorted(store.walk()) if item in before] == before


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("seed", range(3))
def test_every_layer_in_one_compression(store: MemoryStore, compression: Compression, seed: int) -> None:
    made = random_image(Random(seed))
    image = load(store, recompress_layers(store, made.put(store), compression))
    assert image.config.raw == made.config.raw
    expected = {"none": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}[compression]
    assert {layer.descriptor.media_type for layer in image.layers} == {expected}
    back = recompress_layers(store, image.descriptor, "none")
    assert [layer.descriptor.digest for layer in load(store, back).layers] == [layer.diff_id for layer in made.layers]


def test_docker_types_stay_docker_types(store: MemoryStore) -> None:
    root = make_image([PLAIN, PACKED], is_docker=True).put(store)
    image = load(store, compress_layers(store, root))
    assert image.manifest.media_type == DOCKER_MANIFEST
    assert {layer.descriptor.media_type for layer in image.layers} == {DOCKER_LAYER_GZIP}


def test_zstd_makes_a_docker_image_an_oci_one(store: MemoryStore) -> None:
    made = make_image([PLAIN, PACKED], is_docker=True)
    image = load(store, compress_layers(store, made.put(store), "zstd"))
    assert image.manifest.media_type == OCI_MANIFEST
    assert image.manifest.config.media_type == OCI_CONFIG
    assert image.id == made.config.digest
    assert [layer.descriptor.media_type for layer in image.layers] == [OCI_LAYER_ZSTD, OCI_LAYER_GZIP]


def test_all_platforms_that_are_here(store: MemoryStore) -> None:
    arm = make_image([PLAIN], platform=Platform(os="linux", architecture="arm64"))
    index = make_index([IMAGE, arm])
    root = index.put(store)
    made = Index.parse(read_all(store, compress_layers(store, root), MAX_DOCUMENT), OCI_INDEX)
    assert [entry.platform for entry in made.manifests] == [entry.platform for entry in index.index.manifests]
    for entry in made.manifests:
        assert Compression.NONE not in {layer.descriptor.media_type for layer in load(store, entry).layers}
    store.delete(arm.descriptor.digest)
    sparse = Index.parse(read_all(store, compress_layers(store, root), MAX_DOCUMENT), OCI_INDEX)
    assert sparse.manifests[1] == arm.descriptor
    assert sparse.manifests[0] == made.manifests[0]


def test_what_was_done_is_remembered(store: MemoryStore) -> None:
    class Counting(MemoryStore):
        ingests = 0

        def ingest(self):
            self.ingests += 1
            return super().ingest()

    counting = Counting()
    memory: dict[tuple[Digest, Compression], Descriptor] = {}
    root = IMAGE.put(counting)
    first = compress_layers(counting, root, memory=memory)
    assert (counting.ingests, list(memory)) == (1, [(PLAIN.diff_id, Compression.GZIP)])
    other = make_image([PLAIN, PLAIN]).put(counting)
    assert compress_layers(counting, root, memory=memory) == first
    compress_layers(counting, other, memory=memory)
    assert counting.ingests == 1
    counting.delete(memory[PLAIN.diff_id, Compression.GZIP].digest)  # collected meanwhile: made again
    compress_layers(counting, root, memory=memory)
    assert counting.ingests == 2


def test_layer_that_is_not_what_its_config_says(store: MemoryStore) -> None:
    made = make_image([PLAIN])
    lying = make_image([make_layer({"x": b"y"}, compression=Compression.NONE)])
    made.put(store)
    lying.put(store)
    from lamina.oci.manifest import Manifest

    manifest = Manifest.build(made.manifest.config, lying.manifest.layers)
    store.put(manifest.descriptor, __import__("io").BytesIO(manifest.raw))
    before = sorted(store.walk())
    with pytest.raises(DiffIDMismatch, match=PLAIN.diff_id):
        compress_layers(store, manifest.descriptor)
    assert sorted(store.walk()) == before


def test_damaged_blob(store: MemoryStore) -> None:
    root = make_image([PACKED]).put(store)
    blob = PACKED.blob[:-1] + bytes([PACKED.blob[-1] ^ 1])
    store._blobs[PACKED.descriptor.digest] = blob
    with pytest.raises((DigestMismatch, ValueError)):
        recompress_layers(store, root, "zstd")


def test_view_inflates_as_it_is_read(store: MemoryStore) -> None:
    root = IMAGE.put(store)
    before = sorted(store.walk())
    view, inflated = inflating(store, root, {Compression.ZSTD, Compression.GZIP})
    image = Image.load(view, inflated, None)
    assert [layer.descriptor.digest for layer in image.layers] == [layer.diff_id for layer in IMAGE.layers]
    for layer, made in zip(image.layers, IMAGE.layers, strict=True):
        assert view.has(layer.descriptor)
        assert read_all(view, layer.descriptor, MAX_DOCUMENT) == made.tar
    assert sorted(store.walk()) == before, "a view stores nothing"


def test_view_of_nothing_to_inflate_is_the_source(store: MemoryStore) -> None:
    root = make_image([PACKED]).put(store)
    assert inflating(store, root, {Compression.ZSTD}) == (store, root)
