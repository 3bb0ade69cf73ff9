"""Making containers: what the image and the options add up to, and that a failure leaves nothing behind."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from lamina.engine import creating, transfer
from lamina.engine.core import Core
from lamina.engine.creating import check_options, execution_of
from lamina.engine.engine import Engine
from lamina.engine.lookup import ImageNotFound
from lamina.errors import InvalidInput, LaminaError
from lamina.oci.descriptor import Platform
from lamina.runtime.container import NameInUse, Status
from lamina.runtime.options import ContainerOptions
from lamina.runtime.records import ContainerTable
from lamina.runtime.volumes import VolumeStore
from lamina.snapshot.copying import CopyingSnapshotter
from lamina.snapshot.snapshotter import SnapshotKind, SnapshotNotFound
from lamina.testing.images import DIRECTORY, tar_of

CONFIG = (
    'CMD ["serve"]', 'ENTRYPOINT ["/init"]', "ENV A=1 B=2", "USER app", "WORKDIR /srv", "LABEL tier=web x=y",
    "EXPOSE 80", "STOPSIGNAL INT", "VOLUME /data",
)


@pytest.fixture
def image(engine: Engine) -> Engine:
    engine.import_image(io.BytesIO(tar_of({"bin": DIRECTORY, "bin/sh": b"#!", "data": DIRECTORY})), "app:1", changes=CONFIG)
    engine.import_image(io.BytesIO(tar_of({"file": b"x"})), "bare:1")
    return engine


def options(**changes: Any) -> ContainerOptions:
    return ContainerOptions(**changes)


IMAGE = {"Cmd": ["serve"], "Entrypoint": ["/init"], "Env": ["A=1", "B=2"], "User": "app", "WorkingDir": "/srv",
         "Labels": {"tier": "web"}, "ExposedPorts": {"80/tcp": {}}, "StopSignal": "INT", "OnBuild": None}


@pytest.mark.parametrize(("asked", "expected"), [
    ({}, {}),
    ({"command": ("ls",)}, {"Cmd": ["ls"]}),
    ({"entrypoint": ("/other",)}, {"Entrypoint": ["/other"], "Cmd": []}),
    ({"entrypoint": ("/other",), "command": ("x",)}, {"Entrypoint": ["/other"], "Cmd": ["x"]}),
    ({"entrypoint": ("",), "command": ("ls",)}, {"Entrypoint": [], "Cmd": ["ls"]}),
    ({"environment": ("A=9", "C=3")}, {"Env": ["A=9", "B=2", "C=3"]}),
    ({"environment": ("A",)}, {"Env": ["B=2"]}),
    ({"user": "0", "working_directory": "/x", "stop_signal": "HUP"},
     {"User": "0", "WorkingDir": "/x", "StopSignal": "HUP"}),
    ({"working_directory": "/x/../y//"}, {"WorkingDir": "/y"}),
    ({"labels": ("tier=db", "new")}, {"Labels": {"tier": "db", "new": ""}}),
    ({"expose": ("53/udp", "8000-8001")}, {"ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}}}),
    ({"health_command": "true", "health_interval": 1.5, "health_retries": 2},
     {"Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 1_500_000_000, "Retries": 2}}),
    ({"has_health_check": False}, {"Healthcheck": {"Test": ["NONE"]}}),
])
def test_options_go_over_the_image(asked: dict[str, Any], expected: dict[str, Any]) -> None:
    plain = {name: value for name, value in IMAGE.items() if value is not None}
    assert execution_of(IMAGE, options(**asked)) == {**plain, **expected}


def test_the_image_itself_is_not_changed() -> None:
    before = repr(IMAGE)
    execution_of(IMAGE, options(labels=("a=b",), expose=("1",), environment=("X=1",)))
    assert repr(IMAGE) == before


@pytest.mark.parametrize(("asked", "complaint"), [
    ({"cap_add": ("NET_ADMN",)}, "did you mean CAP_NET_ADMIN"),
    ({"ulimits": ("nofile",)}, "--ulimit"),
    ({"memory": 1}, "--memory"),
    ({"security": ("x",)}, "--security-opt"),
    ({"log_driver": "syslog"}, "--log-driver syslog"),
    ({"log_options": ("max-file=3",)}, "--log-opt max-file: it needs max-size"),
    ({"dns": ("nowhere",)}, "nowhere"),
    ({"hosts": ("nowhere",)}, "nowhere"),
    ({"hostname": "a b"}, r"^--hostname 'a b': expected a name of at most 64 letters, digits, hyphens, "),
    ({"hostname": "x" * 65}, "--hostname 'xxx"),
    ({"hostname": "a\n10.0.0.1 bank"}, "--hostname"),
    ({"hostname": "a\0b"}, "--hostname"),
    ({"hostname": "-a"}, "--hostname"),
    ({"domainname": "a b"}, "--domainname 'a b'"),
    ({"devices": ("dev",)}, "dev"),
    ({"restart": "sometimes"}, "--restart"),
    ({"restart": "always", "is_removed_at_exit": True}, "--rm and --restart exclude each other"),
    ({"stop_signal": "NOPE"}, "signal 'NOPE'"),
    ({"working_directory": "srv"}, "--workdir srv: expected an absolute path"),
    ({"publish": ("99999",)}, "99999"),
    ({"storage": ("size=lots",)}, "^--storage-opt size: expected a size such as 512m or 10G, got 'lots'$"),
    ({"storage": ("size=1g", "colour=red")}, "^--storage-opt colour=red: expected size=SIZE; there is no other option$"),
    ({"networks": ("container:",)}, "container"),
])
def test_a_typo_is_told_before_anything_is_made(image: Engine, asked: dict[str, Any], complaint: str) -> None:
    with pytest.raises(LaminaError, match=complaint):
        check_options(options(**asked))
    with pytest.raises(LaminaError, match=complaint):
        image.create("app:1", options=options(**asked))
    assert_nothing_is_left(image)


@pytest.mark.parametrize("name", ["a", "x" * 64, "my_host-1.example.org", "_x"])
def test_names_of_hosts(name: str) -> None:
    check_options(options(hostname=name, domainname=name))


def assert_nothing_is_left(engine: Engine, volumes: tuple[str, ...] = ()) -> None:
    assert list(ContainerTable(engine.store.state).walk()) == []
    home = engine.root / "containers"
    assert not home.exists() or os.listdir(home) == []
    assert not [info.key for info in engine.driver.walk() if info.key.startswith("container-")]
    assert tuple(volume.name for volume in VolumeStore(engine.root).walk()) == volumes


def test_a_container_is_made(image: Engine) -> None:
    made = image.create("app:1", options=options(command=("run",)), name="web")
    assert made.argv == ("/init", "run")
    assert (made.name, made.image_name, made.labels["tier"], made.stop_signal) == ("web", "app:1", "web", "INT")
    seen = image.container("web")
    assert (seen.container.id, seen.state.status) == (made.id, Status.CREATED)
    assert image.driver.stat(made.snapshot).parent == made.parent
    (volume,) = made.anonymous
    assert made.volumes == (volume,)
    assert VolumeStore(image.root).get(volume).is_anonymous
    assert [mount["target"] for mount in made.mounts] == ["/data"]


def test_containers_share_the_unpacked_image(image: Engine) -> None:
    one, other = image.create("app:1"), image.create("app:1")
    assert one.parent == other.parent
    assert one.snapshot != other.snapshot
    assert one.name != other.name


def test_a_name_that_is_taken_leaves_no_second_one(image: Engine) -> None:
    made = image.create("app:1", name="web")
    with pytest.raises(NameInUse):
        image.create("app:1", name="web")
    assert [each.id for each in ContainerTable(image.store.state).walk()] == [made.id]
    assert os.listdir(image.root / "containers") == [made.id]
    assert [volume.name for volume in VolumeStore(image.root).walk()] == list(made.anonymous)


def test_an_image_without_a_command_needs_one(image: Engine) -> None:
    with pytest.raises(InvalidInput, match="bare:1: the image names no command"):
        image.create("bare:1")
    assert_nothing_is_left(image)
    assert image.create("bare:1", options=options(command=("/x",))).argv == ("/x",)


def test_an_image_that_is_not_here_is_not_pulled_unasked(image: Engine) -> None:
    with pytest.raises(ImageNotFound, match="nope"):
        image.create("nope:1", pull="never")
    assert_nothing_is_left(image)


@pytest.mark.parametrize(("pull", "name", "platform", "pulls"), [
    ("missing", "app:1", None, 0), ("missing", "gone:1", None, 1), ("always", "app:1", None, 1),
    ("missing", "app:1", "linux/s390x", 1), ("never", "app:1", None, 0),
])
def test_when_an_image_is_pulled(
    image: Engine, monkeypatch: pytest.MonkeyPatch, pull: str, name: str, platform: str | None, pulls: int
) -> None:
    pulled = []

    def fake_pull(_engine: Core, wanted: str, *, platform: Platform | None, all_tags: bool) -> None:
        assert not all_tags
        pulled.append((wanted, platform))
        if wanted == "gone:1":
            image.tag("app:1", "gone:1")

    monkeypatch.setattr(transfer, "pull", fake_pull)
    wanted = None if platform is None else Platform.parse(platform)
    image.create(name, pull=pull, platform=wanted)
    assert pulled == [(name, wanted)] * pulls


def test_what_was_made_goes_when_the_rest_fails(image: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    VolumeStore(image.root).create("kept", now=0.0)
    monkeypatch.setattr(image.driver, "prepare_ahead", fail)
    with pytest.raises(OSError, match="No space left"):
        image.create("app:1", options=options(volumes=("kept:/kept", "fresh:/fresh")))
    assert_nothing_is_left(image, ("kept",))


@pytest.fixture
def during_copies(image: Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Has something done before each job of the driver that copies a tree."""
    assert isinstance(image.driver, CopyingSnapshotter)
    hands, real = image.driver.hands, image.driver.hands.run

    def arrange(act: Callable[[], object]) -> None:
        def run(verb: str, **arguments: Any) -> Any:
            if verb == "copy":
                act()
            return real(verb, **arguments)

        monkeypatch.setattr(hands, "run", run)

    return arrange


def test_others_write_while_a_tree_is_copied(
    image: Engine, during_copies: Callable[[Callable[[], object]], None]
) -> None:
    with Engine.open(image.root, settings=image.settings) as other:
        during_copies(lambda: other.create("app:1", name="second"))
        image.create("app:1", name="first")
        assert ContainerTable(image.store.state).names() == {"first", "second"}
        during_copies(lambda: other.rename("second", "third"))
        with pytest.raises(NameInUse, match="third"):
            image.create("app:1", name="third")
    assert len(os.listdir(image.root / "containers")) == 2
    assert list(image.driver.leftovers()) == []
    assert {info.key for info in image.driver.walk() if info.kind is SnapshotKind.ACTIVE} == {
        each.snapshot for each in ContainerTable(image.store.state).walk()}


def test_nothing_sweeps_what_is_being_copied(
    image: Engine, during_copies: Callable[[Callable[[], object]], None]
) -> None:
    with Engine.open(image.root, settings=image.settings) as other:
        during_copies(other.prune)
        made = image.create("app:1")
    assert sorted(os.listdir(image.driver.mounts(made.snapshot)[0].source)) == ["bin", "data"]


def test_an_image_that_goes_while_it_is_copied_is_missed(
    image: Engine, during_copies: Callable[[Callable[[], object]], None]
) -> None:
    during_copies(lambda: image.remove("app:1", force=True))
    with pytest.raises(ImageNotFound, match=r"^app:1: removed meanwhile$"):
        image.create("app:1")
    assert_nothing_is_left(image)


def test_an_image_that_goes_and_comes_while_it_is_copied_is_not_half_copied(
    image: Engine, during_copies: Callable[[Callable[[], object]], None], tmp_path: Path
) -> None:
    with open(tmp_path / "app.tar", "wb") as out:
        image.save(["app:1"], out)

    def replaced() -> None:
        image.remove("app:1", force=True)
        image.load(tmp_path / "app.tar")

    during_copies(replaced)
    with pytest.raises((SnapshotNotFound, FileNotFoundError)):
        image.create("app:1")
    assert_nothing_is_left(image)


KILLED = """
import os, signal, sys
from lamina.engine.engine import Engine
from lamina.engine.settings import Settings
settings = Settings.load({}, flags={"data-root": sys.argv[1], "storage-driver": "vfs"})
with Engine.open(settings=settings) as engine:
    real = engine.driver.hands.run
    def run(verb, **arguments):
        if verb == "copy" and sys.argv[2] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        real(verb, **arguments)
        if verb == "copy":
            os.kill(os.getpid(), signal.SIGKILL)
    engine.driver.hands.run = run
    engine.create("app:1")
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_a_killed_create_copied_is_found_by_prune(image: Engine, moment: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, image.root, moment], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert len(list(image.driver.leftovers())) == len(os.listdir(image.root / "containers")) == 1
    image.prune()
    assert list(image.driver.leftovers()) == []
    assert_nothing_is_left(image, tuple(volume.name for volume in VolumeStore(image.root).walk()))
    image.create("app:1")


def test_an_image_that_is_removed_meanwhile_is_missed(image: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    real = creating._mounts

    def remove_first(engine: Engine, *rest: Any) -> Any:
        engine.remove("app:1", force=True)
        return real(engine, *rest)

    monkeypatch.setattr(creating, "_mounts", remove_first)
    with pytest.raises(ImageNotFound, match="app:1: removed meanwhile"):
        image.create("app:1")
    assert_nothing_is_left(image)


def test_a_container_keeps_its_image(image: Engine) -> None:
    made = image.create("app:1")
    with pytest.raises(LaminaError, match="container"):
        image.remove("app:1")
    image.remove_container(made.id)
    image.remove("app:1")


def test_volumes_of_another_container_are_borrowed(image: Engine) -> None:
    first = image.create("app:1", options=options(volumes=("db:/db",)), name="first")
    second = image.create("bare:1", options=options(command=("x",), volumes_from=("first:ro",)))
    targets: Mapping[str, Any] = {mount["target"]: mount["is_read_only"] for mount in second.mounts}
    assert targets == {"/db": True, "/data": True}
    assert set(second.volumes) == set(first.volumes)
    assert second.anonymous == ()
