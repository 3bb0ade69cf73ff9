"""Writing archives: what is in them, read back with the standard library and with our own reader."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from tests.archive.saved import loaded, opened

from lamina.archive.layout import CONTAINERD_NAME, REF_NAME
from lamina.archive.writer import ArchiveWriter, NotSavable, UnknownFormat
from lamina.content.memory import MemoryStore
from lamina.content.store import BlobNotFound, DigestMismatch
from lamina.image import Image
from lamina.layer.compress import Compression
from lamina.oci.descriptor import FOREIGN_LAYERS, Descriptor, Platform
from lamina.oci.digest import Digest
from lamina.oci.manifest import Index, Manifest
from lamina.testing.images import MadeImage, make_image, make_index, make_layer, random_image

FORMS = ["docker-archive", "oci-archive"]
ONE = make_layer({"a": b"one"})
TWO = make_layer({"b": b"two" * 1000}, compression=Compression.NONE)
IMAGE = make_image([ONE, TWO], execution={"Cmd": ["/a"]})


def written(form: str, *images: tuple[MemoryStore, Descriptor, Sequence[str]]) -> bytes:
    out = io.BytesIO()
    writer = ArchiveWriter(out, form)
    for store, root, names in images:
        writer.add(store, root, names)
    writer.finish()
    return out.getvalue()


def saved(form: str, image: MadeImage, *names: str) -> bytes:
    store = MemoryStore()
    return written(form, (store, image.put(store), names))


def contents(data: bytes) -> dict[str, bytes]:
    """By name; a name that occurs twice is an error. Directories are ``b""``."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
        assert len(names) == len(set(names))
        return {info.name: b"" if info.isdir() else _read(archive, info) for info in archive}


def _read(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(info)
    assert stream is not None
    return stream.read()


def table(data: bytes) -> list[dict[str, Any]]:
    return list(json.loads(contents(data)["manifest.json"]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(4))
def test_comes_back_with_the_same_digests(tmp_path: Path, form: str, seed: int) -> None:
    made = random_image(Random(seed), layers=3)
    has_zstd = any(layer.compression is Compression.ZSTD for layer in made.layers)
    with opened(saved(form, made, "docker.io/library/redis:7"), tmp_path) as source:
        ((names, root),) = source.images()
        assert names == ("docker.io/library/redis:7",)
        image = Image.load(loaded(source, root), root, None)
        assert image.config.raw == made.config.raw
        assert (root.digest == made.descriptor.digest) is not (has_zstd and form == "docker-archive")


@pytest.mark.parametrize("form", FORMS)
def test_same_image_gives_same_bytes(form: str) -> None:
    assert saved(form, IMAGE, "a:1") == saved(form, IMAGE, "a:1")


@pytest.mark.parametrize("form", FORMS)
def test_writes_to_what_can_only_be_written_to(form: str) -> None:
    class Out:
        data = b""

        def write(self, chunk: bytes | memoryview) -> int:
            self.data += bytes(chunk)
            return len(chunk)

    out, store = Out(), MemoryStore()
    writer = ArchiveWriter(cast("io.BytesIO", out), form)
    writer.add(store, IMAGE.put(store), ["a:1"])
    writer.finish()
    assert out.data == saved(form, IMAGE, "a:1")


def test_docker_archive_is_a_layout_too() -> None:
    found = contents(saved("docker-archive", IMAGE, "docker.io/library/redis:7"))
    assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (line,) = json.loads(found["index.json"])["manifests"]
    assert line["digest"] == IMAGE.descriptor.digest
    assert line["platform"] == {"architecture": "amd64", "os": "linux"}
    (item,) = json.loads(found["manifest.json"])
    assert item == {
        "Config": f"blobs/sha256/{IMAGE.config.digest.encoded}",
        "RepoTags": ["redis:7"],
        "Layers": [f"blobs/sha256/{layer.descriptor.digest.encoded}" for layer in IMAGE.layers],
    }
    for path, data in found.items():
        if path.startswith("blobs/sha256/"):
            assert Digest.of(data).encoded == path.removeprefix("blobs/sha256/")
    assert [found[path] for path in item["Layers"]] == [ONE.blob, TWO.blob]


def test_oci_archive_has_no_docker_table() -> None:
    assert "manifest.json" not in contents(saved("oci-archive", IMAGE))


def test_names_in_both_spellings() -> None:
    data = saved("docker-archive", IMAGE, "docker.io/library/redis:7", "localhost:5000/me/redis:latest",
                 f"docker.io/library/redis@{IMAGE.descriptor.digest}")
    assert table(data)[0]["RepoTags"] == ["redis:7", "localhost:5000/me/redis:latest"]
    lines = json.loads(contents(data)["index.json"])["manifests"]
    assert [line["annotations"][CONTAINERD_NAME] for line in lines] == [
        "docker.io/library/redis:7", "localhost:5000/me/redis:latest",
        f"docker.io/library/redis@{IMAGE.descriptor.digest}",
    ]
    assert all(line["annotations"][CONTAINERD_NAME] == line["annotations"][REF_NAME] for line in lines)


def test_image_without_a_name() -> None:
    data = saved("docker-archive", IMAGE)
    assert table(data)[0]["RepoTags"] is None
    (line,) = json.loads(contents(data)["index.json"])["manifests"]
    assert "annotations" not in line


@pytest.mark.parametrize("form", FORMS)
def test_shared_layers_are_written_once(tmp_path: Path, form: str) -> None:
    store = MemoryStore()
    other = make_image([ONE, {"c": b"three"}])
    data = written(form, (store, IMAGE.put(store), ["a:1"]), (store, other.put(store), ["b:1"]))
    assert len([name for name in contents(data) if name.startswith("blobs/sha256/")]) == 2 * 2 + 3
    with opened(data, tmp_path) as source:
        assert [image.names for image in source.images()] == [("a:1",), ("b:1",)]


def test_zstd_layers_are_inflated_for_docker() -> None:
    made = make_image([ONE, replace(TWO, compression=Compression.ZSTD)])
    found = contents(saved("docker-archive", made, "a:1"))
    (item,) = json.loads(found["manifest.json"])
    assert item["Layers"] == [
        f"blobs/sha256/{ONE.descriptor.digest.encoded}", f"blobs/sha256/{TWO.diff_id.encoded}"]
    assert found[item["Layers"][1]] == TWO.tar
    (line,) = json.loads(found["index.json"])["manifests"]
    manifest = Manifest.parse(found[f"blobs/sha256/{line['digest'].partition(':')[2]}"])
    assert manifest.layers[1].media_type.endswith(".tar")
    assert manifest.config.digest == made.config.digest


def test_zstd_layers_are_kept_for_oci() -> None:
    made = make_image([replace(TWO, compression=Compression.ZSTD)])
    found = contents(saved("oci-archive", made))
    assert found[f"blobs/sha256/{made.layers[0].descriptor.digest.encoded}"] == made.layers[0].blob


def test_index_with_what_is_here(tmp_path: Path) -> None:
    arm = make_image([{"a": b"arm"}], platform=Platform(os="linux", architecture="arm64"))
    index = make_index([IMAGE, arm])
    store = MemoryStore()
    root = index.put(store)
    with opened(written("oci-archive", (store, root, ["a:1"])), tmp_path) as source:
        assert source.images()[0].root.digest == index.descriptor.digest
        loaded(source, root)
    with pytest.raises(NotSavable, match="2 are here"):
        written("docker-archive", (store, root, ["a:1"]))
    store.delete(arm.descriptor.digest)
    sparse = contents(written("oci-archive", (store, root, ["a:1"])))
    assert f"blobs/sha256/{index.descriptor.digest.encoded}" in sparse
    assert f"blobs/sha256/{arm.descriptor.digest.encoded}" not in sparse
    (item,) = table(written("docker-archive", (store, root, ["a:1"])))
    assert item["Config"] == f"blobs/sha256/{IMAGE.config.digest.encoded}"


def test_attestations_are_no_platforms() -> None:
    store = MemoryStore()
    image = IMAGE.put(store)
    attestation = replace(make_image([{"x": b"{}"}]).put(store), platform=Platform(os="unknown", architecture="unknown"))
    index = Index.build([image, attestation])
    store.put(index.descriptor, io.BytesIO(index.raw))
    (item,) = table(written("docker-archive", (store, index.descriptor, [])))
    assert item["Config"] == f"blobs/sha256/{IMAGE.config.digest.encoded}"


def test_absent_foreign_layer() -> None:
    foreign = min(FOREIGN_LAYERS)
    store = MemoryStore()
    IMAGE.put(store)
    first, second = IMAGE.manifest.layers
    manifest = Manifest.build(IMAGE.manifest.config, [replace(first, media_type=foreign), second])
    store.put(manifest.descriptor, io.BytesIO(manifest.raw))
    store.delete(first.digest)
    kept = contents(written("oci-archive", (store, manifest.descriptor, [])))
    assert f"blobs/sha256/{second.digest.encoded}" in kept
    with pytest.raises(NotSavable, match=str(first.digest)):
        written("docker-archive", (store, manifest.descriptor, []))


@pytest.mark.parametrize("form", FORMS)
def test_absent_layer_is_named(form: str) -> None:
    store = MemoryStore()
    root = IMAGE.put(store)
    store.delete(TWO.descriptor.digest)
    with pytest.raises((BlobNotFound, NotSavable), match=str(TWO.descriptor.digest)):
        written(form, (store, root, []))


@pytest.mark.parametrize("form", FORMS)
def test_damage_in_the_store_is_not_written_down(form: str) -> None:
    class Damaged(MemoryStore):
        def open_at(self, wanted: Descriptor, offset: int) -> Any:
            data = super().open_at(wanted, offset).read()
            return io.BytesIO(data[:-1] + b"?" if wanted.digest == TWO.descriptor.digest else data)

    store = Damaged()
    root = IMAGE.put(store)
    with pytest.raises(DigestMismatch, match=str(TWO.descriptor.digest)):
        written(form, (store, root, []))


def test_artifact_has_no_place_in_a_docker_archive() -> None:
    store = MemoryStore()
    empty = Descriptor(media_type="application/vnd.oci.empty.v1+json", digest=Digest.of(b"{}"), size=2)
    store.put(empty, io.BytesIO(b"{}"))
    manifest = Manifest.build(empty, [empty])
    store.put(manifest.descriptor, io.BytesIO(manifest.raw))
    with pytest.raises(NotSavable, match="oci-archive"):
        written("docker-archive", (store, manifest.descriptor, []))
    assert f"blobs/sha256/{empty.digest.encoded}" in contents(written("oci-archive", (store, manifest.descriptor, [])))


def test_unknown_format() -> None:
    with pytest.raises(UnknownFormat, match="docker-archive, oci-archive"):
        ArchiveWriter(io.BytesIO(), "zip")
