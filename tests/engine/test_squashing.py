"""Squash from anywhere to anywhere: what is in the result, what its documents say, what it costs."""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import oracle
from tests.engine.conftest import Registry

from lamina.archive import ArchiveSource
from lamina.archive.directory import LayoutDirectory
from lamina.content.ingest import LocalIngest
from lamina.engine.bases import NotABase
from lamina.engine.engine import Engine
from lamina.engine.lookup import ImageNotFound
from lamina.engine.merging import NoSuchLayer, SquashOptions
from lamina.engine.removed import discard
from lamina.engine.squashing import Squashed
from lamina.errors import InvalidInput, LaminaError
from lamina.image import Image, PlatformNotFound
from lamina.layer.compress import Compression
from lamina.oci.config import ImageConfig
from lamina.oci.descriptor import (
    DOCKER_LAYER,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    Platform,
)
from lamina.oci.digest import Digest
from lamina.oci.manifest import Index, Manifest, dump_document
from lamina.squashed import InvalidPattern
from lamina.testing.images import (
    MadeImage,
    directory,
    file,
    make_image,
    make_index,
    make_layer,
    whiteout,
)

SECRET = b"correct horse battery staple"
BASE = make_layer([directory("etc"), file("etc/motd", b"base"), file("etc/old", b"old")], created_by="ADD base.tar /")
KEY = make_layer([directory("root"), file("root/token", SECRET)], created_by="COPY token /root/")
BUILD = make_layer([directory("app"), file("app/bin", b"binary" * 1000)], created_by="RUN make")
CLEAN = make_layer([whiteout("root/token"), whiteout("etc/old")], created_by="RUN rm /root/token /etc/old")
APP = make_image([BASE, KEY, BUILD, CLEAN], execution={"Env": ["PATH=/bin", "TOKEN=hunter2"], "Labels": {"a": "hunter2"}})
PLAIN_BASE = make_image([BASE])
NOW = "2025-06-01T00:00:00Z"
DRY = SquashOptions(is_dry=True)


def named(made: MadeImage, engine: Engine, name: str) -> None:
    made.put(engine.store, f"docker.io/library/{name}")


def union(engine: Engine, name: str) -> dict[str, dict[str, Any]]:
    out = io.BytesIO()
    engine.export(name, out)
    return {path: node.values() for path, node in oracle.union([out.getvalue()]).items()}


def squash(engine: Engine, name: str, target: str = "", **options: Any) -> Squashed:
    return engine.squash(name, target, options=SquashOptions(**options))


@pytest.fixture
def app(engine: Engine) -> str:
    named(PLAIN_BASE, engine, "base:1")
    named(APP, engine, "app:1")
    return "app:1"


def disk(engine: Engine) -> list[str]:
    return sorted(str(path.relative_to(engine.root)) for path in engine.root.rglob("*")
                  if path.is_file() and not path.name.startswith(("state.sqlite", "index.lock", "driver")))


def every_byte(engine: Engine, name: str) -> bytes:
    image = engine.image(name)
    blobs = [image.manifest.raw, image.config.raw]
    for layer in image.layers:
        with engine.store.open(layer.descriptor) as blob:
            blobs.append(blob.read())
    return b"".join(blobs)


# -- what is merged


def test_everything_above_the_base_that_is_here(engine: Engine, app: str) -> None:
    done = squash(engine, app, "app:squashed")
    (result,) = done.images
    assert (result.ranges, result.layers_before, result.layers_after) == (((1, 3),), 4, 2)
    assert result.base.found == "base:1, the longest here"
    image = engine.image("app:squashed")
    assert image.config.diff_ids[0] == BASE.diff_id
    assert union(engine, "app:squashed") == union(engine, app)
    assert SECRET not in every_byte(engine, "app:squashed")
    assert [row.path for row in engine.ls("app:squashed", layer=1, recursive=True)] == [
        "app", "app/bin", "etc", "etc/.wh.old", "root"]
    assert list(engine.check()) == []
    assert engine.image(app).config.raw == APP.config.raw, "the image itself never changes"


def test_history_is_dockers_and_pairs_with_layers(engine: Engine, app: str) -> None:
    squash(engine, app, "app:squashed", created=NOW)
    document = engine.image("app:squashed").config.document
    assert [bool(line.get("empty_layer")) for line in document["history"]] == [False, True, True, True, False]
    assert [line.get("created_by") for line in document["history"][:4]] == [
        "ADD base.tar /", "COPY token /root/", "RUN make", "RUN rm /root/token /etc/old"]
    assert document["history"][-1] == {
        "created": NOW, "comment": f"merge {APP.config.digest} to {PLAIN_BASE.config.digest}"}
    assert document["created"] == NOW
    assert {name: document[name] for name in ("config", "architecture", "os")} == {
        name: APP.config.document[name] for name in ("config", "architecture", "os")}
    assert [layer.instruction for layer in engine.layers("app:squashed")] == [
        "ADD base.tar /", f"merge {APP.config.digest} to {PLAIN_BASE.config.digest}"]


def test_all(engine: Engine, app: str) -> None:
    done = squash(engine, app, "app:flat", is_all=True)
    (result,) = done.images
    assert (result.ranges, result.layers_after) == (((0, 3),), 1)
    image = engine.image("app:flat")
    assert image.config.history[-1].comment == f"create new from {APP.config.digest}"
    assert union(engine, "app:flat") == union(engine, app)
    assert not [row.path for row in engine.ls("app:flat", layer=0, recursive=True) if ".wh." in row.path]


def test_the_same_input_gives_the_same_image(open_engine: Callable[..., Engine]) -> None:
    ids = set()
    for number in range(2):
        engine = open_engine(f"root-{number}")
        named(PLAIN_BASE, engine, "base:1")
        named(APP, engine, "app:1")
        done = squash(engine, "app:1", created=NOW)
        ids.add((done.digest, done.images[0].image_id))
    assert len(ids) == 1


def test_a_range_in_the_middle(engine: Engine, app: str) -> None:
    done = squash(engine, app, "app:mid", first="1", last="2")
    (result,) = done.images
    assert (result.ranges, result.layers_after) == (((1, 2),), 3)
    image = engine.image("app:mid")
    assert [layer.instruction for layer in engine.layers("app:mid")] == [
        "ADD base.tar /", f"merge {APP.config.digest} to {PLAIN_BASE.config.digest}", "RUN rm /root/token /etc/old"]
    assert image.config.diff_ids[2] == CLEAN.diff_id
    assert union(engine, "app:mid") == union(engine, app)


@pytest.mark.parametrize(("options", "expected"), [
    ({"count": 2}, (2, 3)), ({"count": 4}, (0, 3)), ({"first": "2"}, (2, 3)), ({"count": 2, "last": "2"}, (1, 2)),
    ({"first": str(BUILD.diff_id)}, (2, 3)), ({"first": KEY.descriptor.digest.encoded[:12]}, (1, 3)),
    ({"base": "base:1"}, (1, 3)), ({"is_all": True}, (0, 3)), ({}, (1, 3)),
])
def test_ranges(engine: Engine, app: str, options: Mapping[str, Any], expected: tuple[int, int]) -> None:
    (result,) = squash(engine, app, **options, is_dry=True).images
    assert result.ranges == (expected,)


@pytest.mark.parametrize(("options", "message"), [
    ({"count": 5}, "-n 5: the image has 4 layers"), ({"first": "4"}, "--from 4: no such layer"),
    ({"first": "beef" * 4}, "no such layer"), ({"first": "3", "last": "1"}, "lies above"),
    ({"first": "-1"}, "no such layer"),
])
def test_no_such_range(engine: Engine, app: str, options: Mapping[str, Any], message: str) -> None:
    before = disk(engine)
    with pytest.raises(NoSuchLayer, match=message):
        squash(engine, app, **options)
    assert disk(engine) == before


def test_several_ranges_at_once(engine: Engine) -> None:
    made = make_image([BASE, KEY, BUILD, CLEAN, make_layer([file("x")]), make_layer([file("y")])])
    named(made, engine, "app:1")
    (result,) = squash(engine, "app:1", "app:2", ranges=((4, 5), (1, 3))).images
    assert (result.ranges, result.layers_after) == (((4, 5), (1, 3)), 3)
    image = engine.image("app:2")
    comments = [line.comment for line in image.config.history if not line.empty_layer]
    chains = made.config.chain_ids
    assert comments == ["", f"merge {made.config.digest} to {chains[0]}", f"merge {made.config.digest} to {chains[3]}"]
    assert union(engine, "app:2") == union(engine, "app:1")
    assert result.size_after == sum(row.size for row in engine.layers("app:2"))


def test_a_base_that_is_none(engine: Engine, app: str) -> None:
    named(make_image([BUILD, KEY]), engine, "other:1")
    with pytest.raises(NotABase, match="not a base of this image: their layers differ from layer 0 on"):
        squash(engine, app, base="other:1")
    with pytest.raises(ImageNotFound):
        squash(engine, app, base="missing:1")


def test_the_base_that_annotations_name(engine: Engine) -> None:
    longer = make_image([BASE, KEY])
    base = make_image([BASE])
    named(base, engine, "base:1")
    named(longer, engine, "longer:1")
    annotated = make_image([BASE, KEY, BUILD, CLEAN], annotations={
        "org.opencontainers.image.base.digest": base.descriptor.digest, "org.opencontainers.image.base.name": "x"})
    named(annotated, engine, "app:1")
    done = squash(engine, "app:1", "app:2")
    assert done.images[0].base.found == "base:1, as its annotations say"
    annotations = engine.image("app:2").manifest.annotations
    assert annotations["org.opencontainers.image.base.name"] == "x"
    assert annotations["io.lamina.squash.source"] == annotated.manifest.descriptor.digest
    squash(engine, "app:1", "app:flat", is_all=True)
    assert "org.opencontainers.image.base.name" not in engine.image("app:flat").manifest.annotations


def test_the_base_by_name_in_annotations(engine: Engine) -> None:
    named(make_image([BASE]), engine, "base:1")
    named(make_image([BASE, KEY]), engine, "longer:1")
    named(make_image([BASE, KEY, BUILD], annotations={"org.opencontainers.image.base.name": "base:1"}), engine, "app:1")
    assert squash(engine, "app:1", is_dry=True).images[0].base.layers == 1


def test_without_a_known_base_everything_is_merged_and_it_says_so(engine: Engine) -> None:
    named(APP, engine, "app:1")
    (result,) = squash(engine, "app:1", "app:2").images
    assert result.ranges == ((0, 3),)
    assert result.base.found == "no base image is known here"


# -- nothing to do


@pytest.mark.parametrize("options", [{}, {"count": 1}, {"is_all": True}])
def test_squashing_twice_changes_nothing(engine: Engine, app: str, options: Mapping[str, Any]) -> None:
    squash(engine, app, "app:2", **({"is_all": True} if options.get("is_all") else {}))
    before = disk(engine)
    done = squash(engine, "app:2", "app:3", **options)
    (result,) = done.images
    assert (result.ranges, result.is_changed) == ((), False)
    assert engine.image("app:3").id == engine.image("app:2").id == result.image_id
    assert [path for path in disk(engine) if path not in before] == []


def test_a_range_that_changes_no_file(engine: Engine) -> None:
    named(make_image([BASE, KEY, make_layer([whiteout("root/token"), whiteout("root")])]), engine, "app:1")
    (result,) = squash(engine, "app:1", "app:2", first="1").images
    assert result.entries_after == 0
    assert engine.image("app:2").config.diff_ids[1] == Digest.of(bytes(1024))
    assert union(engine, "app:2") == union(engine, "app:1")


@pytest.mark.parametrize("options", [{}, {"is_all": True}])
def test_an_image_without_layers(engine: Engine, options: Mapping[str, Any]) -> None:
    named(make_image([]), engine, "nothing:1")
    assert not squash(engine, "nothing:1", "nothing:2", **options).images[0].is_changed


def test_a_base_without_layers_is_no_parent(engine: Engine) -> None:
    named(make_image([]), engine, "nothing:1")
    named(APP, engine, "app:1")
    squash(engine, "app:1", "app:2", base="nothing:1")
    assert engine.image("app:2").config.history[-1].comment == f"create new from {APP.config.digest}"


# -- bytes


@pytest.mark.parametrize(("compression", "media_type"), [
    ("none", OCI_LAYER), ("gzip", OCI_LAYER_GZIP), ("zstd", "application/vnd.oci.image.layer.v1.tar+zstd")])
def test_compression(engine: Engine, app: str, compression: str, media_type: str) -> None:
    squash(engine, app, "app:2", compression=compression)
    image = engine.image("app:2")
    assert image.layers[1].descriptor.media_type == media_type
    squash(engine, app, "app:3", compression="none")
    assert engine.image("app:3").config.diff_ids == image.config.diff_ids
    assert list(engine.check()) == []


def test_squashed_twice_the_bytes_are_on_disk_once(engine: Engine, app: str) -> None:
    for target in ("app:2", "app:3"):
        squash(engine, app, target)
        layer = engine.image(target).layers[1]
        assert os.path.samefile(engine.store.blob_path(layer.descriptor.digest), engine.layers_store.tar(layer.diff_id))


def test_a_damaged_layer_goes_under_both_of_its_names(engine: Engine, app: str) -> None:
    squash(engine, app, "app:2")
    layer = engine.image("app:2").layers[1]
    blob = engine.store.blob_path(layer.descriptor.digest)
    with open(blob, "r+b") as file:
        file.seek(600)
        file.write(b"damage")
    found = list(engine.check(repair=True))
    assert {str(finding.subject) for finding in found if finding.repaired} == {str(layer.descriptor.digest)}
    assert not blob.exists()
    assert not engine.layers_store.has_index(layer.diff_id)
    squash(engine, app, "app:2")
    assert list(engine.check()) == []


@pytest.mark.parametrize(("compression", "is_docker"), [("none", True), ("gzip", True), ("zstd", False)])
def test_docker_images_stay_docker_images_unless_they_cannot(engine: Engine, compression: str, is_docker: bool) -> None:
    named(make_image([BASE, KEY, BUILD], is_docker=True), engine, "app:1")
    squash(engine, "app:1", "app:2", compression=compression, first="1")
    manifest = engine.image("app:2").manifest
    assert (manifest.media_type != OCI_MANIFEST) is is_docker
    assert (manifest.layers[0].media_type.startswith("application/vnd.docker")) is is_docker
    assert (manifest.config.media_type.startswith("application/vnd.docker")) is is_docker
    if compression == "none":
        assert manifest.layers[1].media_type == DOCKER_LAYER


def test_layers_that_nobody_unpacked_yet(engine: Engine) -> None:
    """As after a push to `lamina serve`: the store has the blobs alone."""
    zstd = make_layer([file("z", b"z" * 5000)], compression=Compression.ZSTD)
    named(make_image([BASE, zstd, CLEAN]), engine, "app:1")
    squash(engine, "app:1", "app:2", is_all=True)
    assert union(engine, "app:2") == union(engine, "app:1")


# -- what it costs


def test_what_it_costs(engine: Engine, app: str) -> None:
    named(make_image([BASE, KEY, BUILD]), engine, "sister:1")
    (result,) = squash(engine, app, first="1", is_dry=True).images
    assert result.size_before == sum(len(layer.tar) for layer in APP.layers)
    assert result.shared_with[0].image == "sister:1"
    assert result.shared_with[0].layers == 2
    assert result.shared_size == result.shared_with[0].size == len(KEY.tar) + len(BUILD.tar)
    assert result.lost == ("COPY token /root/", "RUN make", "RUN rm /root/token /etc/old")
    (done,) = squash(engine, app, "app:2", first="1").images
    assert done.size_after == result.size_after == sum(row.size for row in engine.layers("app:2"))
    assert result.size_gone == result.size_before - result.size_after > 0


def test_a_dry_run_writes_nothing(engine: Engine, app: str) -> None:
    engine.layers(app)
    before = disk(engine)
    done = squash(engine, app, "app:2", is_dry=True)
    assert (done.digest, done.target, done.images[0].image_id) == (None, "", None)
    assert disk(engine) == before
    with pytest.raises(ImageNotFound):
        engine.image("app:2")


# -- redaction


def test_redaction_replaces_in_config_history_and_annotations(engine: Engine) -> None:
    made = make_image([BASE, replace(KEY, created_by="RUN login hunter2")], execution={
        "Env": ["TOKEN=hunter2", "PATH=/bin"], "Labels": {"hunter2": "yes"}, "Cmd": ["run", "hunter2-hunter2"]},
        annotations={"note": "hunter2"})
    named(made, engine, "app:1")
    (result,) = squash(engine, "app:1", "app:2", redact=("hunter[0-9]",), is_all=True).images
    assert {(found.field, found.count) for found in result.redactions} == {
        ("config.Env[0]", 1), ("config.Labels (a name)", 1), ("config.Cmd[1]", 2), ("history[1].created_by", 1),
        ("annotations.note", 1)}
    image = engine.image("app:2")
    assert b"hunter2" not in image.config.raw + image.manifest.raw
    assert image.config.execution["Env"] == ["TOKEN=[redacted]", "PATH=/bin"]
    assert union(engine, "app:2") == union(engine, "app:1")


def test_redaction_alone_is_a_reason(engine: Engine, app: str) -> None:
    squash(engine, app, "app:2")
    (result,) = squash(engine, "app:2", "app:3", redact=("hunter2",)).images
    assert (result.ranges, result.is_changed) == ((), True)
    assert engine.image("app:3").config.diff_ids == engine.image("app:2").config.diff_ids
    assert b"hunter2" not in engine.image("app:3").config.raw
    assert result.image_id == engine.image("app:3").id


def test_an_empty_match_replaces_nothing(engine: Engine, app: str) -> None:
    (result,) = squash(engine, app, "app:2", redact=(r"\b", r"(?=hunter)")).images
    assert result.redactions == ()
    assert engine.image("app:2").config.execution == APP.config.execution


def test_what_was_not_redacted_yet_is_not_stored(engine: Engine, app: str) -> None:
    """A config with the secret in it must not lie about as a blob that no image reaches."""
    engine.layers(app)
    before = {path for path in disk(engine) if path.startswith("blobs")}
    squash(engine, app, "app:2", redact=("hunter2",))
    made = {path for path in disk(engine) if path.startswith("blobs")} - before
    assert len(made) == 3, "layer, config, manifest"
    assert not [path for path in made if b"hunter2" in (engine.root / path).read_bytes()]


def test_embedded_copies_of_what_was_replaced_go(engine: Engine) -> None:
    """A descriptor may carry its content in `data` (image-spec descriptor.md): that of the old config or manifest."""
    made = make_image([BASE, KEY], execution={"Env": ["TOKEN=hunter2"]})
    data = base64.b64encode(made.config.raw).decode()
    document = json.loads(made.manifest.raw)
    document["config"]["data"] = data
    manifest = Manifest.parse(dump_document(document))
    made = replace(made, manifest=manifest)
    made.put(engine.store)
    line = {**manifest.descriptor.to_json(), "data": base64.b64encode(manifest.raw).decode(),
            "annotations": {"note": "hunter2"}}
    index = Index.parse(dump_document({
        "schemaVersion": 2, "manifests": [line], "annotations": {"more": "hunter2"}}))
    engine.store.put(index.descriptor, io.BytesIO(index.raw))
    engine.store.tag("docker.io/library/app:1", index.descriptor)
    squash(engine, "app:1", "app:2", is_all=True, redact=("hunter2",))
    assert b'"data"' not in engine.image("app:2").manifest.raw


def test_annotations_of_an_index_are_redacted_too(engine: Engine) -> None:
    index, _amd, _arm = multi()
    for image in index.images:
        image.put(engine.store)
    lines = [{**image.descriptor.to_json(), "data": "aHVudGVyMg==", "annotations": {"note": "hunter2"}} for image in index.images]
    noted = Index.parse(dump_document({"schemaVersion": 2, "manifests": lines, "annotations": {"more": "hunter2"}}))
    engine.store.put(noted.descriptor, io.BytesIO(noted.raw))
    engine.store.tag("docker.io/library/app:1", noted.descriptor)
    for options in ({"first": "1"}, {"first": "2"}):
        done = squash(engine, "app:1", "app:2", redact=("hunter2",), **options)
        assert done.digest is not None
        (raw,) = [engine.store.read_document(record.descriptor) for record in engine.store.catalog.records()
                  if "docker.io/library/app:2" in record.names]
        assert b"hunter2" not in raw
        assert b'"data"' not in raw


@pytest.mark.parametrize("pattern", ["(", "a*", ""])
def test_bad_patterns(engine: Engine, app: str, pattern: str) -> None:
    with pytest.raises(InvalidPattern):
        squash(engine, app, redact=(pattern,))


# -- from anywhere to anywhere


def test_from_a_registry_to_a_registry(engine: Engine, registry: Registry) -> None:
    APP.put(registry.repository("app"), "1")
    PLAIN_BASE.put(registry.repository("base"), "1")
    done = squash(engine, f"docker://{registry.host}/app:1", f"docker://{registry.host}/app:squashed",
                  base=f"docker://{registry.host}/base:1")
    repository = registry.repository("app")
    image = Image.load(repository, repository.resolve("squashed"), None)
    assert image.layers[0].diff_id == BASE.diff_id
    assert image.layers[0].descriptor == BASE.descriptor, "what came compressed goes as it came"
    assert image.layers[1].descriptor.media_type == OCI_LAYER_GZIP
    assert image.id == done.images[0].image_id
    assert engine.images() == ()
    squash(engine, f"docker://{registry.host}/app:1", "local:1", base=f"docker://{registry.host}/base:1")
    assert union(engine, "local:1")["app/bin"]["size"] == 6000


@pytest.mark.parametrize("source", ["docker-archive", "oci-archive"])
@pytest.mark.parametrize("target", ["docker-archive:{}/out.tar:app:2", "oci-archive:{}/out.tar:app:2", "oci:{}/out:app:2"])
def test_from_an_archive_to_a_file(engine: Engine, app: str, tmp_path: Path, source: str, target: str) -> None:
    with open(tmp_path / "in.tar", "wb") as out:
        engine.save([app], out, form=source)
    wanted = union(engine, app)
    engine.remove(app)
    before = disk(engine)
    squash(engine, f"{source}:{tmp_path}/in.tar", target.format(tmp_path))
    assert [path for path in disk(engine) if path not in before] == []
    path = tmp_path / ("out" if target.startswith("oci:") else "out.tar")
    with ArchiveSource(path, scratch=tmp_path) as archive:
        (made,) = archive.images()
        assert Image.load(archive, made.root, None).layers[0].diff_id == BASE.diff_id
    engine.load(path)
    assert union(engine, "app:2") == wanted
    assert SECRET not in every_byte(engine, "app:2")


def test_a_layout_takes_more_images(engine: Engine, app: str, tmp_path: Path) -> None:
    squash(engine, app, f"oci:{tmp_path}/layout:one", first="1")
    squash(engine, app, f"oci:{tmp_path}/layout:two", is_all=True)
    squash(engine, app, f"oci:{tmp_path}/layout:one", count=2)
    with ArchiveSource(tmp_path / "layout", scratch=tmp_path) as layout:
        assert len(Image.load(layout, layout.resolve("one"), None).layers) == 3
        assert len(Image.load(layout, layout.resolve("two"), None).layers) == 1
        assert len(layout.images()) == 2


@pytest.mark.parametrize("target", ["app@sha256:" + "0" * 64, "oci-archive:/", "oci:/dev/null", "docker://", "UPPER:1"])
def test_targets_that_cannot_be(engine: Engine, app: str, target: str) -> None:
    engine.layers(app)
    before = disk(engine)
    with pytest.raises(LaminaError):
        squash(engine, app, target)
    assert disk(engine) == before


def test_what_is_no_file_is_written_to_and_stays(engine: Engine, app: str, tmp_path: Path) -> None:
    """As `save -o` does it; a device that is replaced by a file is gone for everybody."""
    os.mkfifo(tmp_path / "pipe")
    with open(os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK), "rb") as reading:
        fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, 1 << 20)
        squash(engine, app, f"oci-archive:{tmp_path}/pipe:app:2")
        assert (tmp_path / "pipe").is_fifo()
        (tmp_path / "out.tar").write_bytes(reading.read())
    assert engine.load(tmp_path / "out.tar") == ("app:2",)
    (tmp_path / "link.tar").symlink_to("out.tar")
    squash(engine, app, f"oci-archive:{tmp_path}/link.tar:app:3")
    assert (tmp_path / "link.tar").is_symlink()
    assert engine.load(tmp_path / "out.tar") == ("app:3",)


def test_a_layout_that_somebody_began_to_make_is_finished(engine: Engine, app: str, tmp_path: Path) -> None:
    (tmp_path / "begun" / "blobs" / "sha256").mkdir(parents=True)
    (tmp_path / "begun" / ".index.json.0123").write_text("{")
    squash(engine, app, f"oci:{tmp_path}/begun:one")
    with ArchiveSource(tmp_path / "begun", scratch=tmp_path) as layout:
        assert len(layout.images()) == 1


def test_to_may_not_lie_in_the_base(engine: Engine, app: str) -> None:
    with pytest.raises(NoSuchLayer, match="lies in the base, whose 1 layers are kept"):
        squash(engine, app, last="0")


def test_times_are_not_redacted(engine: Engine, app: str) -> None:
    """A pattern may well match a year; engines refuse a history whose times are none."""
    (result,) = squash(engine, app, "app:2", redact=("20[0-9][0-9]",), created=NOW).images
    assert result.redactions == ()
    assert engine.image("app:2").config.history[-1].created == NOW


def test_a_directory_of_something_else_is_no_layout(engine: Engine, app: str, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(LaminaError, match="no OCI layout"):
        squash(engine, app, f"oci:{tmp_path}/full")
    with pytest.raises(LaminaError, match="state directory"):
        squash(engine, app, f"oci:{engine.root}")


def test_a_full_disk_is_told_of_the_file(engine: Engine, app: str) -> None:
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        squash(engine, app, "oci-archive:/dev/full")


# -- several platforms

ARM = Platform(os="linux", architecture="arm64")
ARM_KEY = make_layer([directory("root"), file("root/token", b"arm" + SECRET)])


def multi() -> tuple[Any, MadeImage, MadeImage]:
    amd, arm = make_image([BASE, KEY, CLEAN]), make_image([BASE, ARM_KEY, CLEAN], platform=ARM)
    return make_index([amd, arm]), amd, arm


def test_every_platform_of_a_registrys_index(engine: Engine, registry: Registry) -> None:
    index, _amd, _arm = multi()
    index.put(registry.repository("app"), "1")
    done = squash(engine, f"docker://{registry.host}/app:1", f"docker://{registry.host}/app:2", first="1")
    assert [result.platform for result in done.images] == ["linux/amd64", "linux/arm64"]
    repository = registry.repository("app")
    root = repository.resolve("2")
    for platform in (None, ARM):
        image = Image.load(repository, root, platform or Platform(os="linux", architecture="amd64"))
        assert len(image.layers) == 2
    assert engine.images() == ()
    squash(engine, f"docker://{registry.host}/app:1", "both:1", first="1")
    assert len(engine.images()) == 1, "platforms are reached through their index, and are no images of their own"
    assert len(engine.image("both:1").layers) == 2


def test_one_platform_of_an_index(engine: Engine, registry: Registry) -> None:
    index, _amd, _arm = multi()
    index.put(registry.repository("app"), "1")
    done = engine.squash(f"docker://{registry.host}/app:1", "arm:1", options=SquashOptions(first="1"), platform=ARM)
    assert [result.platform for result in done.images] == ["linux/arm64"]
    assert engine.image("arm:1").config.platform == ARM


def test_a_platform_that_the_image_is_not_for(engine: Engine) -> None:
    named(APP, engine, "app:1")
    with pytest.raises(PlatformNotFound, match="an image for linux/amd64, not for linux/arm64"):
        engine.squash("app:1", "app:2", options=SquashOptions(is_all=True), platform=ARM)
    assert len(engine.images()) == 1


def test_an_index_of_which_one_platform_was_pulled(engine: Engine, registry: Registry) -> None:
    index, amd, _arm = multi()
    index.put(registry.repository("app"), "1")
    engine.pull(f"{registry.host}/app:1")
    done = squash(engine, f"{registry.host}/app:1", "app:2", first="1")
    assert [result.source for result in done.images] == [amd.config.digest]
    assert done.notes == ("1 platform was left out: not here",)
    assert len(engine.image("app:2").layers) == 2


def test_attestations_are_left_out(engine: Engine) -> None:
    index, _amd, _arm = multi()
    statement = make_layer([file("statement")])
    attestation = make_image([statement], platform=Platform(os="unknown", architecture="unknown"))
    for image in index.images:
        image.put(engine.store)
    attestation.put(engine.store)
    both = Index.build([*(image.descriptor for image in index.images), attestation.descriptor])
    engine.store.put(both.descriptor, io.BytesIO(both.raw))
    engine.store.tag("docker.io/library/app:1", both.descriptor)
    done = squash(engine, "app:1", "app:2", first="1")
    assert done.notes == ("1 attestation was left out: what is attested is the image as it was",)
    assert done.digest is not None
    root = next(record.descriptor for record in engine.store.catalog.records() if "docker.io/library/app:2" in record.names)
    assert len(Index.parse(engine.store.read_document(root), root.media_type).manifests) == 2


def test_a_layout_of_which_no_image_is_there(engine: Engine, tmp_path: Path) -> None:
    index, _amd, _arm = multi()
    layout = LayoutDirectory.create(tmp_path / "layout")
    layout.put(index.descriptor, io.BytesIO(index.index.raw))
    layout.tag("app", index.descriptor)
    with pytest.raises(LaminaError, match="none of"):
        squash(engine, f"oci:{tmp_path}/layout:app", "app:2")
    assert engine.images() == ()


# -- when it fails


def test_what_another_process_takes_back_meanwhile_stays(
    engine: Engine, open_engine: Callable[..., Engine], app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two squashes of one image make the same blobs; one that fails removes its own, never the other's."""
    commit = LocalIngest.commit
    other = open_engine()

    def commit_and_meet(self: LocalIngest, *arguments: Any) -> Descriptor:
        made = commit(self, *arguments)
        discard(other, [made.digest], [])
        return made

    monkeypatch.setattr(LocalIngest, "commit", commit_and_meet)
    squash(engine, app, "app:2", redact=("hunter2",))
    assert list(engine.check()) == []


def test_a_damaged_layer_leaves_the_store_as_it_was(engine: Engine, app: str) -> None:
    engine.layers(app)
    tar = engine.layers_store.tar(BUILD.diff_id)
    tar.unlink()
    with open(engine.store.blob_path(BUILD.descriptor.digest), "r+b") as blob:
        blob.truncate(100)
    before = disk(engine)
    with pytest.raises(InvalidInput, match="cut off"):
        squash(engine, app, "app:2", first="1")
    assert disk(engine) == before
    with pytest.raises(ImageNotFound):
        engine.image("app:2")


def test_history_that_is_silent_or_longer(engine: Engine) -> None:
    """Nothing binds history to layers but its count; what is added must still belong to the merged layer."""
    for number, history in enumerate((None, [], [{"created_by": "one"}], [{"created_by": str(n)} for n in range(9)])):
        document = {**APP.config.document, "history": history}
        config = ImageConfig.parse(dump_document(document))
        described = Descriptor(media_type=APP.manifest.config.media_type, digest=config.digest, size=len(config.raw))
        manifest = Manifest.build(described, [layer.descriptor for layer in APP.layers])
        for layer in APP.layers:
            engine.store.put(layer.descriptor, io.BytesIO(layer.blob))
        engine.store.put(described, io.BytesIO(config.raw))
        engine.store.put(manifest.descriptor, io.BytesIO(manifest.raw))
        engine.store.tag(f"docker.io/library/app:{number}", manifest.descriptor)
        squash(engine, f"app:{number}", "out:1", first="2")
        lines = engine.image("out:1").config.layer_history()
        assert lines[2] is not None
        assert lines[2].comment.startswith("merge sha256:"), number
        json.dumps(engine.inspect("out:1"))


def test_another_image_without_its_config_is_in_nobodys_way(engine: Engine, app: str) -> None:
    other = make_image([make_layer([file("other", b"4")])])
    named(other, engine, "other:1")
    engine.store.blob_path(other.manifest.config.digest).unlink()
    assert engine.layers(app)[0].shared_with[-1] == "base:1"
    assert squash(engine, app).images[0].shared_with == ()
