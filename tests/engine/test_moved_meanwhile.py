"""Who read a container's row before it was moved to another driver finds its layer, without any lock."""

from __future__ import annotations

import io
import tarfile
from importlib.metadata import EntryPoint

import pytest

from lamina.content.state import State
from lamina.engine import committing, removing
from lamina.engine.engine import Engine
from lamina.engine.migrating import migrate
from lamina.runtime.container import Container, ContainerDirectory, ContainerNotFound
from lamina.runtime.records import ContainerTable
from lamina.snapshot import drivers
from lamina.snapshot.changes import Difference
from lamina.snapshot.copying import CopyingSnapshotter
from lamina.snapshot.directories import Directories
from lamina.snapshot.hands import Hands
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.metadata import SnapshotTable
from lamina.snapshot.reaching import reached
from lamina.snapshot.snapshotter import SnapshotNotFound
from lamina.testing.images import file, make_image


class Other(CopyingSnapshotter):
    name = "other"

    def __init__(self, state: State, layers: LayerStore, hands: Hands, _options: object) -> None:
        super().__init__(state, layers, hands)
        self._table = SnapshotTable(state, self.name)
        self._directories = Directories(layers.root / "snapshots" / self.name, hands.empty)


@pytest.fixture
def one(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Container:
    """As its row is before anything moves. It has made a file ``new``."""
    point = EntryPoint("other", f"{__name__}:Other", "lamina.storage_drivers")
    monkeypatch.setattr(EntryPoint, "load", lambda _self: Other)
    monkeypatch.setattr(drivers, "entry_points", lambda: [point])
    make_image([[file("x")]], execution={"Cmd": ["x"]}).put(engine.store, "docker.io/library/app:1")
    engine.create("app:1", name="one")
    container = ContainerTable(engine.store.state).find("one")
    with reached(engine.driver.mounts(container.snapshot)) as path, open(f"{path}/new", "wb") as out:
        out.write(b"n" * 5000)
    return container


def directory(engine: Engine, container: Container) -> ContainerDirectory:
    return ContainerDirectory(engine.root, container.id)


def listed(tar: io.BytesIO) -> list[str]:
    tar.seek(0)
    with tarfile.open(fileobj=tar) as members:
        return sorted(set(members.getnames()) - {"."})


def names(engine: Engine, image: str) -> list[str]:
    out = io.BytesIO()
    engine.export(image, out)
    return listed(out)


def test_all_who_read_its_layer_find_it(engine: Engine, one: Container) -> None:
    size = removing.layer_size(engine, one)
    migrate(engine, "other")
    assert [each.path for each in committing.changes(engine, one, directory(engine, one))] == ["/new"]
    assert removing.layer_size(engine, one) == size > 0
    committing.commit(engine, one, directory(engine, one), "app:2")
    assert names(engine, "app:2") == ["new", "x"]
    out = io.BytesIO()
    committing.export(engine, one, out)
    assert listed(out) == ["new", "x"]


def test_what_was_begun_with_the_old_driver_is_begun_anew(
    engine: Engine, one: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moved after its driver was asked where the layer is, and before any of it was read."""
    ask = CopyingSnapshotter.difference

    def asked(driver: CopyingSnapshotter, key: str) -> Difference:
        found = ask(driver, key)
        if moving and key == one.snapshot:
            moving.pop()
            migrate(engine, "other")
        return found

    moving: list[bool] = []
    out = io.BytesIO()
    monkeypatch.setattr(CopyingSnapshotter, "difference", asked)
    for act in (
        lambda: committing.changes(engine, one, directory(engine, one)),
        lambda: committing.export(engine, one, out),
        lambda: committing.commit(engine, one, directory(engine, one), "app:2"),
    ):
        moving[:] = [True]
        act()
        assert not moving
        migrate(engine, "vfs")
    assert listed(out) == names(engine, "app:2") == ["new", "x"]


def test_one_that_is_gone_is_named(engine: Engine, one: Container) -> None:
    engine.driver.remove(one.snapshot)
    with pytest.raises(SnapshotNotFound, match=r"^one: its layer is not in vfs: "):
        committing.changes(engine, one, directory(engine, one))
    ContainerTable(engine.store.state).remove(one.id)
    with pytest.raises(ContainerNotFound, match=r"^one: removed meanwhile$"):
        committing.changes(engine, one, directory(engine, one))
    assert removing.layer_size(engine, one) == 0
