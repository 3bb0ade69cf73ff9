"""Reading what ``docker save`` and its imitators write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.archive.saved import docker_archive, documents, hardlink, loaded, opened, symlink, tar

from lamina.archive.docker import LegacyArchive
from lamina.archive.members import InvalidArchive
from lamina.content.store import BlobNotFound, DigestMismatch, NameNotFound
from lamina.errors import LaminaError
from lamina.image import Image, LayerCountMismatch
from lamina.layer.compress import Compression
from lamina.layer.entry import PathEscapes
from lamina.oci.config import InvalidConfig
from lamina.oci.descriptor import DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST, OCI_LAYER, OCI_LAYER_GZIP
from lamina.oci.manifest import MAX_DOCUMENT, InvalidManifest
from lamina.testing.images import MadeImage, compressed, make_image, make_layer

IMAGE = make_image([{"a": b"one"}, {"b": b"two" * 1000}], execution={"Cmd": ["/a"]})
CONFIG = (f"{IMAGE.config.digest.encoded}.json", IMAGE.config.raw)
ONE, TWO = IMAGE.layers


def item(layers: list[str], config: str = CONFIG[0], names: Any = ("redis:7",)) -> dict[str, Any]:
    return {"Config": config, "RepoTags": names, "Layers": layers}


def only_image(data: bytes, tmp_path: Path) -> Image:
    """Loaded and verified to its last byte."""
    with opened(data, tmp_path) as source:
        ((_names, root),) = source.images()
        store = loaded(source, root)
    return Image.load(store, root, None)


def same_image(found: Image, made: MadeImage) -> bool:
    return (found.config.raw, [layer.diff_id for layer in found.layers]) == (
        made.config.raw, [layer.diff_id for layer in made.layers])


def test_layers_are_named_by_their_diff_ids(tmp_path: Path) -> None:
    image = only_image(docker_archive(IMAGE), tmp_path)
    assert same_image(image, IMAGE)
    assert [layer.descriptor.digest for layer in image.layers] == [ONE.diff_id, TWO.diff_id]
    assert {layer.descriptor.media_type for layer in image.layers} == {OCI_LAYER}


def test_same_archive_gives_same_manifest(tmp_path: Path) -> None:
    digests = set()
    for extra in ((), (("VERSION", b"1.0"),)):
        with opened(docker_archive(IMAGE, ("a/b:1",), *extra), tmp_path) as source:
            digests.add(source.images()[0].root.digest)
    assert len(digests) == 1


def test_names_are_kept_in_order_and_resolve(tmp_path: Path) -> None:
    with opened(docker_archive(IMAGE, ("redis:7", "localhost:5000/me/redis:latest")), tmp_path) as source:
        (image,) = source.images()
        assert image.names == ("redis:7", "localhost:5000/me/redis:latest")
        assert source.resolve("redis:7") == source.resolve("") == image.root
        with pytest.raises(NameNotFound, match="redis:7"):
            source.resolve("redis:8")


def test_image_without_names(tmp_path: Path) -> None:
    with opened(docker_archive(IMAGE, None), tmp_path) as source:
        assert source.images()[0].names == ()


def test_what_is_no_reference_is_no_name(tmp_path: Path) -> None:
    with opened(docker_archive(IMAGE, ("has/UPPER/case:1", "ok:1", "<none>:<none>")), tmp_path) as source:
        assert source.images()[0].names == ("ok:1",)


def test_old_names_come_from_the_repositories_file(tmp_path: Path) -> None:
    top = f"{1:064x}"
    repositories = ("repositories", json.dumps({"redis": {"7": top, "old": "f" * 64}}).encode())
    with opened(docker_archive(IMAGE, None, repositories), tmp_path) as source:
        assert source.images()[0].names == ("redis:7",)
    with opened(docker_archive(IMAGE, ("new:1",), repositories), tmp_path) as source:
        assert source.images()[0].names == ("new:1",)


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_layers_compressed_one_by_one(tmp_path: Path, compression: Compression) -> None:
    packed = compressed(ONE.tar, compression)
    data = tar(CONFIG, ("1.tar.gz", packed), ("2.tar", TWO.tar), documents(item(["1.tar.gz", "2.tar"])))
    image = only_image(data, tmp_path)
    assert same_image(image, IMAGE)
    assert image.layers[0].descriptor.size == len(packed)
    assert image.layers[0].descriptor.media_type == f"{OCI_LAYER}+{compression}"
    assert image.layers[1].descriptor.media_type == OCI_LAYER


@pytest.mark.parametrize("linked", [
    symlink("two/layer.tar", "../one/layer.tar"),
    symlink("two/layer.tar", "/one/layer.tar"),
    hardlink("two/layer.tar", "one/layer.tar"),
])
def test_repeated_layer_as_a_link(tmp_path: Path, linked: Any) -> None:
    twice = make_image([ONE, ONE])
    config = ("config", twice.config.raw)
    data = tar(config, ("one/layer.tar", ONE.tar), linked,
               documents(item(["one/layer.tar", "two/layer.tar"], config="config")))
    assert same_image(only_image(data, tmp_path), twice)


def test_links_are_followed_only_so_far(tmp_path: Path) -> None:
    links = [symlink(f"l{number}", f"l{number + 1}") for number in range(20)]
    data = tar(CONFIG, *links, ("l20", ONE.tar), documents(item(["l0", "l0"])))
    with pytest.raises(InvalidArchive, match="links"):
        opened(data, tmp_path)


@pytest.mark.parametrize("target", ["../../etc/passwd", "../x/../../y"])
def test_link_out_of_the_archive_is_refused(tmp_path: Path, target: str) -> None:
    data = tar(CONFIG, symlink("l", target), documents(item(["l", "l"])))
    with pytest.raises(PathEscapes):
        opened(data, tmp_path)


def test_link_to_itself_is_refused(tmp_path: Path) -> None:
    data = tar(CONFIG, symlink("l", "l"), documents(item(["l", "l"])))
    with pytest.raises(InvalidArchive, match="links"):
        opened(data, tmp_path)


def test_member_that_escapes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PathEscapes):
        opened(docker_archive(IMAGE, ("a:1",), ("../../etc/cron.d/x", b"x")), tmp_path)


def test_listed_paths_may_not_escape(tmp_path: Path) -> None:
    data = tar(CONFIG, documents(item(["../../../etc/passwd", "/etc/passwd"])))
    with pytest.raises(PathEscapes):
        opened(data, tmp_path)


def test_directory_where_a_layer_should_be(tmp_path: Path) -> None:
    data = tar(CONFIG, ("d/x", b""), documents(item(["/dev/null", "d"])))
    with pytest.raises(BlobNotFound, match="/dev/null"):
        opened(data, tmp_path)


def test_several_images_share_layers(tmp_path: Path) -> None:
    other = make_image([ONE, {"c": b"three"}])
    data = tar(
        CONFIG, ("other.json", other.config.raw), ("1", ONE.tar), ("2", TWO.tar), ("3", other.layers[1].tar),
        documents(item(["1", "2"]), item(["1", "3"], config="other.json", names=["other:1"])),
    )
    with opened(data, tmp_path) as source:
        first, second = source.images()
        assert (first.names, second.names) == (("redis:7",), ("other:1",))
        store = loaded(source, first.root)
        assert same_image(Image.load(loaded(source, second.root), second.root, None), other)
        assert Image.load(store, first.root, None).layers[0].descriptor.digest == ONE.diff_id


def test_docker_media_types_where_only_docker_has_the_field(tmp_path: Path) -> None:
    made = make_image([ONE], execution={"Healthcheck": {"Test": ["CMD", "true"]}})
    image = only_image(docker_archive(made), tmp_path)
    assert image.manifest.media_type == DOCKER_MANIFEST
    assert image.manifest.config.media_type == DOCKER_CONFIG
    assert image.layers[0].descriptor.media_type == DOCKER_LAYER


def test_wrong_diff_id_is_found_when_the_layer_is_read(tmp_path: Path) -> None:
    data = tar(CONFIG, ("1", ONE.tar), ("2", ONE.tar), documents(item(["1", "2"])))
    with opened(data, tmp_path) as source, pytest.raises(DigestMismatch, match=TWO.diff_id):
        loaded(source, source.images()[0].root)


def test_image_without_layers(tmp_path: Path) -> None:
    empty = make_image([])
    data = tar(("c", empty.config.raw), documents({"Config": "c", "RepoTags": None, "Layers": None}))
    assert only_image(data, tmp_path).layers == ()


@pytest.mark.parametrize(("manifest", "kind", "said"), [
    (b"null", InvalidArchive, "list"),
    (b"[]", InvalidArchive, "list"),
    (b"{}", InvalidArchive, "list"),
    (b"[null]", InvalidArchive, "object"),
    (b"[[", InvalidArchive, "not JSON"),
    (b"[" * 100_000, InvalidArchive, "not JSON"),
    (b'[{"Config": null, "Layers": []}]', InvalidArchive, "Config"),
    (b'[{"Config": 7, "Layers": []}]', InvalidArchive, "Config"),
    (b'[{"Config": "nowhere", "Layers": []}]', BlobNotFound, "nowhere"),
    (b'[{"Config": "c", "Layers": null}]', LayerCountMismatch, "2 layers"),
    (b'[{"Config": "c", "Layers": ["1"]}]', LayerCountMismatch, "lists 1"),
    (b'[{"Config": "c", "Layers": ["1", "nowhere"]}]', BlobNotFound, "nowhere"),
    (b'[{"Config": "c", "Layers": ["1", null]}]', InvalidArchive, "Layers"),
    (b'[{"Config": "c", "Layers": "12"}]', InvalidArchive, "Layers"),
    (b'[{"Config": "c", "RepoTags": "a:1", "Layers": ["1", "1"]}]', InvalidArchive, "RepoTags"),
    (b'[{"Config": "no-rootfs", "Layers": []}]', InvalidConfig, "rootfs"),
    (b'[{"Config": "null", "Layers": []}]', InvalidManifest, "object"),
])
def test_malformed_documents(tmp_path: Path, manifest: bytes, kind: type[LaminaError], said: str) -> None:
    data = tar(("c", IMAGE.config.raw), ("1", ONE.tar), ("no-rootfs", b"{}"), ("null", b"null"),
               ("manifest.json", manifest))
    with pytest.raises(kind, match=said):
        opened(data, tmp_path)


def test_huge_document_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="limit"):
        opened(tar(("manifest.json", b" " * (MAX_DOCUMENT + 1))), tmp_path)
    huge = ("c", b" " * (MAX_DOCUMENT + 1))
    with pytest.raises(InvalidManifest, match="limit"):
        opened(tar(huge, documents(item([], config="c"))), tmp_path)


def test_document_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    other = documents(item([], config="other"))
    with pytest.raises(InvalidArchive, match="more than once"):
        opened(docker_archive(IMAGE, ("a:1",), other), tmp_path)


def test_archive_from_before_manifests(tmp_path: Path) -> None:
    data = tar(("repositories", b'{"redis": {"7": "abc"}}'), ("abc/layer.tar", ONE.tar))
    with pytest.raises(LegacyArchive, match=r"1\.10"):
        opened(data, tmp_path)


def test_gzip_members_keep_their_media_type_when_shared(tmp_path: Path) -> None:
    """The same bytes under two paths are described once, however they are reached."""
    packed = make_layer({"a": b"one"}).blob
    twice = make_image([ONE, ONE])
    data = tar(("c", twice.config.raw), ("1", packed), symlink("2", "1"), documents(item(["1", "2"], config="c")))
    image = only_image(data, tmp_path)
    assert [layer.descriptor.media_type for layer in image.layers] == [OCI_LAYER_GZIP] * 2
    assert len({layer.descriptor.digest for layer in image.layers}) == 1
