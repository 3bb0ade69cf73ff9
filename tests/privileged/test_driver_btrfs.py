"""The driver btrfs on a real filesystem: every case, a container's life, limits, crashes, and a disk that is full."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import OrdinaryUser
from tests.privileged.btrfsdisk import btrfs, subvolumes, wait_until_freed
from tests.privileged.life import live, make_base
from tests.privileged.places import Place, busybox_layer, make_layout, owned_directory

from lamina.errors import InvalidInput
from lamina.snapshot.btrfs import ioctl, quota
from lamina.snapshot.btrfs.driver import MIN_LIMIT, BtrfsSnapshotter
from lamina.snapshot.btrfs.subvolumes import create, opened, snapshot
from lamina.snapshot.drivers import read_options
from lamina.snapshot.probing import choose, probe
from lamina.snapshot.snapshotter import DriverUnavailable, SnapshotKind
from lamina.snapshot.trees import remove_tree
from lamina.testing.bench import Bench
from lamina.testing.conformance import CASES
from lamina.testing.images import directory, file
from lamina.testing.model import read_tree

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("btrfs")]

MB = 1 << 20


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    with btrfs() as made:
        yield made


@pytest.fixture
def bench(disk: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench("btrfs", disk / request.node.name / "state")
    try:
        yield made
    finally:
        made.close()
        remove_tree(made.root.parent)


def driver_of(bench: Bench) -> BtrfsSnapshotter:
    assert isinstance(bench.driver, BtrfsSnapshotter)
    return bench.driver


def unknown(bench: Bench) -> list[str]:
    """Directories that no row knows of."""
    home = bench.root / "snapshots" / "btrfs"
    return sorted(set(os.listdir(home)) - driver_of(bench)._known())


# -- what every driver does


@pytest.fixture(scope="module", params=["root", "ordinary_user", "user_without_ranges --no-mounts"])
def problems(request: pytest.FixtureRequest, disk: Path) -> dict[str, str]:
    """All cases in one process, in a mount namespace of its own; each test then looks at its own case."""
    who, *more = request.param.split()
    place = disk / who
    place.mkdir()
    arguments = ("-m", "lamina.testing.conformance", "btrfs", "--root", str(place), "--json", *more)
    command = [sys.executable, *arguments]
    if who != "root":
        user: OrdinaryUser = request.getfixturevalue(who)
        shutil.chown(place, user.uid, user.gid)
        command = user.python(*arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = {line["case"]: line["problem"] for line in map(json.loads, done.stdout.splitlines())}
    assert found.keys() == CASES.keys(), done.stderr
    assert list(place.iterdir()) == []
    place.rmdir()
    return found


@pytest.mark.parametrize("name", CASES)
def test_case(problems: dict[str, str], name: str) -> None:
    assert problems[name] == ""


WAYS = [("root", "runc"), ("root", "embedded"), ("ranges", "embedded"), ("single", "embedded")]


@pytest.fixture(scope="module")
def layout() -> Iterator[Path]:
    with owned_directory(None) as path:
        path.chmod(0o755)
        yield make_base(path / "layout")


@pytest.mark.parametrize(("who", "runtime"), WAYS, ids=map("-".join, WAYS))
def test_a_life(
    who: str, runtime: str, disk: Path, layout: Path, ordinary_user: OrdinaryUser, user_without_ranges: OrdinaryUser
) -> None:
    user = {"root": None, "ranges": ordinary_user, "single": user_without_ranges}[who]
    place = Place(disk / f"{who}-{runtime}" / "root", user, "btrfs", runtime)
    context = place.root.parent / "context"
    context.mkdir(parents=True)
    if user is not None:
        os.chown(place.root.parent, user.uid, user.gid)
    before = subvolumes(disk)
    try:
        live(place, layout, context)
        assert place.say("images", "-q") != ""
        place.say("rmi", "-f", *place.lines("images", "-q"))
        place.say("prune", "--force", "--all")
        assert os.listdir(place.root / "snapshots" / "btrfs") == []
    finally:
        place.clear()
        subprocess.run(["rm", "-r", place.root.parent], check=True)
    assert subvolumes(disk) == before


# -- limits


def test_a_container_meets_its_limit(disk: Path, tmp_path: Path) -> None:
    place = Place(disk / "limited", runtime="embedded", driver="btrfs")
    place.say("load", "-q", "-i", make_layout(tmp_path / "layout", [busybox_layer()]))
    script = "dd if=/dev/zero of=/big bs=65536 count=400; rm /big; echo small >/small && cat /small"
    try:
        done = place.run("run", "--rm", "--network", "none", "--storage-opt", "size=10m", "base:1", "sh", "-c", script)
        assert done.stdout == "small\n"
        assert "quota exceeded" in done.stderr.lower()
        for size, reason in (("64k", "at least"), ("many", "expected a size")):
            done = place.run("create", "--storage-opt", f"size={size}", "base:1")
            assert reason in done.stderr
        assert place.ids() == []
    finally:
        place.clear()
        subprocess.run(["rm", "-r", place.root], check=True)


def test_what_is_below_is_not_counted(bench: Bench) -> None:
    base = bench.stack([file("large", os.urandom(8 * MB))])
    with bench.mounted(bench.driver.prepare("key", base)) as path:
        driver_of(bench).limit("key", 4 * MB)
        (path / "mine").write_bytes(os.urandom(2 * MB))
        with pytest.raises(OSError, match="Disk quota exceeded"):
            (path / "more").write_bytes(os.urandom(4 * MB))
        (path / "more").unlink()
        driver_of(bench).limit("key", 40 * MB)
        (path / "more").write_bytes(os.urandom(16 * MB))
    bench.driver.commit("mine", "key")
    # Whoever builds on it has no limit of that kind.
    with bench.mounted(bench.driver.prepare("next", "mine")) as path:
        (path / "most").write_bytes(os.urandom(48 * MB))


def test_counters_of_what_is_gone_are_forgotten(bench: Bench, disk: Path) -> None:
    base = bench.stack([file("f", b"1")])
    before = subvolumes(disk)
    for number in range(5):
        with bench.mounted(bench.driver.prepare(f"{number}", base)) as path:
            driver_of(bench).limit(f"{number}", MB)
            (path / "f").write_bytes(os.urandom(100_000))
    made = {f"0_{number}" for number in subvolumes(disk) - before}
    with opened(disk) as descriptor:
        filesystem = quota._filesystem(descriptor)
    assert made <= set(quota._names(filesystem))
    for number in range(5):
        bench.driver.remove(f"{number}")
    wait_until_freed(disk)
    bench.driver.sweep()
    assert not made & set(quota._names(filesystem))


def test_limits_that_cannot_be(bench: Bench, disk: Path, ordinary_user: OrdinaryUser) -> None:
    bench.driver.prepare("key")
    with pytest.raises(InvalidInput, match=f"at least {MIN_LIMIT}"):
        driver_of(bench).limit("key", MIN_LIMIT - 1)
    driver = choose(bench.root, bench.store.state, bench.layers, wanted="btrfs", options=read_options(["btrfs.min_space=2m"]))
    assert isinstance(driver, BtrfsSnapshotter)
    with pytest.raises(InvalidInput, match=f"at least {2 * MB}"):
        driver.limit("key", MIN_LIMIT)
    driver.close()
    with pytest.raises(InvalidInput, match="min_space"):
        choose(bench.root, bench.store.state, bench.layers, wanted="btrfs", options=read_options(["btrfs.min_space=x"]))
    code = textwrap.dedent("""
        import sys
        from pathlib import Path
        from lamina.testing.bench import Bench
        bench = Bench("btrfs", Path(sys.argv[1]))
        bench.driver.prepare("key")
        try:
            bench.driver.limit("key", 1 << 30)
        except Exception as error:
            print(type(error).__name__, error)
        bench.close()
    """)
    place = disk / "unlimited"
    place.mkdir()
    os.chown(place, ordinary_user.uid, ordinary_user.gid)
    done = subprocess.run(ordinary_user.python("-c", code, place / "state"), capture_output=True, text=True, check=False)
    assert done.stdout == (
        "DriverUnavailable storage driver btrfs: a limit of size needs root: ordinary users cannot set quotas of btrfs\n"
    ), done.stderr
    remove_tree(place)


# -- subvolumes that a container makes


def make_inside(path: Path) -> None:
    for each in ("sub", "sub/deeper", "other"):
        create(str(path / each))
        (path / each / "f").write_text(each)
        os.link(path / each / "f", path / each / "g")
    snapshot(str(path / "sub"), str(path / "other" / "frozen"), is_read_only=True)


def test_subvolumes_inside_go_with_the_container(bench: Bench, disk: Path) -> None:
    before = subvolumes(disk)
    with bench.mounted(bench.driver.prepare("key")) as path:
        make_inside(path)
    assert len(subvolumes(disk)) == len(before) + 5
    bench.driver.remove("key")
    assert unknown(bench) == []
    assert subvolumes(disk) == before


def test_subvolumes_inside_go_for_ordinary_users(bench: Bench, disk: Path, ordinary_user: OrdinaryUser) -> None:
    """Emptied by a worker in the user namespace, which can make nothing that is read-only go."""
    code = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from lamina.testing.bench import Bench
        from lamina.snapshot.btrfs.subvolumes import create, snapshot
        bench = Bench("btrfs", Path(sys.argv[1]))
        top = bench.driver.prepare("key")[0].source
        for each in ("sub", "sub/deeper"):
            create(f"{top}/{each}")
            Path(f"{top}/{each}/f").write_text(each)
        snapshot(f"{top}/sub", f"{top}/frozen", is_read_only=True)
        bench.driver.remove("key")
        print(os.listdir(bench.root / "snapshots" / "btrfs"), bench.driver.sweep())
        bench.close()
    """)
    before = subvolumes(disk)
    os.chown(bench.root.parent, ordinary_user.uid, ordinary_user.gid)
    command = ordinary_user.python("-c", code, bench.root.parent / "theirs", Path(__file__).parent)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "[] 0\n", done.stderr
    assert subvolumes(disk) == before


def test_subvolumes_inside_become_directories_when_committed(bench: Bench, disk: Path) -> None:
    with bench.mounted(bench.driver.prepare("key")) as path:
        make_inside(path)
        (path / "sub").chmod(0o700)
        os.utime(path / "sub", ns=(1, 1))
        os.utime(path, ns=(2, 2))
        before = read_tree(path)
    # A snapshot shows the place of a subvolume that was in the source of another snapshot, and no more.
    assert before["other/frozen/deeper"].kind == "d"
    bench.driver.commit("base", "key")
    found = bench.read("base")
    assert found.keys() == before.keys()
    for path_, each in before.items():
        if path_ != "other/frozen/deeper":
            assert (each.kind, each.mode, each.mtime, each.what) == (
                found[path_].kind, found[path_].mode, found[path_].mtime, found[path_].what), path_
    with bench.mounted(bench.driver.prepare("next", "base")) as path:
        assert (path / "sub/deeper/f").read_text() == "sub/deeper"
        assert (path / "other/frozen/g").read_text() == "sub"
    assert {os.lstat(bench.root / "snapshots/btrfs" / name / "tree/sub").st_ino == ioctl.ROOT_INODE
            for name in driver_of(bench)._known()} == {False}


def test_a_directory_of_subvolumes_is_removed_as_any_other(disk: Path, tmp_path: Path) -> None:
    bench = Bench("btrfs", disk / "plain" / "state")
    bench.stack([directory("d"), file("d/f", b"1")], [file("g", b"2")])
    bench.driver.prepare("key", bench.stack([file("h", b"3")]))
    bench.close()
    subprocess.run(["rm", "-r", disk / "plain"], check=True)


# -- how much things take


def test_usage_is_what_was_written(bench: Bench) -> None:
    base = bench.stack([file("large", os.urandom(4 * MB)), *(file(f"{number}", b"1") for number in range(50))])
    assert bench.driver.usage(base).size == 4 * MB + 50
    with bench.mounted(bench.driver.prepare("key", base)) as path:
        assert bench.driver.usage("key").inodes == 0
        with (path / "large").open("r+b") as out:
            out.seek(MB)
            out.write(b"x" * 4096)
        (path / "new").write_bytes(b"y" * 10_000)
        (path / "dir").mkdir()
        (path / "0").unlink()
    found = bench.driver.usage("key")
    assert (found.size, found.inodes) == (4096 + 10_000, 2)
    bench.driver.commit("mine", "key")
    assert bench.driver.usage("mine") == found


# -- dying at any moment, and several at once


_WORK = """
import os, random, sys
from pathlib import Path
from lamina.errors import LaminaError
from lamina.snapshot.changes import list_changes
from lamina.snapshot.snapshotter import SnapshotKind
from lamina.testing.bench import Bench
chance = random.Random(sys.argv[2])
bench = Bench("btrfs", Path(sys.argv[1]))
driver = bench.driver
print("begins", flush=True)
while True:
    key = os.urandom(8).hex()
    there = list(driver.walk())
    parents = [info.key for info in there if info.kind is SnapshotKind.COMMITTED]
    try:
        (mount,) = driver.prepare(key, chance.choice([*parents, ""]))
        Path(mount.source, key).write_bytes(key.encode() * 200)
        if chance.random() < 0.3:
            list_changes(driver, key)
        if chance.random() < 0.6:
            driver.commit(f"name {key}", key)
        if len(there) > 12:
            driver.remove(chance.choice(there).key)
    except (LaminaError, FileNotFoundError):
        pass
"""


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_any_moment(bench: Bench, disk: Path, seed: int) -> None:
    chance = random.Random(seed)
    before = subvolumes(disk)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _WORK, str(bench.root), f"{seed} {number}"], stdout=subprocess.PIPE, text=True)
        for number in range(2)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "begins\n"
    time.sleep(0.1 + chance.random() * 0.6)
    for worker in workers:
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
    found = unknown(bench)
    bench.driver.sweep()
    assert unknown(bench) == [], found
    rows = list(driver_of(bench)._table.walk())
    assert len(subvolumes(disk) - before) == len(rows)
    for row in rows:
        # What was committed is whole, whoever died later.
        if row.info.kind is SnapshotKind.COMMITTED:
            key = row.info.key.removeprefix("name ")
            assert (driver_of(bench)._tree(row) / key).read_bytes() == key.encode() * 200
    for row in sorted(rows, key=lambda row: -row.info.created):
        bench.driver.remove(row.info.key)
    assert subvolumes(disk) == before


_COMMIT = """
import sys
from pathlib import Path
from lamina.oci.digest import Digest
from lamina.testing.bench import Bench
bench = Bench("btrfs", Path(sys.argv[1]))
print("begins", flush=True)
print(bench.driver.commit_layers([Digest(word) for word in sys.argv[2:]]))
bench.close()
"""


@pytest.mark.parametrize("seed", range(5))
def test_killed_while_layers_are_applied(bench: Bench, disk: Path, seed: int) -> None:
    before = subvolumes(disk)
    files = [file(f"{number}", b"%d" % number) for number in range(100)]
    diff_ids = bench.receive(*([file("n", b"%d" % number), *files] for number in range(40)))
    worker = subprocess.Popen(
        [sys.executable, "-c", _COMMIT, str(bench.root), *diff_ids], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "begins\n"
    time.sleep(random.Random(seed).random() * 0.3)
    bench.driver.sweep()  # which leaves the one that is being made
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    bench.driver.sweep()
    assert list(bench.driver.leftovers()) == []
    assert {info.kind for info in bench.driver.walk()} <= {SnapshotKind.COMMITTED}
    assert len(subvolumes(disk) - before) == len(list(bench.driver.walk()))
    assert bench.read(bench.driver.commit_layers(diff_ids))["n"].what == b"39"


def test_two_processes_commit_one_stack(bench: Bench, disk: Path) -> None:
    diff_ids = bench.receive(*([file(f"{number}", b"%d" % number)] for number in range(15)))
    before = subvolumes(disk)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _COMMIT, str(bench.root), *diff_ids], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True)
        for _ in range(3)
    ]
    said = [worker.communicate(timeout=60) for worker in workers]
    assert {worker.returncode for worker in workers} == {0}, said
    assert len({out for out, _err in said}) == 1
    assert len(list(bench.driver.walk())) == 15
    assert bench.driver.sweep() == 0
    assert unknown(bench) == []
    assert sorted(name for name in bench.read(said[0][0].split()[-1]) if name) == sorted(map(str, range(15)))
    assert len(subvolumes(disk) - before) == 15


# -- a disk that is full, and one that is none of ours


def test_a_disk_that_is_full() -> None:
    with btrfs(140 * MB, "--mixed") as disk:
        bench = Bench("btrfs", disk / "state")
        try:
            fill_up(bench, disk)
        finally:
            bench.close()


def fill_up(bench: Bench, disk: Path) -> None:
    base = bench.stack([file("f", b"1")])
    before = subvolumes(disk)
    # The tars have room; what is in the second one has not, besides it.
    diff_ids = bench.receive([file("f", b"1")], [file(f"{n}", os.urandom(4 * MB)) for n in range(20)])
    with pytest.raises(OSError, match="No space left") as caught:
        bench.driver.commit_layers(diff_ids)
    assert caught.value.errno == errno.ENOSPC
    assert [info.key for info in bench.driver.walk()] == [base]
    assert unknown(bench) == []
    assert subvolumes(disk) == before
    bench.layers.remove(diff_ids[1])
    assert bench.read(bench.stack([file("f", b"1")], [file("small", b"2")]))["small"].what == b"2"


def test_a_full_disk_is_said_in_a_sentence(tmp_path: Path) -> None:
    with btrfs(140 * MB, "--mixed") as disk:
        large = [file(f"{n}", os.urandom(4 * MB)) for n in range(13)]
        made = make_layout(tmp_path / "layout", [busybox_layer(), large])
        full = Place(disk / "root", runtime="embedded", driver="btrfs")
        done = full.run("load", "-q", "-i", made)
        if done.returncode == 0:
            done = full.run("create", "--network", "none", "base:1")
        assert done.returncode != 0
        assert "no space left" in done.stderr.lower()
        assert "Traceback" not in done.stderr
        assert full.ids() == []
        full.say("prune", "--force", "--all")
        assert full.say("images", "-q") == ""
        assert len(os.listdir(full.root / "snapshots" / "btrfs")) == 0


def test_another_filesystem_is_no_place_for_it(disk: Path, tmp_path: Path) -> None:
    reasons = {
        place: next(each for each in probe(place) if each.name == "btrfs") for place in (tmp_path, disk)
    }
    assert not reasons[tmp_path].is_usable
    assert reasons[tmp_path].reason == "needs the state directory on a btrfs filesystem"
    assert reasons[disk].is_usable
    shutil.rmtree(disk / "snapshots")
    shutil.rmtree(tmp_path / "snapshots")
    with pytest.raises(DriverUnavailable, match="storage driver btrfs: needs the state directory"):
        Bench("btrfs", tmp_path / "state")
