"""The makers of small images: that what they make is what they say, and the same each time."""

from __future__ import annotations

import io
import tarfile
from random import Random

import pytest

from lamina.content.memory import MemoryStore
from lamina.image import Image
from lamina.layer.compress import Compression
from lamina.layer.entry import Entry, Kind, ancestors
from lamina.oci.descriptor import DOCKER_MANIFEST, Platform
from lamina.testing.images import (
    DIRECTORY,
    Chances,
    Link,
    directory,
    file,
    make_image,
    make_index,
    make_layer,
    opaque,
    random_image,
    random_layer,
    random_stack,
    tar_of,
    whiteout,
)

SEEDS = range(200)


def names(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {info.name: info for info in archive}


def test_layer_from_a_dictionary() -> None:
    found = names(tar_of({"etc": DIRECTORY, "etc/motd": b"hello", "etc/issue": Link("motd")}))
    assert (found["etc"].isdir(), found["etc/motd"].size, found["etc/issue"].linkname) == (True, 5, "motd")


def test_layer_from_entries() -> None:
    found = names(tar_of([directory("a", mode=0o700), file("a/b", b"x", uid=7), whiteout("a/gone"), opaque("a")]))
    assert list(found) == ["a", "a/b", "a/.wh.gone", "a/.wh..wh..opq"]
    assert (found["a"].mode, found["a/b"].uid) == (0o700, 7)


@pytest.mark.parametrize("compression", list(Compression))
def test_layer_knows_both_its_digests(compression: Compression) -> None:
    layer = make_layer({"a": b"one"}, compression=compression)
    assert layer.descriptor.size == len(layer.blob)
    assert (layer.descriptor.digest == layer.diff_id) is (compression is Compression.NONE)


def test_image_loads_from_any_target() -> None:
    store = MemoryStore()
    made = make_image([{"a": b"one"}, [whiteout("a")]], execution={"Cmd": ["/a"]})
    image = Image.load(store, made.put(store, "made:1"), None)
    assert store.resolve("made:1").digest == made.descriptor.digest
    assert image.config.execution == {"Cmd": ["/a"]}
    assert [layer.diff_id for layer in image.layers] == [layer.diff_id for layer in made.layers]
    assert len(image.config.history) == 2


def test_docker_family() -> None:
    made = make_image([{"a": b"one"}], is_docker=True)
    assert made.manifest.media_type == DOCKER_MANIFEST
    assert ".docker." in made.manifest.layers[0].media_type
    assert ".docker." in made.manifest.config.media_type


def test_index_lists_platforms() -> None:
    store = MemoryStore()
    arm = make_image([{"a": b"arm"}], platform=Platform(os="linux", architecture="arm64"))
    root = make_index([make_image([{"a": b"amd"}]), arm]).put(store, "multi:1")
    assert Image.load(store, root, Platform.parse("linux/arm64")).config.raw == arm.config.raw


@pytest.mark.parametrize("seed", range(20))
def test_same_seed_same_bytes(seed: int) -> None:
    assert random_image(Random(seed)).manifest.raw == random_image(Random(seed)).manifest.raw


def test_other_seed_other_image() -> None:
    assert len({random_image(Random(seed)).descriptor.digest for seed in range(20)}) == 20


def test_random_layers_hold_together() -> None:
    """No path twice, none below what is not a directory, hard links to files that are there."""
    for seed in SEEDS:
        for layer in random_stack(Random(seed)):
            kinds = {entry.path: entry.kind for entry in layer}
            assert len(kinds) == len(layer)
            for entry in layer:
                assert all(kinds.get(above, Kind.DIRECTORY) is Kind.DIRECTORY for above in ancestors(entry.path))
                assert entry.kind is not Kind.HARDLINK or kinds[entry.linkname] is Kind.FILE
                assert entry.hides not in kinds


def test_random_stacks_hold_everything_interesting() -> None:
    layers = [layer for seed in SEEDS for layer in random_stack(Random(seed))]
    entries = [entry for layer in layers for entry in layer]
    assert {entry.kind for entry in entries} >= {Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK, Kind.HARDLINK, Kind.FIFO}
    assert any(entry.hides for entry in entries)
    assert any(entry.is_opaque for entry in entries)
    assert any(entry.xattrs for entry in entries)
    assert any(_implies(layer) for layer in layers)


def test_chances_are_kept() -> None:
    tame = Chances(has_owners=False, has_xattrs=False, has_whiteouts=False, names=("x", "y"))
    for seed in SEEDS:
        for entry in random_layer(Random(seed), ["x", "y"], tame):
            assert (entry.uid, entry.gid, dict(entry.xattrs), entry.hides) == (0, 0, {}, None)
            assert set(entry.path) <= set("xy/")


def _implies(layer: list[Entry]) -> bool:
    listed = {entry.path for entry in layer}
    return any(above not in listed for entry in layer for above in ancestors(entry.path))
