"""Everything of one storage driver becomes another's, and nobody can tell but by the space that is free."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import OrdinaryUser
from tests.privileged.life import CHANGES, LAYER, LOOK, REMOVALS, SCRIPT, SEEN, entries, make_base
from tests.privileged.places import Place, disk_use, owned_directory

from lamina.content.dropped import DroppedBlob
from lamina.engine import containers, copying, removing, starting
from lamina.engine.drivers import listing
from lamina.engine.engine import Engine
from lamina.engine.migrating import migrate
from lamina.engine.misplaced import misplaced
from lamina.engine.settings import Settings
from lamina.events import Action, Event
from lamina.runtime.container import observe
from lamina.snapshot.directories import Directories
from lamina.snapshot.hands import Hands
from lamina.snapshot.mounting import mounted
from lamina.snapshot.namespace import Identity
from lamina.testing.images import device, directory, file, hardlink, make_image, symlink
from lamina.testing.model import ModelFile, differences, read_tree

pytestmark = pytest.mark.privileged

WAYS = [
    ("root", "overlay2", "vfs"), ("root", "vfs", "overlay2"), ("root", "overlay2", "erofs"),
    ("root", "erofs", "overlay2"), ("root", "vfs", "erofs"), ("root", "erofs", "vfs"),
    ("ranges", "overlay2", "vfs"), ("ranges", "vfs", "overlay2"), ("single", "overlay2", "vfs"),
    ("ranges", "overlay2", "fuse-overlayfs"), ("ranges", "fuse-overlayfs", "vfs"),
]


@pytest.fixture(scope="module")
def layout() -> Iterator[Path]:
    with owned_directory(None) as path:
        path.chmod(0o755)
        yield make_base(path / "layout")


@pytest.fixture(params=WAYS, ids="-".join)
def way(
    request: pytest.FixtureRequest, ordinary_user: OrdinaryUser, user_without_ranges: OrdinaryUser
) -> Iterator[tuple[Place, Place]]:
    """The same state directory, as it is asked for before and after."""
    who, before, after = request.param
    user = {"root": None, "ranges": ordinary_user, "single": user_without_ranges}[who]
    with owned_directory(user) as path:
        old = Place(path / "root", user, before, "embedded")
        try:
            yield old, replace(old, driver=after)
        finally:
            old.clear()


def test_a_life_goes_on(way: tuple[Place, Place], layout: Path) -> None:
    old, new = way
    old.say("load", "-q", "-i", layout)
    old.say("create", "--name", "one", "--network", "none", "base:1", "sh", "-c", SCRIPT)
    assert old.say("start", "-a", "one") == SEEN
    old.say("create", "--name", "idle", "--network", "none", "base:1", "cat", "/data/gone")
    dry = json.loads(new.say("storage", "migrate", "--to", new.driver, "--dry-run", "--format", "json"))
    assert (dry["Containers"], dry["Images"], dry["Sources"]) == (["one", "idle"], ["base:1"], [old.driver])
    done = json.loads(new.say("-q", "storage", "migrate", "--to", new.driver, "--format", "json"))
    assert done == {**dry, "DryRun": False, "Freed": done["Freed"], "Room": done["Room"]}
    (room,) = dry["Room"]
    assert room["Place"] == str(new.root)
    assert 0 < room["Needed"] < room["Free"]
    assert done["Freed"] > 0
    assert new.say("diff", "one") == CHANGES
    new.say("commit", "one", "result:1")
    assert entries(new, "result:1") == LAYER | REMOVALS
    assert new.say("run", "--rm", "--network", "none", "result:1", "sh", "-c", LOOK) == SEEN
    assert new.say("run", "--rm", "--network", "none", "base:1", "cat", "/data/over") == "as it was\n"
    assert new.say("inspect", "--format", "{{.GraphDriver.Name}}", "one", "idle") == f"{new.driver}\n" * 2
    assert new.say("start", "-a", "idle") == "gone\n"
    assert held(new) == {new.driver}
    assert not (new.root / "snapshots" / old.driver).exists()
    assert json.loads((new.root / "snapshots/driver.json").read_text())["driver"] == new.driver
    assert new.usage()["Leftovers"]["total"] == 0
    assert new.run("check").returncode == 0


def has_left(place: Place, driver: str) -> bool:
    rows = {row["Name"]: row for row in map(json.loads, place.lines("storage", "ls", "--format", "json"))}
    return rows["vfs"]["Snapshots"] > 0 and not rows[driver]["Snapshots"]


def held(place: Place) -> set[str]:
    """Drivers that have anything here."""
    rows = map(json.loads, place.lines("storage", "ls", "--format", "json"))
    return {row["Name"] for row in rows if row["Snapshots"] or row["Containers"] or row["Size"]}


@pytest.mark.parametrize("way", [WAYS[0], WAYS[3], WAYS[7]], indirect=True, ids="-".join)
def test_nothing_of_the_old_driver_takes_space(way: tuple[Place, Place], layout: Path) -> None:
    old, new = way
    old.say("load", "-q", "-i", layout)
    fresh = replace(new, root=new.root.with_name("fresh"))
    fresh.say("load", "-q", "-i", layout)
    new.say("-q", "storage", "migrate", "--to", new.driver)
    assert abs(disk_use(new.root) - disk_use(fresh.root)) < 300_000


@pytest.mark.parametrize("way", [WAYS[6], WAYS[8]], indirect=True, ids="-".join)
def test_sockets_of_ordinary_users_go_along(way: tuple[Place, Place], layout: Path) -> None:
    """As a daemon leaves one that was killed."""
    old, new = way
    assert old.user is not None
    old.say("load", "-q", "-i", layout)
    old.say("create", "--name", "one", "--network", "none", "base:1", "busybox", "test", "-S", "/socket")
    (upper,) = old.root.glob("snapshots/overlay2/*/upper")
    os.mknod(upper / "socket", stat.S_IFSOCK | 0o750)
    os.chown(upper / "socket", old.user.uid, old.user.gid)
    old.say("start", "-a", "one")
    new.say("-q", "storage", "migrate", "--to", "vfs")
    (there,) = new.root.glob("snapshots/vfs/*/tree/socket")
    status = there.lstat()
    assert (stat.filemode(status.st_mode), status.st_uid, status.st_gid) == ("srwxr-x---", old.user.uid, old.user.gid)
    new.say("start", "-a", "one")


# -- what is in the way


@pytest.fixture
def place(layout: Path) -> Iterator[Place]:
    with owned_directory(None) as path:
        made = Place(path / "root", None, "overlay2", "embedded")
        made.say("load", "-q", "-i", layout)
        try:
            yield made
        finally:
            made.clear()


def test_what_runs_and_what_is_mounted_is_named(place: Place) -> None:
    place.say("run", "-d", "--name", "busy", "--network", "none", "base:1", "sleep", "1000")
    place.say("create", "--name", "idle", "--network", "none", "base:1", "true")
    there = place.say("mount", "base:1").strip()
    new = replace(place, driver="vfs")
    done = new.run("storage", "migrate", "--to", "vfs")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "lamina: busy: running with another storage driver than vfs; `lamina stop busy` first, and start it again "
        "afterwards\n")
    assert "busy" in new.run("storage", "migrate", "--to", "vfs", "--dry-run").stderr
    place.say("rm", "-f", "busy")
    assert f"{there}: mounted images; `lamina umount {there}` first" in new.run("storage", "migrate", "--to", "vfs").stderr
    place.say("umount", "base:1")
    assert held(place) == {"overlay2"}
    done = place.run("-q", "storage", "migrate", "--to", "vfs")  # which would use overlay2 again, as it was told
    assert (done.returncode, done.stderr) == (0, "")
    note = place.run("storage", "migrate", "--to", "vfs").stderr
    assert note == (
        "note: LAMINA_STORAGE_DRIVER asks for overlay2, and would bring it back: let it say vfs, or nothing\n")


def test_a_container_that_somebody_makes_meanwhile_keeps_its_image(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the old driver, when all its snapshots are gone, and before the forms are of which they were."""
    made = []

    class Late(Hands):
        def __init__(self, identity: Identity) -> None:
            super().__init__(identity)
            if not made and has_left(place, "overlay2"):
                made.append(place.say("create", "--name", "late", "--network", "none", "base:1", "cat", "/data/over"))

    monkeypatch.setattr("lamina.engine.migrating.Hands", Late)
    settings = Settings.load({}, flags={"data-root": str(place.root)})
    with Engine.open(settings=settings) as engine:
        migrate(engine, "vfs")
    assert made
    assert place.say("start", "-a", "late") == "as it was\n"


def test_holes_stay_holes(place: Place) -> None:
    place.say("run", "--name", "one", "--network", "none", "base:1", "sh", "-c",
              "dd if=/bin/busybox of=/big bs=4096 count=3 seek=20000 2>/dev/null")
    place.run("-q", "storage", "migrate", "--to", "vfs")
    (big,) = (place.root / "snapshots/vfs").glob("*/tree/big")
    data = big.read_bytes()
    assert data[:81_920_000] == bytes(81_920_000)
    assert data[81_920_000:] == (big.parent / "bin/busybox").read_bytes()[:12288]
    assert big.stat().st_blocks * 512 < 4 << 20


def test_what_somebody_is_making_with_the_old_driver_stays_whole(place: Place) -> None:
    with Directories(place.root / "snapshots/overlay2", shutil.rmtree).new() as path:
        (path / "upper/empty").mkdir(parents=True)
        place.run("-q", "storage", "migrate", "--to", "vfs")
        assert held(place) == {"vfs"}
        assert (path / "upper/empty").is_dir()


def test_a_container_that_no_layer_can_say_stays_where_it_is(place: Place) -> None:
    place.say("run", "--name", "good", "--network", "none", "base:1", "touch", "/x")
    place.say("run", "--name", "bad", "--network", "none", "base:1", "touch", "/.wh.x")
    new = replace(place, driver="vfs")
    done = new.run("-q", "storage", "migrate", "--to", "vfs")
    assert done.returncode == 1
    assert "'.wh.x': in a layer, this would remove another file" in done.stderr
    assert "bad was on its way from overlay2 to vfs" in done.stderr
    assert "still in their old driver, where they work: bad; run it again to go on" in done.stderr
    with opened(place.root, "vfs") as engine:
        assert {row.name: (row.snapshots > 0, row.containers) for row in listing(engine) if row.snapshots} == {
            "overlay2": (True, 1), "vfs": (True, 1)}
        assert misplaced(engine) == []
        assert "besides vfs, overlay2 has" in engine.info()["DriverNotes"][0]
    assert new.say("diff", "bad") == "A /.wh.x\n"
    new.say("rm", "bad")
    new.say("-q", "storage", "migrate", "--to", "vfs")
    assert held(new) == {"vfs"}


def test_those_that_cannot_move_keep_no_other_from_it(place: Place) -> None:
    for name, path in (("bad", "/.wh.x"), ("good", "/x"), ("worse", "/.wh.y")):
        place.say("run", "--name", name, "--network", "none", "base:1", "touch", path)
    done = replace(place, driver="vfs").run("-q", "storage", "migrate", "--to", "vfs")
    assert done.returncode == 1
    assert "'.wh.x': in a layer" in done.stderr
    assert "'.wh.y': in a layer" in done.stderr
    assert "still in their old driver, where they work: bad, worse; run it again to go on" in done.stderr
    with opened(place.root, "vfs") as engine:
        assert {row.name: row.containers for row in listing(engine) if row.containers} == {"overlay2": 2, "vfs": 1}


def test_one_that_is_removed_meanwhile_keeps_no_other_from_moving(place: Place) -> None:
    for name in ("one", "two", "three"):
        place.say("create", "--name", name, "--network", "none", "base:1", "true")

    def remove_another(event: Event) -> None:
        if (event.action, event.subject) == (Action.MOVING, "one"):
            place.say("rm", "two")

    with Engine.open(settings=Settings.load({}, flags={"data-root": str(place.root)}), report=remove_another) as engine:
        migrate(engine, "vfs")
    assert held(place) == {"vfs"}


def test_who_waited_for_a_container_that_moved_finds_it(place: Place) -> None:
    """Its row was read before the wait."""
    for name in ("started", "removed"):
        place.say("create", "--name", name, "--network", "none", "base:1", "cat", "/data/over")
    with Engine.open(settings=Settings.load({}, flags={"data-root": str(place.root)})) as engine:
        started, removed = (engine.container(name).container for name in ("started", "removed"))
        migrate(engine, "vfs")
        directory = containers.directory_of(engine, started)
        with copying.reached(engine, started, directory, observe(directory), []) as reach:
            copying.copy_out(reach, "started", "/data/over", str(place.root / "over"), follow=False, keeps_ids=False)
        assert (place.root / "over").read_text() == "as it was\n"
        starting.start(engine, started)
        assert engine.wait("started") == 0
        removing.remove_locked(engine, removed, with_volumes=False)
        assert [row.name for row in engine.containers(shows_all=True)] == ["started"]
        assert engine.usage()[-1].total == 0


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    image, disk = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as out:
        out.truncate(64 << 20)
    disk.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, disk], check=True)
    try:
        root = disk / "root"
        with opened(root, "overlay2") as engine:
            make_image([BASE, TOP], execution={"Cmd": ["x"]}).put(engine.store, "docker.io/library/app:1")
            for number in range(2):
                fill(engine, number)
            with seen(engine, "c1") as top:
                (top / "large").write_bytes(os.urandom(12 << 20))
            before = {name: everything(engine, name) for name in ("c0", "c1")}
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        (disk / "ballast").write_bytes(bytes(free - (18 << 20)))
        with opened(root, "vfs") as engine:
            with pytest.raises(OSError, match="No space left") as raised:
                migrate(engine, "vfs")
            assert "still in their old driver, where they work: c1; run it again" in str(raised.value.__notes__)
            insist_whole(engine, before)
            assert misplaced(engine) == []
            assert {name: engine.container(name).container.driver for name in before} == {"c0": "vfs", "c1": "overlay2"}
        (disk / "ballast").unlink()
        with opened(root, "vfs") as engine:
            migrate(engine, "vfs")
            insist_whole(engine, before)
            assert {row.name for row in listing(engine) if row.snapshots} == {"vfs"}
    finally:
        subprocess.run(["umount", disk], check=True)


def test_to_and_from_a_driver_of_snapshots(tmp_path: Path) -> None:
    """btrfs, on a loop file: a subvolume for each layer."""
    image, disk = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as out:
        out.truncate(256 << 20)
    disk.mkdir()
    subprocess.run(["mkfs.btrfs", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, disk], check=True)
    try:
        with opened(disk / "root", "overlay2") as engine:
            make_image([BASE, TOP], execution={"Cmd": ["x"]}).put(engine.store, "docker.io/library/app:1")
            for number in range(2):
                fill(engine, number)
            before = {name: everything(engine, name) for name in ("c0", "c1")}
        for driver in ("btrfs", "vfs", "btrfs", "overlay2"):
            with opened(disk / "root", driver) as engine:
                migrate(engine, driver)
                insist_whole(engine, before)
                assert {row.name for row in listing(engine) if row.snapshots} == {driver}
                assert engine.usage()[-1].total == 0
        assert not (disk / "root/snapshots/btrfs").exists()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_layer_whose_blob_was_dropped_comes_from_the_old_form(tmp_path: Path) -> None:
    layers = [[file("x", b"x" * 100_000), directory("d"), file("d/y", b"y" * 50_000)]]
    made = make_image(layers, execution={"Cmd": ["x"]})
    with opened(tmp_path / "root", "overlay2") as engine:
        made.put(engine.store, "docker.io/library/app:1")
        fill_plainly(engine, "c0")
        before = {"c0": everything(engine, "c0")}
        (layer,) = engine.image("app:1").layers
        engine.store.dropped.add([DroppedBlob(
            descriptor=layer.descriptor, diff_id=layer.diff_id, compression="gzip", repository="r.test/app", dropped=1.0)])
        engine.store.delete(layer.descriptor.digest)
    for driver in ("vfs", "erofs", "overlay2"):
        with opened(tmp_path / "root", driver) as engine:
            migrate(engine, driver)
            insist_whole(engine, before)
            assert list(engine.layers_store.check()) == []


@pytest.mark.parametrize("driver", ["overlay2", "erofs", "fuse-overlayfs"])
def test_no_directory_of_the_old_driver_stays(tmp_path: Path, driver: str) -> None:
    """Nor what was made because the topmost layer does not say what the root is like."""
    made = make_image([[directory("", mode=0o711), directory("d")], [file("x", b"x")]], execution={"Cmd": ["x"]})
    with opened(tmp_path, driver) as engine:
        made.put(engine.store, "docker.io/library/app:1")
        fill_plainly(engine, "c0")
        assert [change.path for change in engine.container_changes("c0")] == ["/d", "/d/new"]
        assert (tmp_path / "snapshots" / driver / "roots").exists()
    with opened(tmp_path, "vfs") as engine:
        migrate(engine, "vfs")
    assert {path.name for path in (tmp_path / "snapshots").iterdir()} == {"driver.json", "vfs"}


def fill_plainly(engine: Engine, name: str) -> None:
    engine.create("app:1", name=name)
    with seen(engine, name) as top:
        (top / "d/new").write_bytes(b"n")


# -- exactly as it was


BASE = [
    directory("a", mode=0o751, uid=4), file("a/x", b"old" * 2000, mode=0o4755), file("a/y", b"y", uid=4, gid=5),
    directory("a/b"), file("a/b/x"), file("a/b/y", b"2"), directory("b", mode=0o1777), file("b/x", b"a"),
    hardlink("b/y", "b/x"), hardlink("a/z", "b/x"), symlink("b/z", "x"), device("z", 1, 3),
]
TOP = [file("x", b"t"), file("a/b/.wh.y"), directory("a/b")]
PLACES = ["x", "y", "z", *(f"{above}/{name}" for above in ("a", "b", "a/b", "b/a", "y") for name in "abxyz"), "b/\udcff"]
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


def _replace(path: Path, _other: Path, number: int) -> None:
    path.unlink()
    path.mkdir(mode=0o711)
    (path / f"n{number}").write_bytes(b"n")


def _append(path: Path, _other: Path, _number: int) -> None:
    with path.open("ab") as out:
        out.write(b"+")


def _sparse(path: Path, _other: Path, number: int) -> None:
    with path.open("r+b") as out:
        out.truncate(100_000 + number)
        out.seek(50_000)
        out.write(b"here")


ACTS = {
    "write": lambda path, _other, number: path.write_bytes(b"%d" % number * number),
    "append": _append,
    "remove": lambda path, _other, _number: shutil.rmtree(path) if path.is_dir() else path.unlink(),
    "mkdir": lambda path, _other, number: path.mkdir(mode=0o700 | number),
    "again": lambda path, _other, _number: (shutil.rmtree(path), path.mkdir()),
    "replace": _replace,
    "sparse": _sparse,
    "rename": lambda path, other, _number: path.rename(other),
    "move": lambda path, other, _number: shutil.move(path, other),
    "link": lambda path, other, _number: os.link(path, other, follow_symlinks=False),
    "symlink": lambda path, other, _number: path.symlink_to(other.name),
    "chmod": lambda path, _other, number: path.chmod(0o4000 | number),
    "chown": lambda path, _other, number: os.lchown(path, number, number + 1),
    "utime": lambda path, _other, number: os.utime(path, ns=(1, 1_700_000_000_123_456_789 + number), follow_symlinks=False),
    "note": lambda path, _other, number: os.setxattr(path, f"user.n{number % 3}", b"\0\xff"),
    "trust": lambda path, _other, _number: os.setxattr(path, "trusted.note", b"t", follow_symlinks=False),
    "capability": lambda path, _other, _number: os.setxattr(path, "security.capability", CAPABILITY),
    "forget": lambda path, _other, _number: [os.removexattr(path, name) for name in os.listxattr(path)],
    "fifo": lambda path, _other, _number: os.mkfifo(path),
    "device": lambda path, _other, _number: os.mknod(path, stat.S_IFBLK | 0o640, os.makedev(7, 3)),
}
ACT = st.tuples(st.sampled_from(sorted(ACTS)), st.sampled_from(PLACES), st.sampled_from(PLACES), st.integers(0, 63))


def opened(root: Path, driver: str, *options: str) -> Engine:
    flags = {"data-root": str(root), "storage-driver": driver, "storage-opts": list(options)}
    return Engine.open(settings=Settings.load({}, flags=flags))


@contextmanager
def seen(engine: Engine, name: str) -> Iterator[Path]:
    """A container's files, mounted."""
    container = engine.container(name).container
    place = Path(tempfile.mkdtemp(prefix="lamina-seen-"))
    try:
        with mounted(engine.driver_named(container.driver).mounts(container.snapshot), place) as path:
            yield path
    finally:
        place.rmdir()


def everything(engine: Engine, name: str) -> tuple[dict[str, ModelFile], list[str]]:
    with seen(engine, name) as path:
        return read_tree(path), [f"{each.kind} {each.path}" for each in engine.container_changes(name)]


@pytest.mark.xdist_group("migrate exactly")
@given(done=st.lists(ACT, min_size=5, max_size=25))
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
def test_every_file_is_as_it_was(done: list[tuple[str, str, str, int]]) -> None:
    with owned_directory(None) as path:
        with opened(path / "root", "overlay2") as engine:
            make_image([BASE, TOP], execution={"Cmd": ["x"]}).put(engine.store, "docker.io/library/app:1")
            engine.create("app:1", name="one")
            with seen(engine, "one") as top:
                for act, place, other, number in done:
                    with suppress(OSError, shutil.Error):
                        ACTS[act](top / place, top / other, number)
            before, changes = everything(engine, "one")
        for driver in ("vfs", "erofs", "overlay2", "vfs"):
            with opened(path / "root", driver) as engine:
                migrate(engine, driver)
                after, same = everything(engine, "one")
                assert differences(before, after) == [], driver
                assert same == changes, driver


# -- killed at any moment


KILLED = """
import os, random, signal, sys
from lamina.engine.engine import Engine
from lamina.engine.migrating import migrate
from lamina.engine.settings import Settings
root, driver, last, number = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
count = 0
def note(frame, event, argument):
    global count
    count += 1
    if count == last:
        os.kill(os.getpid(), number)
with Engine.open(settings=Settings.load({}, flags={"data-root": root, "storage-driver": driver})) as engine:
    sys.setprofile(note)
    migrate(engine, driver)
    sys.setprofile(None)
print(count)
"""


def run_until(root: Path, driver: str, last: int, number: int = signal.SIGKILL) -> int | None:
    """How many calls of functions a whole migration was; ``None`` for one that did not get that far."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(root), driver, str(last), str(int(number))], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, -number), done.stderr
    return int(done.stdout) if done.returncode == 0 else None


def fill(engine: Engine, number: int) -> None:
    name = f"c{number}"
    engine.create("app:1", name=name)
    with seen(engine, name) as top:
        (top / f"new{number}").write_bytes(os.urandom(50_000))
        (top / "a/x").unlink()
        shutil.rmtree(top / "a/b")
        (top / "a/b").mkdir()
        os.link(top / "b/x", top / "linked")


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_any_call_each_container_is_whole(tmp_path: Path, seed: int) -> None:
    chance, drivers = Random(seed), ["vfs", "overlay2"] if seed % 2 else ["erofs", "vfs"]
    root = tmp_path / "root"
    with opened(root, drivers[0]) as engine:
        make_image([BASE, TOP], execution={"Cmd": ["x"]}).put(engine.store, "docker.io/library/app:1")
        for number in range(3):
            fill(engine, number)
        before = {name: everything(engine, name) for name in ("c0", "c1", "c2")}
    total = run_until(root, drivers[1], 0)
    assert total is not None
    for turn in range(5):
        to = drivers[turn % 2]
        for last in sorted(chance.randint(1, total) for _each in range(3)):
            if run_until(root, to, last) is None:
                with opened(root, to) as engine:
                    insist_whole(engine, before)
                    if chance.random() < 0.3:
                        engine.prune()
                        assert misplaced(engine) == []
        with opened(root, to) as engine:
            migrate(engine, to)
            insist_whole(engine, before)
            assert {engine.container(name).container.driver for name in before} == {to}
            assert {row.name for row in listing(engine) if row.snapshots} == {to}
            assert engine.usage()[-1].total == 0


@pytest.mark.parametrize("seed", range(2))
def test_interrupted_it_cleans_up_and_goes_on_later(tmp_path: Path, seed: int) -> None:
    chance, root = Random(seed), tmp_path / "root"
    with opened(root, "overlay2") as engine:
        make_image([BASE, TOP], execution={"Cmd": ["x"]}).put(engine.store, "docker.io/library/app:1")
        for number in range(2):
            fill(engine, number)
        before = {name: everything(engine, name) for name in ("c0", "c1")}
    for to in ("vfs", "overlay2", "vfs"):
        for _each in range(3):
            run_until(root, to, chance.randint(1, 60_000), signal.SIGINT)
            with opened(root, to) as engine:
                insist_whole(engine, before)
        with opened(root, to) as engine:
            migrate(engine, to)
            insist_whole(engine, before)
            assert engine.usage()[-1].total == 0


def insist_whole(engine: Engine, before: dict[str, tuple[dict[str, ModelFile], list[str]]]) -> None:
    for name, (files, changes) in before.items():
        after, same = everything(engine, name)
        assert differences(files, after) == []
        assert same == changes
