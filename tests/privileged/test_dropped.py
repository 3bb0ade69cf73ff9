"""Dropped blobs with each driver: containers, builds and squashes go on offline, drivers change, and processes die."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import OrdinaryUser
from tests.engine.conftest import Registry
from tests.privileged.places import Place, busybox_layer, disk_use, owned_directory, processes_of, wait_for

from lamina.engine.engine import Engine
from lamina.engine.settings import Settings
from lamina.layer.tarstream import read_entries
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.remaking import remakes
from lamina.testing.images import (
    MadeImage,
    directory,
    file,
    hardlink,
    make_image,
    make_layer,
    symlink,
    whiteout,
)

pytestmark = pytest.mark.privileged

DRIVERS = ("overlay2", "erofs", "vfs")


def made_image() -> MadeImage:
    data = [directory("data", mode=0o711, uid=3), file("data/a", b"a\n" * 200, uid=7, mode=0o640),
            hardlink("data/b", "data/a"), symlink("data/l", "a"), file("data/gone", os.urandom(2000))]
    large = [directory("data", mode=0o711), whiteout("data/gone"), file("data/large", os.urandom(1_500_000))]
    layers = [make_layer(entries) for entries in (busybox_layer(), data, large)]
    return make_image(layers, execution={"Cmd": ["sh"], "Env": ["PATH=/bin"]})


@pytest.fixture(scope="module")
def image() -> MadeImage:
    return made_image()


@pytest.fixture
def registry(image: MadeImage) -> Iterator[Registry]:
    running = Registry()
    image.put(running.repository("app"), "1")
    yield running
    running.close()


@pytest.fixture
def name(registry: Registry) -> str:
    return f"{registry.host}/app:1"


@pytest.fixture
def root() -> Iterator[Path]:
    with owned_directory(None) as path:
        yield path / "root"


def place_with(root: Path, driver: str) -> Place:
    return Place(root, driver=driver, runtime="embedded",
                 environment={"LAMINA_BLOBS": "drop-refetchable", "LAMINA_MAX_DOWNLOAD_ATTEMPTS": "1"})


def blobs_here(root: Path, image: MadeImage) -> list[int]:
    """Numbers of layers whose blob has a file."""
    return [
        number for number, layer in enumerate(image.layers)
        if (root / "blobs" / "sha256" / layer.descriptor.digest.encoded).exists()
    ]


def run(place: Place, image: str, *words: str) -> str:
    return place.say("run", "--rm", "--network", "none", image, *words)


@pytest.mark.parametrize("driver", DRIVERS)
def test_everything_goes_on_offline(root: Path, registry: Registry, name: str, image: MadeImage, driver: str) -> None:
    place = place_with(root, driver)
    place.say("pull", "-q", name)
    registry.close()
    assert blobs_here(root, image) == []
    try:
        assert run(place, name, "cat", "/data/b") == "a\n" * 200
        place.say("create", "--name", "one", "--network", "none", name, "sh", "-c", "echo new >/data/new; rm /data/b")
        assert place.say("start", "-a", "one") == ""
        assert place.say("diff", "one") == "C /data\nD /data/b\nA /data/new\n"
        place.say("commit", "one", "committed:1")
        assert run(place, "committed:1", "cat", "/data/new") == "new\n"
        place.say("squash", "-q", "--all", "committed:1", "-t", "flat:1")
        assert run(place, "flat:1", "sh", "-c", "cat /data/new; ls /data") == "new\na\nl\nlarge\nnew\n"
        (root.parent / "context").mkdir()
        (root.parent / "context" / "Dockerfile").write_text(
            f"FROM {name}\nCOPY --from=committed:1 /data/large /copied\nRUN --network=none rm /data/a\n")
        place.say("build", "-q", "-t", "built:1", root.parent / "context")
        assert run(place, "built:1", "ls", "/data", "/copied") == "/copied\n\n/data:\nb\nl\nlarge\n"
        assert "layer 1" in place.say("blame", name, "/data/a")
        assert place.run("check").returncode == 0
        assert blobs_here(root, image) == []
        place.say("rm", "one")
    finally:
        place.clear()


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_tar_is_the_very_same(root: Path, name: str, image: MadeImage, driver: str) -> None:
    place_with(root, driver).say("pull", "-q", name)
    layers = LayerStore(root)
    for layer in image.layers:
        with layers.open_tar(layer.diff_id) as tar:
            assert tar.read() == layer.tar
        with layers.open_tar(layer.diff_id) as tar:
            found = {entry.path: entry.size for entry in read_entries(tar)}
        assert found == {entry.path: entry.size for entry in layers.index(layer.diff_id).entries()}


@pytest.mark.parametrize(("before", "after"), [("overlay2", "erofs"), ("erofs", "overlay2"), ("overlay2", "vfs")])
def test_another_driver_makes_its_own_of_what_is_here(
    root: Path, registry: Registry, name: str, image: MadeImage, before: str, after: str
) -> None:
    place_with(root, before).say("pull", "-q", name)
    registry.close()
    place = place_with(root, after)
    try:
        found = place.run("run", "--rm", "--network", "none", name, "cat", "/data/b")
        assert (found.returncode, found.stdout) == (0, "a\n" * 200), found.stderr
        assert place.run("check").returncode == 0
        assert blobs_here(root, image) == []
    finally:
        place.clear()


@pytest.mark.parametrize("driver", DRIVERS)
def test_each_layer_is_stored_once(root: Path, name: str, image: MadeImage, driver: str) -> None:
    """Next to nothing but what the driver unpacked: of the large layer, which does not shrink, one copy."""
    place = place_with(root, driver)
    place.say("pull", "-q", name)
    dropped = disk_use(root / "blobs")
    place.say("blobs", "fetch", "-q", name)
    assert dropped < 64 << 10
    assert disk_use(root / "blobs") - dropped > 1_500_000
    said = place.say("blobs", "drop", "--all")
    assert said.count("dropped: ") == 3
    assert disk_use(root / "blobs") == dropped
    assert "3 blobs" in place.run("check").stderr


# -- ordinary users


def test_what_only_others_may_read_keeps_its_blob(
    ordinary_user: OrdinaryUser, user_directory: Path, registry: Registry
) -> None:
    """A tree of an ordinary user has files of other owners: the blob is what the user can read."""
    readable = make_layer([directory("d", uid=33), file("d/x", b"1" * 90_000, uid=1000)])
    closed = make_layer([directory("c", mode=0o700, uid=33), file("c/x", b"2" * 90_000, uid=33, mode=0o600)])
    image = make_image([readable, closed])
    image.put(registry.repository("owned"), "1")
    name = f"{registry.host}/owned:1"
    place = Place(user_directory / "root", user=ordinary_user, environment={"LAMINA_BLOBS": "drop-refetchable"})
    place.say("pull", "-q", name)
    assert blobs_here(place.root, image) == [1]
    registry.close()
    assert place.say("cat", name, "/d/x") == "1" * 90_000
    assert place.say("cat", name, "/c/x") == "2" * 90_000
    assert place.run("check").returncode == 0


# -- kill -9

_WRITER = textwrap.dedent("""
    import sys
    from pathlib import Path
    from lamina.engine.engine import Engine
    from lamina.engine.settings import DROP, Settings
    from lamina.values import replace
    root, name, driver = sys.argv[1:]
    settings = Settings.load({"LAMINA_STORAGE_DRIVER": driver, "HOME": root}, system=Path("/nonexistent"))
    print("begun", flush=True)
    while True:
        with Engine.open(root, settings=replace(settings, blobs=DROP)) as engine:
            engine.pull(name)
            engine.fetch_blobs(name)
            engine.drop_blobs(name)
            engine.fetch_blobs(name)
            engine.pull(name)
            engine.remove(name)
""")


@pytest.mark.parametrize("driver", DRIVERS)
def test_killed_at_any_moment(root: Path, name: str, image: MadeImage, driver: str) -> None:
    chance = random.Random(f"{driver} 106")
    for _round in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, root, name, driver], stdout=subprocess.PIPE, text=True,
            start_new_session=True,
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
        time.sleep(chance.uniform(0.05, 0.7))
        os.killpg(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        wait_for(lambda: not processes_of(root))
        insist_whole(root, name, image, driver)


def insist_whole(root: Path, name: str, image: MadeImage, driver: str) -> None:
    """Whatever has a name has its blobs, or rows for them and a layer that gives the same bytes."""
    settings = Settings.load({"LAMINA_STORAGE_DRIVER": driver, "HOME": str(root)}, system=Path("/nonexistent"))
    with Engine.open(root, settings=settings) as engine:
        assert list(engine.check()) == []
        if engine.store.catalog.named(name) is not None:
            away = {blob.digest for blob in engine.dropped_blobs()}
            for layer in image.layers:
                is_here = engine.store.has(layer.descriptor)
                assert is_here != (layer.descriptor.digest in away)
                assert is_here or remakes(LayerStore(root), layer.diff_id, is_read=True)
            with engine.cat(name, "/data/a") as stream:
                assert stream.read() == b"a\n" * 200
        engine.prune(all_images=True)
        # A row beside a blob that just landed, and that prune leaves alone for a while, means nothing.
        assert engine.dropped_blobs() == ()
