"""From every storage driver of this machine to every other: what a container wrote is the same before and after.

All lie on one btrfs, where each of them works; zfs has a zfs-fuse of its own besides.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.privileged.btrfsdisk import btrfs
from tests.privileged.places import busybox_layer, owned_directory
from tests.privileged.test_migrate import CAPABILITY, everything, opened, seen
from tests.privileged.test_migrate_room import dry
from tests.privileged.test_migrate_room import fill as fill_disk
from tests.privileged.zfsfuse import ZfsFuse, datasets, run, serving, unmount_below

from lamina.engine.drivers import listing
from lamina.engine.engine import Engine
from lamina.engine.migrating import migrate
from lamina.engine.misplaced import misplaced
from lamina.engine.moving import LimitReached
from lamina.engine.room import NoRoom
from lamina.layer.entry import Entry
from lamina.layer.exactly import FLAGS, unsayable
from lamina.runtime.options import ContainerOptions
from lamina.runtime.records import ContainerTable
from lamina.snapshot.moving import NotKept
from lamina.snapshot.snapshotter import DriverUnavailable
from lamina.testing.images import device, directory, file, hardlink, make_image, symlink
from lamina.testing.model import differences
from lamina.values import replace

pytestmark = pytest.mark.privileged

DRIVERS = ("overlay2", "vfs", "erofs", "btrfs", "fuse-overlayfs")
WAYS = [(before, after) for before in DRIVERS for after in DRIVERS if before != after]
# Each takes five seconds.
ZFS_WAYS = [("overlay2", "zfs"), ("zfs", "overlay2"), ("btrfs", "zfs"), ("zfs", "vfs")]
BASE: list[Entry] = [
    directory("d", mode=0o751, uid=4), file("d/gone", b"gone"), file("d/over", b"as it was" * 1000, mode=0o640),
    file("d/mode", b"m"), file("d/one", b"1"), hardlink("d/other", "d/one"), device("d/null", 1, 3),
    directory("away"), file("away/old", b"old"), directory("away/deep"), file("away/deep/old", b"old"),
    symlink("link", "d/over"), file("replaced", b"r"),
]
SECOND = 10**9
AT_FDCWD = -100  # fcntl.h
# fuse-overlayfs makes a plain file of a device of the image that is changed, and is of two minds about its links.
UNTOUCHED = ("null", "one", "other")


def fill(top: Path) -> None:
    """All kinds of files, all kinds of changes; whole seconds, since zfs-fuse has no others."""
    (top / "d/gone").unlink()
    (top / "d/over").write_bytes(b"now")
    (top / "d/mode").chmod(0o4751)
    shutil.rmtree(top / "away")
    (top / "away").mkdir(mode=0o1777)
    (top / "away/new").write_text("new")
    (top / "replaced").unlink()
    (top / "replaced").mkdir()
    (top / "link").unlink()
    (top / "link").symlink_to("nowhere")
    os.lchown(top / "link", 5, 6)
    (top / "dir").mkdir()
    os.setxattr(top / "dir", "user.note", b"\0\xff")
    for number, name in enumerate((b"plain", b"b\xff", "ü ".encode())):
        place = os.path.join(os.fsencode(top / "dir"), name)
        with open(place, "wb") as out:
            out.write(name)
        os.chown(place, number + 1, number + 2)
    os.setxattr(top / "dir/plain", "security.capability", CAPABILITY)
    os.setxattr(top / "dir/plain", "trusted.note", b"t")
    os.link(top / "dir/plain", top / "away/linked")
    with (top / "sparse").open("wb") as out:
        out.truncate(64 << 20)
        out.seek(32 << 20)
        out.write(b"here")
    os.mkfifo(top / "dir/pipe", 0o640)
    os.mknod(top / "dir/block", stat.S_IFBLK | 0o660, os.makedev(7, 3))
    os.mknod(top / "dir/char", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(top / "dir/socket"))
    os.chmod(top / "dir/socket", 0o4770)
    os.chown(top / "dir/socket", 7, 8)
    os.link(top / "dir/socket", top / "away/socket")
    for above, names, files in os.walk(top, topdown=False):
        for name in (*names, *files, "."):
            if name not in UNTOUCHED:
                os.utime(os.path.join(above, name), ns=(SECOND, 1_700_000_000 * SECOND), follow_symlinks=False)


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    with btrfs(1 << 30) as path:
        subprocess.run(["mount", "-o", "remount,dev", path], check=True)
        yield path


@pytest.fixture
def root(disk: Path) -> Iterator[Path]:
    path = disk / os.urandom(4).hex()
    path.mkdir()
    yield path
    unmount_below(path)


@pytest.fixture(scope="module")
def daemon() -> Iterator[ZfsFuse]:
    with owned_directory(None) as path, serving(path) as made:
        yield made


@pytest.fixture
def parent(daemon: ZfsFuse) -> str:
    return daemon.parent(f"ways-{os.urandom(4).hex()}")


def made(engine: Engine, name: str = "one") -> None:
    image = make_image([busybox_layer(), BASE], execution={"Cmd": ["sh"], "Env": ["PATH=/bin"]})
    image.put(engine.store, "docker.io/library/base:1")
    engine.create("base:1", name=name)


def insist_moved(root: Path, before: str, after: str, *options: str) -> None:
    with opened(root, before, *options) as engine:
        made(engine)
        with seen(engine, "one") as top:
            fill(top)
        files, changes = everything(engine, "one")
        assert {each.kind for each in files.values()} == set("fdlpcbs")
        if before == "fuse-overlayfs":  # changes the root's time when it copies a file into it: nobody's business
            files[""].mtime = -1
    with opened(root, after, *options) as engine:
        done = migrate(engine, after)
        assert (done.sources, done.remaining, done.notes) == ((before,), (), ())
        assert all(0 < room.needed < room.free for room in done.rooms)
        found, same = everything(engine, "one")
        assert differences(files, found) == []
        assert same == changes
        with seen(engine, "one") as top:
            os.sync()
            assert (top / "sparse").stat().st_blocks * 512 < 4 << 20
        assert {row.name for row in listing(engine) if row.snapshots or row.size} == {after}
        assert engine.usage()[-1].total == 0
        assert list(engine.check()) == []
    words = ("--root", root, "run", "--rm", "--network", "none", "base:1", "cat", "/d/gone")
    said = subprocess.run([sys.executable, "-m", "lamina", *words], capture_output=True, text=True, check=False)
    assert (said.stdout, said.stderr) == ("gone", "")


@pytest.mark.xdist_group("migrate ways")
@pytest.mark.parametrize(("before", "after"), WAYS)
def test_a_container_is_the_same(root: Path, before: str, after: str) -> None:
    insist_moved(root, before, after)
    assert not (root / "snapshots" / before).exists()


@pytest.mark.xdist_group("zfs")
@pytest.mark.parametrize(("before", "after"), ZFS_WAYS)
def test_to_and_from_zfs(root: Path, parent: str, before: str, after: str) -> None:
    insist_moved(root, before, after, f"zfs.fsname={parent}")
    if before == "zfs":
        assert datasets(parent) == []
        assert [path.name for path in (root / "snapshots/zfs").iterdir()] == ["root-id"]
    else:
        assert not (root / "snapshots" / before).exists()


# -- flags of files


def flags(top: Path) -> dict[str, bytes]:
    found = {}
    for above, names, files in os.walk(top):
        for name in (*names, *files):
            place = Path(above, name)
            mark = unsayable(AT_FDCWD, str(place), place.lstat())
            if mark:
                found[str(place.relative_to(top))] = mark[FLAGS]
    return found


def flagged(engine: Engine, container: str = "one") -> None:
    made(engine, container)
    with seen(engine, container) as top:
        (top / "log").write_text("so far")
        (top / "kept").mkdir()
        (top / "kept/empty").mkdir()
        for flag, name in (("+a", "log"), ("+i", "d/over"), ("+i", "kept/empty"), ("+ai", "kept")):
            subprocess.run(["chattr", flag, top / name], check=True)


FLAGS_SET = {"log": b"a", "d/over": b"i", "kept/empty": b"i", "kept": b"ai"}


@pytest.mark.xdist_group("migrate ways")
def test_flags_go_along_and_keep_nobody_from_removing(root: Path) -> None:
    """Overlays note them in an attribute, other filesystems have them: there they resist."""
    with opened(root, "overlay2") as engine:
        flagged(engine)
    for driver in ("vfs", "btrfs", "erofs", "vfs"):
        with opened(root, driver) as engine:
            migrate(engine, driver)
            with seen(engine, "one") as top:
                assert flags(top) == FLAGS_SET, driver
            assert {row.name for row in listing(engine) if row.snapshots or row.size} == {driver}
            assert engine.usage()[-1].total == 0
    with opened(root, "vfs") as engine:
        engine.remove_container("one")
        assert engine.usage()[-1].total == 0


@pytest.mark.xdist_group("migrate ways")
def test_flags_that_a_driver_does_not_have_keep_a_container_where_it_is(root: Path) -> None:
    with opened(root, "overlay2") as engine:
        flagged(engine)
    with opened(root, "fuse-overlayfs") as engine:
        with pytest.raises(NotKept, match=r"chattr \+a, chattr \+ai, chattr \+i: .* cannot be set"):
            migrate(engine, "fuse-overlayfs")
        assert engine.container("one").container.driver == "overlay2"
        with seen(engine, "one") as top:
            assert flags(top) == FLAGS_SET
        assert misplaced(engine) == []


# -- limits


def limited(engine: Engine, size: str) -> None:
    image = make_image([busybox_layer(), BASE], execution={"Cmd": ["sh"], "Env": ["PATH=/bin"]})
    image.put(engine.store, "docker.io/library/base:1")
    engine.create("base:1", name="one", options=ContainerOptions(storage=(f"size={size}",)))
    with seen(engine, "one") as top:
        (top / "written").write_bytes(os.urandom(1 << 20))


def fits(engine: Engine, size: int) -> bool:
    """Whether the container may write so much more; it is gone again afterwards."""
    with seen(engine, "one") as top:
        written = subprocess.run(
            ["dd", "if=/dev/urandom", f"of={top}/more", "bs=64k", f"count={size >> 16}", "conv=fsync"],
            capture_output=True, text=True, check=False)
        (top / "more").unlink()
        os.sync()
    assert written.returncode == 0 or "quota" in written.stderr or "No space" in written.stderr
    return written.returncode == 0


@pytest.mark.xdist_group("zfs")
def test_a_limit_goes_along(root: Path, parent: str) -> None:
    option = f"zfs.fsname={parent}"
    with opened(root, "btrfs", option) as engine:
        limited(engine, "8m")
        assert not fits(engine, 16 << 20)
    for driver in ("zfs", "btrfs"):
        with opened(root, driver, option) as engine:
            migrate(engine, driver)
            assert engine.container("one").container.options.storage == ("size=8m",)
            assert fits(engine, 2 << 20)
            assert not fits(engine, 16 << 20), driver


@pytest.mark.xdist_group("migrate ways")
def test_a_container_that_is_too_large_for_its_limit_stays_where_it_is(root: Path, disk: Path) -> None:
    """Drivers count in ways of their own. The limit holds from the first byte, and keeps no other from moving."""
    with opened(root, "vfs") as engine:
        made(engine)
        engine.create("base:1", name="other")
        with seen(engine, "one") as top:
            (top / "written").write_bytes(os.urandom(8 << 20))
        bound(engine, "size=4m")
    with opened(root, "btrfs") as engine:
        with pytest.raises(LimitReached, match="one: what it wrote does not fit into --storage-opt size=4194304") as found:
            migrate(engine, "btrfs")
        assert "still in their old driver, where they work: one" in str(found.value.__notes__)
        assert [engine.container(name).container.driver for name in ("one", "other")] == ["vfs", "btrfs"]
        assert misplaced(engine) == []
        with seen(engine, "one") as top:
            assert (top / "written").stat().st_size == 8 << 20


def bound(engine: Engine, *storage: str) -> None:
    table = ContainerTable(engine.store.state)
    with engine.store.state.transaction():
        row = table.find("one")
        table.replace(replace(row, options=replace(row.options, storage=storage)))


@pytest.mark.xdist_group("migrate ways")
def test_a_limit_that_a_driver_cannot_keep(root: Path) -> None:
    with opened(root, "btrfs") as engine:
        limited(engine, "8m")
    for driver in ("vfs", "overlay2"):
        with opened(root, driver) as engine:
            with pytest.raises(DriverUnavailable, match=r"one: limited by|a size limit takes project quotas"):
                migrate(engine, driver)
            assert engine.container("one").container.driver == "btrfs"
            assert not fits(engine, 16 << 20)


# -- room


@pytest.mark.xdist_group("zfs")
def test_a_pool_is_asked_where_the_snapshots_will_be(tmp_path: Path, parent: str) -> None:
    run("zfs", "set", f"quota={3 << 20}", parent)
    option, root = f"zfs.fsname={parent}", tmp_path / "root"
    with opened(root, "overlay2", option) as engine:
        fill_disk(engine)
    with pytest.raises(NoRoom, match=rf"^{parent}: the migration takes 4\.\d MiB there at least, and 2\.\d MiB"):
        dry(root, "zfs", option)
    run("zfs", "set", "compression=on", parent)
    notes = dry(root, "zfs", option).notes
    assert [note for note in notes if note.startswith(f"{parent}: the migration takes about 20 MiB there")]
    run("zfs", "set", "quota=none", parent)
    found = dry(root, "zfs", option)
    assert found.notes == ()
    assert [room.place for room in found.rooms] == [str(root), parent]
    assert datasets(parent) == []
