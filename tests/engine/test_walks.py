"""The engine's verbs end to end, against a registry on a real socket, without root."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.engine.conftest import Registry

from lamina.content.lease import Lease, live_content
from lamina.engine import housekeeping, leftovers
from lamina.engine.engine import Engine
from lamina.engine.housekeeping import ImageInUse
from lamina.engine.landing import unpack_present
from lamina.engine.lookup import ImageNotFound
from lamina.engine.removed import Removal
from lamina.engine.serving import BlobInUse, StoreProvider
from lamina.errors import InvalidInput, NotFound
from lamina.events import Action, Event
from lamina.image import PlatformNotFound
from lamina.layer.compress import Compression
from lamina.oci.config import ImageConfig
from lamina.oci.descriptor import OCI_CONFIG, OCI_MANIFEST, Descriptor, Platform
from lamina.oci.digest import Digest
from lamina.oci.manifest import Index, Manifest
from lamina.testing.images import (
    directory,
    file,
    hardlink,
    make_image,
    make_index,
    make_layer,
    symlink,
    whiteout,
)

BASE = make_layer([directory("etc"), file("etc/motd", b"base"), file("etc/old", b"old stuff"),
                   directory("bin"), file("bin/sh", b"#!" * 2000, mode=0o755)])
TOP = make_layer([directory("etc"), file("etc/motd", b"newer"), whiteout("etc/old"),
                  symlink("etc/link", "motd"), hardlink("etc/again", "etc/motd")])
OTHER = make_layer([directory("srv"), file("srv/data", bytes(100_000))], compression=Compression.ZSTD)
APP = make_image([BASE, TOP])
SISTER = make_image([BASE, OTHER])


def words(events: list[Event], subject: str) -> list[Action]:
    found: list[Action] = []
    for event in events:
        if event.subject == subject and event.action not in found:
            found.append(event.action)
    return found


def disk(engine: Engine) -> list[str]:
    return sorted(
        str(path.relative_to(engine.root)) for path in engine.root.rglob("*")
        if not path.name.startswith(("state.sqlite", "index.lock", "driver"))
    )


def test_pull_stores_every_byte_and_says_what_happens(
    engine: Engine, registry: Registry, events: list[Event]
) -> None:
    root = APP.put(registry.repository("app"), "1")
    (pulled,) = engine.pull(f"{registry.host}/app:1")
    assert (pulled.digest, pulled.is_new) == (root.digest, True)
    assert pulled.image_id == APP.config.digest
    assert engine.store.read_document(root) == APP.manifest.raw
    for layer in APP.layers:
        with engine.store.open(layer.descriptor) as blob:
            assert blob.read() == layer.blob
        said = words(events, layer.descriptor.digest)
        assert said[0] is Action.PULLING_LAYER
        assert Action.DOWNLOADED in said
        assert said[-1] is Action.PULLED


def test_a_second_pull_moves_nothing(engine: Engine, registry: Registry, events: list[Event]) -> None:
    APP.put(registry.repository("app"), "1")
    engine.pull(f"{registry.host}/app:1")
    events.clear()
    registry.requests.clear()
    (pulled,) = engine.pull(f"{registry.host}/app:1")
    assert not pulled.is_new
    assert [method for method, url in registry.requests if "/blobs/" in url and method == "GET"] == []
    assert [words(events, layer.descriptor.digest) for layer in APP.layers] == [[Action.EXISTS]] * 2


def test_a_shared_base_is_stored_once(engine: Engine, registry: Registry, events: list[Event]) -> None:
    for name, image in (("app", APP), ("sister", SISTER)):
        image.put(registry.repository(name), "1")
    engine.pull(f"{registry.host}/app:1")
    before = engine.usage()[0].size
    events.clear()
    engine.pull(f"{registry.host}/sister:1")
    assert words(events, BASE.descriptor.digest) == [Action.EXISTS]
    rows = {row.repository: row for row in engine.image_usage()}
    for row in rows.values():
        assert row.size == row.shared + row.unique
        assert row.shared > 0 < row.unique
    assert engine.usage()[0].size < before + rows[f"{registry.host}/sister"].size
    layers = engine.layers(f"{registry.host}/app:1")
    assert layers[0].shared_with == (f"{registry.host}/sister:1",)
    assert layers[1].shared_with == ()


def test_inspect_lists_diff_ids_and_links_them_to_what_pull_printed(engine: Engine, registry: Registry) -> None:
    root = APP.put(registry.repository("app"), "1")
    engine.pull(f"{registry.host}/app:1")
    document = engine.inspect(f"{registry.host}/app:1")
    assert document["RootFS"]["Layers"] == [layer.diff_id for layer in APP.layers]
    assert [line["Digest"] for line in document["Layers"]] == [layer.descriptor.digest for layer in APP.layers]
    assert document["RepoTags"] == [f"{registry.host}/app:1"]
    assert document["RepoDigests"] == [f"{registry.host}/app@{root.digest}"]
    assert document["Size"] == sum(len(text) for text in (b"base", b"old stuff", b"newer")) + 4000
    json.dumps(document)


def test_questions_about_files(engine: Engine, registry: Registry) -> None:
    APP.put(registry.repository("app"), "1")
    name = f"{registry.host}/app:1"
    engine.pull(name)
    assert [row.path for row in engine.ls(name, "/etc")] == ["etc/again", "etc/link", "etc/motd"]
    assert [row.path for row in engine.ls(name, "/", recursive=True)] == [
        "bin", "bin/sh", "etc", "etc/again", "etc/link", "etc/motd"]
    assert {row.name for row in engine.ls(name, "/etc", layer=0)} == {"motd", "old"}
    with engine.cat(name, "/etc/link") as content:
        assert content.read() == b"newer"
    with engine.cat(name, "etc/motd", layer=0) as content:
        assert content.read() == b"base"
    with engine.cat(name, "/etc/again", layer=1) as content:
        assert content.read() == b"newer"
    blame = engine.blame(name, "/etc/motd")
    assert (blame.layer, [below.layer for below in blame.hides]) == (1, [0])
    gone = engine.blame(name, "/etc/old")
    assert gone.deleted_by is not None
    assert gone.deleted_by.layer == 1
    assert {(row.path, row.size) for row in engine.obscured(name)} == {("etc/motd", 4), ("etc/old", 9)}
    for missing in ("/nope", "/etc/old"):
        with pytest.raises(NotFound, match="no such file"):
            engine.cat(name, missing)
    with pytest.raises(InvalidInput, match="not a file"):
        engine.cat(name, "/etc")
    with pytest.raises(InvalidInput, match="layers 0 to 1"):
        engine.ls(name, layer=2)


def test_export_is_the_union(engine: Engine, registry: Registry) -> None:
    APP.put(registry.repository("app"), "1")
    engine.pull(f"{registry.host}/app:1")
    out = io.BytesIO()
    engine.export(f"{registry.host}/app:1", out)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        names = tar.getnames()
        assert names == ["bin", "bin/sh", "etc", "etc/again", "etc/link", "etc/motd"]
        assert tar.extractfile("etc/motd").read() == b"newer"
        assert tar.getmember("etc/motd").islnk() != tar.getmember("etc/again").islnk()
        assert tar.getmember("bin/sh").mode == 0o755


def test_export_then_import_keeps_the_files(open_engine: Callable[..., Engine], registry: Registry) -> None:
    APP.put(registry.repository("app"), "1")
    engine = open_engine()
    engine.pull(f"{registry.host}/app:1")
    out = io.BytesIO()
    engine.export(f"{registry.host}/app:1", out)
    out.seek(0)
    image_id = engine.import_image(out, "flat:1", changes=['CMD ["sh"]'], message="flattened")
    flat = engine.inspect("flat:1")
    assert flat["Id"] == image_id
    assert flat["Config"] == {"Cmd": ["sh"]}
    assert flat["Comment"] == "flattened"
    again = io.BytesIO()
    engine.export("flat:1", again)
    assert again.getvalue() == out.getvalue()


def test_push_gives_the_registry_the_same_bytes(open_engine: Callable[..., Engine], registry: Registry) -> None:
    root = SISTER.put(registry.repository("app"), "1")
    engine = open_engine()
    engine.pull(f"{registry.host}/app:1")
    engine.tag(f"{registry.host}/app:1", f"{registry.host}/copy:2")
    (pushed,) = engine.push(f"{registry.host}/copy:2")
    assert pushed.digest == root.digest
    copy = registry.repository("copy")
    assert copy.resolve("2").digest == root.digest
    assert dict(copy.walk()) == dict(registry.repository("app").walk())


def test_push_mounts_what_a_sibling_repository_has(
    engine: Engine, registry: Registry, events: list[Event]
) -> None:
    APP.put(registry.repository("app"), "1")
    engine.pull(f"{registry.host}/app:1")
    engine.tag(f"{registry.host}/app:1", f"{registry.host}/copy:1")
    events.clear()
    engine.push(f"{registry.host}/copy:1")
    assert [words(events, layer.descriptor.digest)[-1] for layer in APP.layers] == [Action.MOUNTED] * 2


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_save_then_load_elsewhere(open_engine: Callable[..., Engine], registry: Registry, form: str) -> None:
    APP.put(registry.repository("app"), "1")
    engine, other = open_engine("one"), open_engine("two")
    engine.pull(f"{registry.host}/app:1")
    engine.tag(f"{registry.host}/app:1", "app:latest")
    out = io.BytesIO()
    engine.save(["app", f"{registry.host}/app:1"], out, form=form)
    names = other.load(io.BytesIO(out.getvalue()))
    assert sorted(names) == sorted(["app:latest", f"{registry.host}/app:1"])
    assert other.inspect("app")["Id"] == engine.inspect("app")["Id"]
    assert other.inspect("app")["Manifest"] == engine.inspect("app")["Manifest"]


def test_a_bare_repository_is_saved_with_every_tag(open_engine: Callable[..., Engine], registry: Registry) -> None:
    engine, other = open_engine("one"), open_engine("two")
    for tag, image in (("1", APP), ("2", SISTER)):
        image.put(registry.repository("app"), tag)
        engine.pull(f"{registry.host}/app:{tag}")
        engine.tag(f"{registry.host}/app:{tag}", f"app:{tag}")
    out = io.BytesIO()
    engine.save(["app"], out)
    assert sorted(other.load(io.BytesIO(out.getvalue()))) == ["app:1", "app:2"]
    out = io.BytesIO()
    engine.save([APP.config.digest.short], out)
    assert other.load(io.BytesIO(out.getvalue())) == (APP.config.digest,)


def test_save_of_a_typo_writes_nothing(engine: Engine) -> None:
    out = io.BytesIO()
    with pytest.raises(ImageNotFound):
        engine.save(["nope"], out)
    assert out.getvalue() == b""


def test_of_an_index_one_platform_comes(open_engine: Callable[..., Engine], registry: Registry) -> None:
    arm = make_image([BASE], platform=Platform(os="linux", architecture="arm64"))
    s390 = make_image([TOP], platform=Platform(os="linux", architecture="s390x"))
    root = make_index([arm, s390]).put(registry.repository("multi"), "1")
    engine = open_engine()
    name = f"{registry.host}/multi:1"
    with pytest.raises(PlatformNotFound, match=r"linux/arm64.*linux/s390x"):
        engine.pull(name, platform=Platform(os="linux", architecture="riscv64"))
    (pulled,) = engine.pull(name, platform=Platform(os="linux", architecture="s390x"))
    assert pulled.digest == root.digest
    assert engine.inspect(name)["Architecture"] == "s390x"
    assert not engine.store.has(arm.descriptor)
    assert list(engine.check()) == []
    (again,) = engine.pull(name, platform=Platform(os="linux", architecture="arm64"))
    assert again.is_new
    assert engine.inspect(name)["Architecture"] == "arm64"


def test_pull_by_digest_and_all_tags(engine: Engine, registry: Registry) -> None:
    root = APP.put(registry.repository("app"), "1")
    SISTER.put(registry.repository("app"), "2")
    (pulled,) = engine.pull(f"{registry.host}/app@{root.digest}")
    assert pulled.digest == root.digest
    assert [found.reference for found in engine.pull(f"{registry.host}/app", all_tags=True)] == [
        f"{registry.host}/app:1", f"{registry.host}/app:2"]
    assert {row.tag for row in engine.images()} == {"", "1", "2"}


def test_rmi_frees_what_only_that_image_had(engine: Engine, registry: Registry) -> None:
    empty = disk(engine)
    for name, image in (("app", APP), ("sister", SISTER)):
        image.put(registry.repository(name), "1")
        engine.pull(f"{registry.host}/{name}:1")
    engine.tag(f"{registry.host}/app:1", "extra:1")
    assert [gone.kind for gone in engine.remove("extra:1")] == [Removal.UNTAGGED]
    engine.remove(f"{registry.host}/app:1")
    assert engine.store.has(BASE.descriptor)
    assert not engine.store.has(TOP.descriptor)
    assert not engine.layers_store.has_index(TOP.diff_id)
    assert list(engine.check()) == []
    engine.remove(f"{registry.host}/sister:1")
    assert [path for path in disk(engine) if path not in empty and "snapshots" not in path
            and not path.endswith("sha256")] == []


def test_an_id_with_several_names_needs_force(engine: Engine, registry: Registry) -> None:
    APP.put(registry.repository("app"), "1")
    engine.pull(f"{registry.host}/app:1")
    engine.tag(f"{registry.host}/app:1", "b:1")
    image_id = APP.config.digest.short
    with pytest.raises(ImageInUse, match="--force"):
        engine.remove(image_id)
    engine.remove(image_id, force=True)
    assert engine.images() == ()


@pytest.mark.parametrize("verb", ["rmi", "prune"])
def test_a_name_that_is_given_meanwhile_keeps_the_image(
    engine: Engine, registry: Registry, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    APP.put(registry.repository("app"), "1")
    name = f"{registry.host}/app:1"
    engine.pull(name)
    looked_at = housekeeping.reachable

    def name_it(*arguments: Any) -> Any:
        engine.tag(name, "late:1")
        return looked_at(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(housekeeping, "reachable", name_it)
        if verb == "rmi":
            assert [gone.kind for gone in engine.remove(name)] == [Removal.UNTAGGED]
        else:
            assert engine.prune(all_images=True).removed == ()
    assert [row.reference for row in engine.images()] == ["late:1"]
    assert list(engine.check()) == []


def test_prune_leaves_an_ingest_that_somebody_goes_on_with(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = BASE.descriptor
    with pytest.raises(ConnectionError), engine.store.begin(wanted) as ingest:
        ingest.write(BASE.blob[:9])
        raise ConnectionError
    found = leftovers._dead_ingests(engine)
    assert len(found) == 1
    monkeypatch.setattr(leftovers, "_dead_ingests", lambda _engine: found)
    with engine.store.begin(wanted) as ingest:
        assert engine.prune(all_images=False).removed == ()
        ingest.write(BASE.blob[9:])
        ingest.commit(wanted.media_type)
    assert engine.store.has(wanted)


def test_what_df_promises_prune_frees(engine: Engine, registry: Registry) -> None:
    APP.put(registry.repository("app"), "1")
    engine.pull(f"{registry.host}/app:1")
    SISTER.put(registry.repository("app"), "1")
    engine.pull(f"{registry.host}/app:1")  # the tag moves: APP has no name any more
    assert sorted(bool(row.repository) for row in engine.images()) == [False, True]
    images = next(row for row in engine.usage() if row.type == "Images")
    pruned = engine.prune(all_images=True)
    assert pruned.freed == images.reclaimable == images.size > 0
    assert engine.images() == ()
    assert all(row.size == 0 for row in engine.usage())


def test_what_another_driver_made_is_counted_and_goes_too(
    tmp_path: Path, engine: Engine, registry: Registry
) -> None:
    APP.put(registry.repository("app"), "1")
    name = f"{registry.host}/app:1"
    engine.pull(name)
    assert engine.driver.name == "vfs"
    settings = dataclasses.replace(engine.settings, storage_driver="overlay2" if os.geteuid() == 0 else "vfs")
    with Engine.open(engine.root, settings=settings) as other:
        unpack_present(other, other.image(name))
        images = next(row for row in other.usage() if row.type == "Images")
        pruned = other.prune(all_images=True)
        assert pruned.freed == images.reclaimable
        assert all(row.size == 0 for row in other.usage())
    assert [path for path in engine.root.glob("snapshots/vfs/*") if any(path.rglob("motd"))] == []


def test_a_store_pushed_into_is_a_store_pulled_from(open_engine: Callable[..., Engine], registry: Registry) -> None:
    one, two = open_engine("one"), open_engine("two")
    APP.put(registry.repository("app"), "1")
    one.pull(f"{registry.host}/app:1")
    one.tag(f"{registry.host}/app:1", "app:1")
    with two.serve(port=0) as serving:
        host = serving.url.removeprefix("http://")
        one.tag("app:1", f"{host}/team/app:9")
        (pushed,) = one.push(f"{host}/team/app:9")
        assert list(one.remote_tags(f"{host}/team/app")) == ["9"]
        assert one.remote_manifest(f"{host}/team/app:9")[1] == APP.manifest.raw
    (row,) = two.images()
    assert (row.reference, row.digest) == ("team/app:9", pushed.digest)
    with two.cat("team/app:9", "/etc/motd") as content:  # nobody had unpacked it yet
        assert content.read() == b"newer"
    with one.serve(port=0, read_only=True) as serving:
        host = serving.url.removeprefix("http://")
        two.pull(f"{host}/app:1")


def test_a_served_store_holds_what_it_told_of_and_nothing_else(engine: Engine) -> None:
    with Lease(engine.store.state, "serve") as mine, Lease(engine.store.state, "pull") as other:
        repository = StoreProvider(engine.store, mine, may_write=True).repository("a")
        assert repository.stat(Digest.of(b"nowhere")) is None
        assert live_content(engine.store.state) == set()
        for algorithm in ("sha256", "sha512"):
            digest = Digest.of(b"pushed", algorithm)
            with repository.ingest() as ingest:
                ingest.write(b"pushed")
                assert ingest.commit("any", digest).digest == digest
            assert repository.stat(digest) == 6
            assert digest in live_content(engine.store.state)
            other.hold([digest])
            with pytest.raises(BlobInUse):
                repository.delete(digest)
        other.close()
        repository.delete(digest)
        assert repository.stat(digest) is None


def test_an_index_without_its_manifest_can_be_removed_and_counted(
    open_engine: Callable[..., Engine], registry: Registry
) -> None:
    engine = open_engine()
    make_index([APP, SISTER]).put(registry.repository("both"), "1")
    name = f"{registry.host}/both:1"
    engine.pull(name)
    engine.store.delete(Digest(str(engine.inspect(name)["Manifest"])))
    assert [finding.problem.rpartition(";")[2] for finding in engine.check()] == [" pull the image again"]
    with pytest.raises(NotFound, match="pull the image again"):
        engine.inspect(name)
    assert engine.usage()
    assert engine.remove(name)
    assert engine.images() == ()


def test_of_an_index_in_an_index_one_platform_is_pushed(engine: Engine, registry: Registry) -> None:
    repository = registry.repository("nested")
    inner = make_index([APP])
    inner.put(repository)
    absent = Descriptor(media_type=OCI_MANIFEST, digest=Digest.of(b"absent"), size=6)
    outer = Index.build([inner.descriptor, absent])
    repository.put(outer.descriptor, io.BytesIO(outer.raw))
    repository.tag("1", outer.descriptor)
    engine.pull(f"{registry.host}/nested:1")
    engine.tag(f"{registry.host}/nested:1", f"{registry.host}/copy:1")
    (pushed,) = engine.push(f"{registry.host}/copy:1")
    assert pushed.digest == APP.descriptor.digest


def test_labels_that_are_no_text_are_not_labels(engine: Engine) -> None:
    for number, labels in enumerate((["a"], {"a": 1, "b": "c"}, "a")):
        config = ImageConfig.build({
            "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []},
            "config": {"Labels": labels},
        })
        manifest = Manifest.build(engine.store.put_bytes(OCI_CONFIG, config.raw), [])
        engine.store.put(manifest.descriptor, io.BytesIO(manifest.raw))
        engine.store.record(manifest.descriptor, names=(f"docker.io/library/x:{number}",))
    assert engine.images(filters={"label": ["a=1"]}) == ()
    assert [row.tag for row in engine.images(filters={"label": ["b=c"]})] == ["1"]


def test_check_notices_damage_and_repairs(engine: Engine, registry: Registry) -> None:
    APP.put(registry.repository("app"), "1")
    name = f"{registry.host}/app:1"
    engine.pull(name)
    assert list(engine.check()) == []
    path: Path = engine.store.blob_path(BASE.descriptor.digest)
    path.chmod(0o644)
    path.write_bytes(b"x" * BASE.descriptor.size)
    findings = list(engine.check(repair=True))
    assert findings[0].repaired
    engine.pull(name)
    assert list(engine.check()) == []
