"""What can be said of storage drivers, and refused, without any privilege: vfs, and what is written down."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from lamina.content.lease import Lease
from lamina.content.state import State
from lamina.engine import checking
from lamina.engine.drivers import chosen, listing
from lamina.engine.engine import Engine
from lamina.engine.leaving import leave
from lamina.engine.migrating import StateInUse, _alone, migrate
from lamina.engine.misplaced import misplaced, sweep
from lamina.engine.moving import has_layer
from lamina.engine.settings import Settings
from lamina.engine.storagebench import NoRoom, bench
from lamina.errors import InvalidInput
from lamina.runtime.container import Container, ContainerDirectory
from lamina.runtime.records import ContainerTable
from lamina.snapshot import drivers
from lamina.snapshot.choice import choice_file, read_choice
from lamina.snapshot.copying import CopyingSnapshotter
from lamina.snapshot.directories import Directories, locked_home
from lamina.snapshot.hands import Hands
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.metadata import SnapshotTable
from lamina.snapshot.snapshotter import DriverUnavailable, SnapshotKind, Snapshotter
from lamina.testing.images import file, make_image
from lamina.values import replace


def opened(tmp_path: Path, driver: str = "", **more: str) -> Engine:
    environ = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config"), **more}
    flags = {"storage-driver": driver} if driver else {}
    settings = Settings.load(environ, flags=flags, system=tmp_path / "etc")
    return Engine.open(tmp_path / "root", settings=settings)


# -- why this driver


def test_the_reason_is_who_asked(tmp_path: Path) -> None:
    with opened(tmp_path, "vfs") as engine:
        assert (chosen(engine).name, chosen(engine).reason) == ("vfs", "asked for by --storage-driver")
    with opened(tmp_path, LAMINA_STORAGE_DRIVER="vfs") as engine:
        assert chosen(engine).reason == "asked for by LAMINA_STORAGE_DRIVER"


def test_the_reason_is_what_was_written_down_or_the_best(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        first = chosen(engine)
        assert first.reason == "the best that works here"
        assert first.name == next(each.name for each in first.candidates if each.is_usable)
    with opened(tmp_path) as engine:
        assert chosen(engine).reason == f"written down in {choice_file(engine.root)}"
        assert chosen(engine).notes == ()


def written(engine: Engine, driver: str) -> None:
    choice = json.loads(choice_file(engine.root).read_bytes())
    choice_file(engine.root).write_text(json.dumps({**choice, "driver": driver}))


def test_what_disagrees_is_said_in_a_sentence(tmp_path: Path) -> None:
    with opened(tmp_path, "vfs") as engine:
        assert engine.driver.name == "vfs"
        written(engine, "overlay2")
        SnapshotTable(engine.store.state, "overlay2").add("x", SnapshotKind.COMMITTED, data={"id": "x"})
    with opened(tmp_path, "vfs") as engine:
        disagreement, others = engine.info()["DriverNotes"]
    assert disagreement == (
        f"{choice_file(engine.root)} says overlay2, and --storage-driver asks for vfs: what is new is made with vfs, and "
        "what overlay2 has goes on working; `lamina storage migrate --to vfs` moves it"
    )
    assert others == (
        "besides vfs, overlay2 has 1 snapshot and 0 containers here, which go on working; "
        "`lamina storage migrate --to vfs` moves them"
    )


def test_a_better_driver_is_pointed_at_where_nobody_asked(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        best = chosen(engine).name
        if best == "vfs":  # then there is nothing better to point at
            assert chosen(engine).notes == ()
            return
        written(engine, "vfs")
    with opened(tmp_path) as engine:
        assert chosen(engine).name == "vfs"
        assert chosen(engine).notes[-1].startswith(f"{best} would be chosen if nothing were here")


def test_a_better_driver_is_not_pointed_at_after_a_deliberate_choice(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        migrate(engine, "vfs")
    with opened(tmp_path) as engine:
        assert (chosen(engine).name, chosen(engine).notes) == ("vfs", ())
        assert engine.info()["DriverNotes"] == []


def test_drivers_in_info_say_whether_they_are_in_use(engine: Engine) -> None:
    found = engine.info()
    assert [each["Name"] for each in found["DriverCandidates"] if each["InUse"]] == [found["Driver"]]


def test_the_listing_counts_also_for_drivers_that_are_not_installed(engine: Engine) -> None:
    make_image([[file("x", b"x" * 5000)]], execution={"Cmd": ["x"]}).put(engine.store, "docker.io/library/app:1")
    engine.create("app:1", name="one")
    SnapshotTable(engine.store.state, "strange").add("x", SnapshotKind.COMMITTED)
    rows = {row.name: row for row in listing(engine)}
    vfs, strange = rows["vfs"], rows["strange"]
    assert (vfs.is_usable, vfs.is_in_use, vfs.snapshots, vfs.containers) == (True, True, 2, 1)
    assert vfs.size is not None
    assert vfs.size >= 2 * 8192
    assert (strange.is_usable, strange.is_in_use, strange.snapshots, strange.size, strange.reason) == (
        False, False, 1, None, "not installed")


@pytest.mark.parametrize("is_dry_run", [True, False])
@pytest.mark.parametrize("name", ["devicemapper", "vf"])
def test_where_nothing_was_chosen_a_driver_must_work_too(tmp_path: Path, name: str, is_dry_run: bool) -> None:
    with opened(tmp_path) as engine:
        with pytest.raises(DriverUnavailable, match=f"storage driver {name}: "):
            migrate(engine, name, is_dry_run=is_dry_run)
        assert read_choice(engine.root) is None


def test_a_home_that_somebody_has_locked_stays(tmp_path: Path) -> None:
    """Who comes next would have the lock of another directory, and both would think that they are alone."""
    with opened(tmp_path, "vfs") as engine:
        home = engine.root / "snapshots/vfs"
        with locked_home(home):
            leave(engine.root, engine.driver)
            assert home.is_dir()
        leave(engine.root, engine.driver)
        assert not home.exists()


def test_where_nothing_was_chosen_a_dry_run_chooses_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        assert migrate(engine, "vfs", is_dry_run=True).sources == ()
        assert read_choice(engine.root) is None
        migrate(engine, "vfs")
        choice = read_choice(engine.root)
    assert choice is not None
    assert (choice["driver"], choice["wanted"]) == ("vfs", True)


# -- what is refused, and changes nothing


def test_a_driver_that_nobody_has(engine: Engine) -> None:
    with pytest.raises(DriverUnavailable, match="storage driver floppy: no such driver"):
        migrate(engine, "floppy")
    assert engine.driver.name == "vfs"
    for act in (migrate, lambda engine, name: bench(engine, [name])):
        with pytest.raises(DriverUnavailable, match=r"no such driver.*; did you mean overlay2\?"):
            act(engine, "overlya2")


def test_a_driver_that_does_not_work_says_why(engine: Engine) -> None:
    assert engine.driver.name == "vfs"
    before = choice_file(engine.root).read_bytes()
    with pytest.raises(DriverUnavailable, match="storage driver btrfs: "):
        migrate(engine, "btrfs")
    assert choice_file(engine.root).read_bytes() == before


def test_one_at_a_time(engine: Engine) -> None:
    with _alone(engine), pytest.raises(StateInUse, match="another migration is under way"):
        migrate(engine, "vfs")


def test_a_build_under_way_is_in_the_way(engine: Engine) -> None:
    assert engine.driver.name == "vfs"
    with Lease(engine.store.state, "build") as lease:
        SnapshotTable(engine.store.state, "overlay2").add(
            f"build-{lease.id}-{'0' * 32}", SnapshotKind.ACTIVE, data={"id": "x"})
        with pytest.raises(StateInUse, match="a build is under way with overlay2"):
            migrate(engine, "vfs")


def test_nothing_to_move(engine: Engine) -> None:
    done = migrate(engine, "copy")
    assert (done.target, done.sources, done.images, done.containers, done.freed) == ("vfs", (), (), (), 0)


class Bounding(CopyingSnapshotter):
    """As overlay2 where the filesystem has no project quotas."""

    name = "bounding"

    def __init__(self, state: State, layers: LayerStore, hands: Hands, _options: object) -> None:
        super().__init__(state, layers, hands)
        self._table = SnapshotTable(state, self.name)
        self._directories = Directories(layers.root / "snapshots" / self.name, hands.empty)

    def limit(self, key: str, size: int) -> None:
        raise DriverUnavailable(f"storage driver bounding: {size} bytes cannot be bounded here")


@pytest.fixture
def limited(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """With the containers free and bound, of which the second has a limit."""
    point = EntryPoint("bounding", f"{__name__}:Bounding", "lamina.storage_drivers")
    monkeypatch.setattr(EntryPoint, "load", lambda _self: Bounding)
    monkeypatch.setattr(drivers, "entry_points", lambda: [point])
    make_image([[file("x")]], execution={"Cmd": ["x"]}).put(engine.store, "docker.io/library/app:1")
    engine.create("app:1", name="free")
    made = engine.create("app:1", name="bound")
    table = ContainerTable(engine.store.state)
    with engine.store.state.transaction():
        row = table.find(made.id)
        table.replace(replace(row, options=replace(row.options, storage=("size=1m",))))
    return engine


def test_a_limit_that_a_disk_does_not_let_a_driver_set_is_found_before_anything_moves(limited: Engine) -> None:
    with pytest.raises(DriverUnavailable, match="1048576 bytes cannot be bounded here") as caught:
        migrate(limited, "bounding")
    assert caught.value.__notes__ == [
        "bound is limited by --storage-opt size: commit and remove it, or choose another driver",
        "nothing was changed: everything is where it was",
    ]
    rows = {row.name: (row.snapshots, row.containers) for row in listing(limited)}
    assert (rows["vfs"], rows["bounding"]) == ((3, 2), (0, 0))
    assert json.loads(choice_file(limited.root).read_bytes())["driver"] == "vfs"


def test_a_dry_run_says_what_it_does_not_try(limited: Engine) -> None:
    (note,) = migrate(limited, "bounding", is_dry_run=True).notes[-1:]
    assert note == (
        "bound: limited by --storage-opt size; whether bounding can do that here, the migration tries first, and moves "
        "nothing where it cannot"
    )


# -- what a killed migration leaves


def test_only_what_no_container_is_in_is_misplaced(engine: Engine) -> None:
    make_image([[file("x")]], execution={"Cmd": ["x"]}).put(engine.store, "docker.io/library/app:1")
    made = engine.create("app:1", name="one")
    assert misplaced(engine) == []
    engine.driver.prepare(f"container-{'f' * 64}")
    engine.driver.prepare("container-of-somebody-else")
    assert [info.key for _driver, info in misplaced(engine)] == [f"container-{'f' * 64}"]
    assert engine.usage()[-1].total == 1
    sweep(engine)
    assert sorted(info.key for info in engine.driver.walk() if info.kind is SnapshotKind.ACTIVE) == [
        f"container-{made.id}", "container-of-somebody-else"]


def test_a_container_that_is_being_made_is_left_alone(engine: Engine) -> None:
    """Its directory is there before its row."""
    number = "e" * 64
    engine.driver.prepare(f"container-{number}")
    (engine.root / "containers" / number).mkdir(parents=True)
    assert misplaced(engine) == []
    assert sweep(engine) == 0


# -- bench


# -- containers without a layer


@pytest.fixture
def one(engine: Engine) -> Container:
    make_image([[file("x")]], execution={"Cmd": ["x"]}).put(engine.store, "docker.io/library/app:1")
    engine.create("app:1", name="one")
    return ContainerTable(engine.store.state).find("one")


def findings(engine: Engine) -> list[tuple[str, bool]]:
    return [(f"{each.subject}: {each.problem}", each.repaired) for each in engine.check(repair=True)]


def test_a_layer_that_is_missing(engine: Engine, one: Container) -> None:
    engine.driver.remove(one.snapshot)
    with ContainerDirectory(engine.root, one.id).locked():
        assert findings(engine) == []  # somebody is at it
    assert findings(engine) == [
        ("container one: its layer is missing in vfs; `lamina rm` removes the rest", True)
    ]
    assert ContainerTable(engine.store.state).ids() == set()


def test_a_container_that_moves_to_another_driver_meanwhile_misses_nothing(
    engine: Engine, one: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read of it a moment ago names the driver that it has left."""
    looks = []

    def look(driver: Snapshotter, container: Container) -> bool:
        looks.append(driver.name)
        return len(looks) > 1 and has_layer(driver, container)

    monkeypatch.setattr(checking, "has_layer", look)
    assert findings(engine) == []
    assert ContainerTable(engine.store.state).ids() == {one.id}
    assert looks == ["vfs", "vfs"]


def test_a_layer_of_a_driver_that_cannot_be_opened_is_not_missing(engine: Engine, one: Container) -> None:
    ContainerTable(engine.store.state).replace(replace(one, driver="strange"))
    ((problem, is_repaired),) = findings(engine)
    assert problem.startswith("container one: its layer cannot be looked at: storage driver strange: no such driver")
    assert not is_repaired
    assert ContainerTable(engine.store.state).ids() == {one.id}


def test_a_bench_leaves_nothing(open_engine: Callable[..., Engine]) -> None:
    engine = open_engine()
    assert engine.driver.name == "vfs"
    before = sorted(path.name for path in engine.root.rglob("*"))
    done = bench(engine, ["copy"], layers=2, containers=3)
    (row,) = done.rows
    assert (row.driver, row.layers, row.containers, done.left_out) == ("vfs", 2, 3, ())
    assert min(row.stack, row.create, row.write, row.diff, row.commit, row.remove) > 0
    assert row.size > 4096
    assert sorted(path.name for path in engine.root.rglob("*")) == before


def test_a_bench_that_is_interrupted_leaves_nothing(engine: Engine) -> None:
    calls = iter(range(100))

    def seconds() -> float:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        bench(engine, ["vfs"], layers=2, containers=3, seconds=seconds)
    assert os.listdir(engine.root / "ingest") == []


def test_a_bench_does_not_fill_the_disk(engine: Engine) -> None:
    with pytest.raises(NoRoom, match=r"comparing may take \d+ MiB for vfs, and \d+ MiB are free; ask for fewer"):
        bench(engine, ["vfs"], layers=500, containers=100_000)
    assert os.listdir(engine.root / "ingest") == []


def test_what_a_bench_is_asked_for_is_looked_at_first(engine: Engine) -> None:
    with pytest.raises(InvalidInput, match="0 layers, 3 containers: expected 1 to 500"):
        bench(engine, ["vfs"], layers=0, containers=3)
    with pytest.raises(DriverUnavailable, match="storage driver floppy: no such driver"):
        bench(engine, ["floppy"])
