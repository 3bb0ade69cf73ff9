"""Images looked at where they are: nothing of them stays, unless it was here or got a name meanwhile."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from tests.engine.conftest import Registry

from lamina.content.store import NameNotFound
from lamina.engine import images
from lamina.engine.borrowing import borrowed
from lamina.engine.engine import Engine
from lamina.engine.locations import InvalidLocation, Location, Transport, parse_location
from lamina.engine.lookup import ImageNotFound
from lamina.image import PlatformNotFound
from lamina.oci.descriptor import Platform
from lamina.testing.images import make_image, make_index

APP = make_image([{"a": b"1"}, {"b": b"2"}])
ARM = Platform(os="linux", architecture="arm64")


def left(engine: Engine) -> list[str]:
    return [
        str(path.relative_to(engine.root)) for name in ("blobs", "layers", "ingest")
        for path in (engine.root / name).rglob("*") if path.is_file()
    ]


@pytest.mark.parametrize(("text", "location"), [
    ("redis:7", Location(transport=Transport.STORE, name="redis:7")),
    ("docker://redis:7", Location(transport=Transport.REGISTRY, name="redis:7")),
    ("oci:some/dir:tag", Location(transport=Transport.LAYOUT, path=Path("some/dir"), name="tag")),
    ("oci-archive:a.tar", Location(transport=Transport.OCI_ARCHIVE, path=Path("a.tar"))),
    ("docker-archive:a.tar:app:1", Location(transport=Transport.DOCKER_ARCHIVE, path=Path("a.tar"), name="app:1")),
    ("./a.tar", Location(transport=Transport.DOCKER_ARCHIVE, path=Path("a.tar"))),
    ("/", Location(transport=Transport.LAYOUT, path=Path("/"))),
])
def test_locations(text: str, location: Location) -> None:
    assert parse_location(text) == location


@pytest.mark.parametrize("text", ["docker://", "oci:", "oci-archive::x"])
def test_no_location(text: str) -> None:
    with pytest.raises(InvalidLocation):
        parse_location(text)


def test_from_a_registry(engine: Engine, registry: Registry) -> None:
    APP.put(registry.repository("app"), "1")
    with borrowed(engine, f"docker://{registry.host}/app:1") as record:
        assert images.load_record(engine, record).config.raw == APP.config.raw
        assert engine.layers(str(record.config))[1].files_added == 1
    assert left(engine) == []
    assert engine.images() == ()


@pytest.mark.parametrize("name", ["", ":app:1", ":docker.io/library/app:1"])
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_from_an_archive(engine: Engine, tmp_path: Path, form: str, name: str) -> None:
    APP.put(engine.store, "docker.io/library/app:1")
    with open(tmp_path / "app.tar", "wb") as out:
        engine.save(["app:1"], out, form=form)
    engine.remove("app:1")
    assert left(engine) == []
    with borrowed(engine, f"{form}:{tmp_path}/app.tar{name}") as record:
        assert record.config == APP.config.digest
    assert left(engine) == []
    with pytest.raises(NameNotFound), borrowed(engine, f"{form}:{tmp_path}/app.tar:other:1"):
        pass


def test_what_was_here_stays(engine: Engine, registry: Registry) -> None:
    APP.put(registry.repository("app"), "1")
    engine.pull(f"{registry.host}/app:1")
    with borrowed(engine, f"docker://{registry.host}/app:1"):
        pass
    assert len(engine.images()) == 1
    assert list(engine.check()) == []


def test_what_got_a_name_meanwhile_stays(engine: Engine, registry: Registry) -> None:
    APP.put(registry.repository("app"), "1")
    with borrowed(engine, f"docker://{registry.host}/app:1") as record:
        engine.tag(str(record.config), "kept:1")
    with engine.cat("kept:1", "/a") as data:
        assert data.read() == b"1"
    assert list(engine.check()) == []


def test_a_prune_meanwhile_takes_nothing_that_is_read(engine: Engine, registry: Registry) -> None:
    APP.put(registry.repository("app"), "1")
    with borrowed(engine, f"docker://{registry.host}/app:1") as record:
        image = images.load_record(engine, record)
        engine.prune(all_images=True)
        for layer, made in zip(image.layers, APP.layers, strict=True):
            with image.source.open(layer.descriptor) as blob:
                assert blob.read() == made.blob
            assert engine.layers_store.index(layer.diff_id).paths
    engine.prune()
    assert left(engine) == []


def test_from_the_store(engine: Engine) -> None:
    APP.put(engine.store, "docker.io/library/app:1")
    with borrowed(engine, "app:1") as record:
        assert record.names == ("docker.io/library/app:1",)
    with pytest.raises(ImageNotFound), borrowed(engine, "other:1"):
        pass
    assert io.BytesIO(APP.manifest.raw).read() == engine.store.read_document(record.descriptor)


def test_a_platform_of_the_store(engine: Engine) -> None:
    arm = make_image([{"a": b"arm"}], platform=ARM)
    make_index([APP, arm]).put(engine.store, "docker.io/library/both:1")
    APP.put(engine.store, "docker.io/library/app:1")
    for platform, made in ((None, APP), (ARM, arm)):
        with borrowed(engine, "both:1", platform) as record:
            assert images.load_record(engine, record).config.raw == made.config.raw
    with pytest.raises(PlatformNotFound, match="not for linux/arm64"), borrowed(engine, "app:1", ARM):
        pass


def test_a_file_without_a_prefix(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.tar").touch()
    with pytest.raises(ImageNotFound) as told, borrowed(engine, "app.tar"):
        pass
    assert told.value.__notes__ == ["./app.tar is the file or directory of that name"]
