"""Reading OCI layouts, in directories and in tars, as left by careful tools and by careless hands."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.archive.saved import docker_archive, documents, layout_members, loaded, opened, tar, write_layout

from lamina.archive.layout import CONTAINERD_NAME, REF_NAME
from lamina.archive.members import InvalidArchive
from lamina.archive.source import ArchiveSource
from lamina.content.store import BlobNotFound, DigestMismatch, NameNotFound, SizeMismatch
from lamina.errors import InvalidInput
from lamina.events import Action, Event
from lamina.image import Image
from lamina.layer.entry import PathEscapes
from lamina.oci.descriptor import Platform
from lamina.oci.digest import InvalidDigest
from lamina.oci.manifest import MAX_DOCUMENT, InvalidManifest, Manifest
from lamina.testing.images import make_image, make_index

IMAGE = make_image([{"a": b"one"}, {"b": b"two" * 1000}])
NAMED = {CONTAINERD_NAME: "docker.io/library/redis:7", REF_NAME: "7"}
LAYER = f"blobs/sha256/{IMAGE.layers[0].descriptor.digest.encoded}"
MANIFEST = f"blobs/sha256/{IMAGE.descriptor.digest.encoded}"


def members() -> dict[str, bytes]:
    return layout_members((IMAGE, NAMED))


def edited(**changes: Any) -> dict[str, bytes]:
    """The layout with fields of its one index line changed."""
    found = members()
    index = json.loads(found["index.json"])
    index["manifests"][0].update(changes)
    return found | {"index.json": json.dumps(index).encode()}


@pytest.fixture(params=["directory", "tar"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    def open_layout(found: Mapping[str, bytes], **options: Any) -> ArchiveSource:
        if request.param == "directory":
            return ArchiveSource(write_layout(tmp_path / "layout", found), scratch=tmp_path, **options)
        (tmp_path / "layout.tar").write_bytes(tar(*found.items()))
        return ArchiveSource(tmp_path / "layout.tar", scratch=tmp_path, **options)

    return open_layout


def test_image_keeps_its_digest(opener: Any) -> None:
    with opener(members()) as source:
        ((names, root),) = source.images()
        assert names == ("docker.io/library/redis:7",)
        assert (root.digest, root.size) == (IMAGE.descriptor.digest, IMAGE.descriptor.size)
        image = Image.load(loaded(source, root), root, None)
        assert image.config.raw == IMAGE.config.raw


@pytest.mark.parametrize(("annotations", "names"), [
    ({}, ()),
    ({REF_NAME: "latest"}, ()),
    ({REF_NAME: "1.2.3"}, ()),
    ({REF_NAME: "busybox:1.38.0-glibc"}, ("busybox:1.38.0-glibc",)),
    ({REF_NAME: "quay.io/a/b"}, ("quay.io/a/b",)),
    ({REF_NAME: "quay.io/a/b:1", CONTAINERD_NAME: "docker.io/c/d:2"}, ("docker.io/c/d:2",)),
    ({REF_NAME: "Not A Name:1"}, ()),
])
def test_names(opener: Any, annotations: dict[str, str], names: tuple[str, ...]) -> None:
    with opener(layout_members((IMAGE, annotations))) as source:
        assert source.images()[0].names == names
        for alias in annotations.values():
            assert source.resolve(alias) == source.images()[0].root


def test_one_image_under_several_names(opener: Any) -> None:
    other = make_image([{"c": b"3"}])
    found = layout_members((IMAGE, {REF_NAME: "a:1"}), (other, {REF_NAME: "b:1"}), (IMAGE, {REF_NAME: "a:2"}))
    with opener(found) as source:
        assert [image.names for image in source.images()] == [("a:1", "a:2"), ("b:1",)]
        with pytest.raises(NameNotFound, match="a:1, a:2, b:1"):
            source.resolve("c:1")
        with pytest.raises(NameNotFound, match=r"holds 2 images \(a:1, a:2, b:1\); say which"):
            source.resolve("")


def test_index_of_platforms(opener: Any) -> None:
    arm = make_image([{"a": b"arm"}], platform=Platform(os="linux", architecture="arm64"))
    index = make_index([IMAGE, arm])
    with opener(layout_members((index, {REF_NAME: "multi:1"}))) as source:
        ((_names, root),) = source.images()
        assert root.digest == index.descriptor.digest
        store = loaded(source, root)
        assert Image.load(store, root, Platform.parse("arm64")).config.raw == arm.config.raw


def test_manifest_named_in_the_index_but_absent(opener: Any) -> None:
    found = members()
    del found[MANIFEST]
    with pytest.raises(BlobNotFound, match=str(IMAGE.descriptor.digest)):
        opener(found)


def test_absent_layer_is_named(opener: Any) -> None:
    found = members()
    del found[LAYER]
    with opener(found) as source, pytest.raises(BlobNotFound, match=str(IMAGE.layers[0].descriptor.digest)):
        loaded(source, source.images()[0].root)


def test_changed_layer_is_refused(opener: Any) -> None:
    found = members()
    found[LAYER] = bytes([found[LAYER][0] ^ 1]) + found[LAYER][1:]
    with opener(found) as source, pytest.raises(DigestMismatch, match=str(IMAGE.layers[0].descriptor.digest)):
        loaded(source, source.images()[0].root)


@pytest.mark.parametrize("change", [-1, 1])
def test_manifest_that_lies_about_a_size(opener: Any, change: int) -> None:
    """Named with both sizes, before a byte of it moves."""
    line = IMAGE.manifest.config
    lying = Manifest.build(
        line.__class__(media_type=line.media_type, digest=line.digest, size=line.size + change),
        IMAGE.manifest.layers,
    )
    found = edited(digest=lying.descriptor.digest, size=lying.descriptor.size)
    found[f"blobs/sha256/{lying.descriptor.digest.encoded}"] = lying.raw
    with opener(found) as source, pytest.raises(SizeMismatch, match=f"{line.size + change} bytes.*{line.size} for it"):
        loaded(source, source.images()[0].root)


def test_stale_size_in_the_index_is_put_right(opener: Any) -> None:
    heard: list[Event] = []
    with opener(edited(size=1), report=heard.append) as source:
        ((_names, root),) = source.images()
        assert (root.digest, root.size) == (IMAGE.descriptor.digest, IMAGE.descriptor.size)
        loaded(source, root)
    assert [event.action for event in heard] == [Action.NOTE]


def test_manifest_edited_by_hand_goes_by_its_own_digest(opener: Any) -> None:
    """Size and digest both stale: somebody changed the file and not its name. It is loaded as what it is."""
    found = members()
    found[MANIFEST] = json.dumps(json.loads(found[MANIFEST]), indent=2).encode()
    heard: list[Event] = []
    with opener(found, report=heard.append) as source:
        ((names, root),) = source.images()
        assert names == ("docker.io/library/redis:7",)
        assert root.digest != IMAGE.descriptor.digest
        assert Image.load(loaded(source, root), root, None).config.raw == IMAGE.config.raw
    (event,) = heard
    assert str(IMAGE.descriptor.digest) in event.detail
    assert event.subject == root.digest


def test_damaged_manifest_is_refused(opener: Any) -> None:
    found = members()
    found[MANIFEST] = found[MANIFEST].replace(b"sha256:", b"sha257:", 1)
    with pytest.raises(DigestMismatch, match=str(IMAGE.descriptor.digest)):
        opener(found)


def test_cut_manifest_is_refused(opener: Any) -> None:
    found = members()
    found[MANIFEST] = found[MANIFEST][:-9]
    with pytest.raises(InvalidManifest):
        opener(found)


def test_what_is_not_an_image_is_left_out_aloud(opener: Any) -> None:
    heard: list[Event] = []
    with opener(edited(mediaType="application/vnd.oci.image.layer.v1.tar"), report=heard.append) as source:
        assert source.images() == ()
    assert "not an image" in heard[0].detail


@pytest.mark.parametrize(("index", "kind"), [
    (b"null", InvalidManifest),
    (b"[]", InvalidManifest),
    (b"{}", InvalidManifest),
    (b'{"schemaVersion": 2, "manifests": 7}', InvalidManifest),
    (b'{"schemaVersion": 2, "manifests": [null]}', InvalidInput),
    (b'{"schemaVersion": 2, "manifests": [{"mediaType": "a/b", "size": 1, "digest": "sha256:../../etc/passwd"}]}',
     InvalidDigest),
    (b'{"schemaVersion": 2, "manifests": [{"mediaType": "a/b", "size": -1, "digest": null}]}', InvalidInput),
    (b" " * (MAX_DOCUMENT + 1), InvalidManifest),
])
def test_malformed_index(opener: Any, index: bytes, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        opener(members() | {"index.json": index})


def test_empty_layout(opener: Any) -> None:
    with opener(members() | {"index.json": b'{"schemaVersion": 2, "manifests": null}'}) as source:
        assert source.images() == ()


def test_both_forms_in_one_archive_keep_the_manifest(tmp_path: Path) -> None:
    """Docker >= 25 writes both; the layout is read, because only it holds the manifest."""
    config = f"blobs/sha256/{IMAGE.config.digest.encoded}"
    layers = [f"blobs/sha256/{layer.descriptor.digest.encoded}" for layer in IMAGE.layers]
    table = documents({"Config": config, "RepoTags": ["redis:7"], "Layers": layers})
    found = members()
    with opened(tar(*found.items(), table), tmp_path) as source:
        assert source.images()[0].root.digest == IMAGE.descriptor.digest
    del found[MANIFEST]
    with opened(tar(*found.items(), table), tmp_path) as source:
        ((names, root),) = source.images()
        assert names == ("redis:7",)
        assert Image.load(loaded(source, root), root, None).config.raw == IMAGE.config.raw


def test_docker_archive_unpacked_into_a_directory(tmp_path: Path) -> None:
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "-x", "-C", tmp_path / "unpacked"], input=docker_archive(IMAGE), check=True)
    with ArchiveSource(tmp_path / "unpacked", scratch=tmp_path) as source:
        ((names, root),) = source.images()
        assert names == ("redis:7",)
        loaded(source, root)


# -- only a directory has these


def test_blobs_may_be_links_inside_the_layout(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", members())
    os.rename(layout / LAYER, layout / "rootfs.tar.gz")
    os.symlink("../../rootfs.tar.gz", layout / LAYER)
    with ArchiveSource(layout, scratch=tmp_path) as source:
        loaded(source, source.images()[0].root)


def test_links_written_as_files(tmp_path: Path) -> None:
    """git with core.symlinks=false leaves the text of each link as a file."""
    layout = write_layout(tmp_path / "layout", members())
    for name, path in (("rootfs.tar.gz", LAYER), ("manifest", MANIFEST)):
        os.rename(layout / path, layout / name)
        (layout / path).write_text(f"../../{name}")
    with ArchiveSource(layout, scratch=tmp_path) as source:
        loaded(source, source.images()[0].root)


@pytest.mark.parametrize("as_file", [True, False])
def test_links_out_of_the_layout_are_refused(tmp_path: Path, as_file: bool) -> None:
    layout = write_layout(tmp_path / "layout", members())
    os.rename(layout / LAYER, tmp_path / "secret")
    if as_file:
        (layout / LAYER).write_text("../../../secret")
    else:
        os.symlink(tmp_path / "secret", layout / LAYER)
    with (
        ArchiveSource(layout, scratch=tmp_path) as source,
        pytest.raises(PathEscapes, match=IMAGE.layers[0].descriptor.digest.encoded),
    ):
        loaded(source, source.images()[0].root)


def test_pipe_where_a_blob_should_be(tmp_path: Path) -> None:
    """Opened for reading it would block for ever."""
    layout = write_layout(tmp_path / "layout", members())
    (layout / LAYER).unlink()
    os.mkfifo(layout / LAYER)
    with ArchiveSource(layout, scratch=tmp_path) as source, pytest.raises(InvalidArchive, match="expected a file"):
        loaded(source, source.images()[0].root)


def test_link_loop(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", members())
    (layout / LAYER).unlink()
    os.symlink(Path(LAYER).name, layout / LAYER)
    with ArchiveSource(layout, scratch=tmp_path) as source, pytest.raises(InvalidArchive, match="leads nowhere"):
        loaded(source, source.images()[0].root)


def test_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidArchive, match="not an image archive"):
        ArchiveSource(tmp_path / "empty", scratch=tmp_path)
