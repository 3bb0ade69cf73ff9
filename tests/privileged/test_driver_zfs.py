"""The driver zfs on a zfs-fuse of its own: all that every driver does, and what is true of datasets alone."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY, OrdinaryUser
from tests.privileged.life import live, make_base
from tests.privileged.places import Place, owned_directory, wait_for
from tests.privileged.zfsfuse import (
    POOL,
    ZfsFuse,
    bench_in,
    datasets,
    driver_of,
    insist_empty,
    run,
    serving,
    unmount_below,
)

from lamina.content.lease import boot_id, process_start
from lamina.errors import InvalidInput
from lamina.oci.config import chain_ids
from lamina.snapshot.changes import list_changes
from lamina.snapshot.hands import Hands
from lamina.snapshot.mounting import unmount
from lamina.snapshot.probing import probe
from lamina.snapshot.snapshotter import DriverUnavailable, SnapshotInUse
from lamina.snapshot.zfs.driver import try_driver
from lamina.snapshot.zfs.program import PoolFull, ZfsUnreachable, destroy
from lamina.testing.bench import Bench
from lamina.testing.conformance import CASES
from lamina.testing.images import directory, file

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("zfs")]


@pytest.fixture(scope="module")
def daemon() -> Iterator[ZfsFuse]:
    with owned_directory(None) as path, serving(path) as made:
        yield made


@pytest.fixture
def parent(daemon: ZfsFuse) -> str:
    return daemon.parent(os.urandom(4).hex())


@pytest.fixture
def bench(parent: str) -> Iterator[Bench]:
    with bench_in(parent) as made:
        yield made


def known(bench: Bench) -> set[str]:
    return driver_of(bench)._known()


# -- what every driver does


@pytest.fixture(scope="module")
def problems() -> Iterator[dict[str, str]]:
    """In a mount namespace of its own, with a daemon of its own."""
    with owned_directory(None) as path:
        command = ["unshare", "-m", "--propagation", "private", sys.executable, "-m", "tests.privileged.zfsfuse", path]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        found = {line["case"]: line["problem"] for line in map(json.loads, done.stdout.splitlines())}
        assert found.keys() == CASES.keys(), done.stderr
        assert list(path.iterdir()) == []
        yield found


@pytest.mark.parametrize("name", CASES)
def test_case(problems: dict[str, str], name: str) -> None:
    assert problems[name] == ""


@pytest.mark.parametrize("runtime", ["runc", "embedded"])
def test_a_life(parent: str, runtime: str) -> None:
    with owned_directory(None) as path:
        place = Place(path / "root", None, "zfs", runtime, {"LAMINA_STORAGE_OPTS": f"zfs.fsname={parent}"})
        (path / "context").mkdir()
        try:
            live(place, make_base(path / "layout"), path / "context")
            assert place.say("mount", "base:1")
            place.say("umount", "base:1")
            place.say("rmi", "-f", *place.lines("images", "-q"))
            place.say("prune", "-af")
            assert datasets(parent) == []
        finally:
            place.clear()
            unmount_below(path)


# -- limits, and pools that are full


def test_a_limit_that_is_hit(bench: Bench, parent: str) -> None:
    base = bench.stack([file("large", os.urandom(3 << 20))])
    with bench.mounted(bench.driver.prepare("one", base)) as path:
        driver_of(bench).limit("one", 2 << 20)
        with pytest.raises(OSError) as found:
            (path / "new").write_bytes(os.urandom(4 << 20))
        assert found.value.errno in (errno.EDQUOT, errno.ENOSPC)
        os.truncate(path / "new", 0)
        run("zfs", "set", "lamina:wait=1", parent)  # a transaction: what was freed is free after it
        (path / "new").unlink()
        (path / "small").write_text("there is room again")
    bench.driver.commit("two", "one")
    assert bench.read("two")["small"].what == b"there is room again"
    insist_empty(bench, parent)


def test_a_container_meets_its_limit(parent: str) -> None:
    with owned_directory(None) as path:
        place = Place(path / "root", None, "zfs", "embedded", {"LAMINA_STORAGE_OPTS": f"zfs.fsname={parent}"})
        place.say("load", "-q", "-i", make_base(path / "layout"))
        words = ("--rm", "--network", "none", "base:1", "dd", "if=/dev/urandom", "of=/large", "bs=64k", "count=128")
        try:
            done = place.run("run", "--storage-opt", "size=4m", *words)
            assert done.returncode == 1
            assert "quota exceeded" in done.stderr
            assert place.run("run", *words).returncode == 0
        finally:
            place.clear()
            unmount_below(path)


def test_limits_that_cannot_be(bench: Bench) -> None:
    with bench.mounted(bench.driver.prepare("one")) as path:
        (path / "large").write_bytes(os.urandom(3 << 20))
        bench.driver.usage("one")
        with pytest.raises(InvalidInput, match="more in it than that"):
            driver_of(bench).limit("one", 2 << 20)
    with pytest.raises(InvalidInput, match="at least 1048576"):
        driver_of(bench).limit("one", 1000)


def test_a_pool_that_is_full(daemon: ZfsFuse) -> None:
    """In the middle of a layer: an error, and nothing of it is left; what was there is still there."""
    with owned_directory(None) as path:
        (path / "pool").touch()
        os.truncate(path / "pool", 80 << 20)
        run("zpool", "create", "-o", "version=23", "-o", "cachefile=none", "-m", "none", "lamina-small", path / "pool")
        bench = Bench("zfs", path / "state", options=["zfs.fsname=lamina-small"])
        try:
            base = bench.stack([file("base", b"1")])
            diff_ids = bench.receive([file("base", b"1")], [file("large", os.urandom(90 << 20))])
            with pytest.raises(OSError) as found:
                bench.driver.commit_layers(diff_ids)
            assert found.value.errno == errno.ENOSPC
            assert [info.key for info in bench.driver.walk()] == [base]
            assert len(datasets("lamina-small", "filesystem")) == 1
            with bench.mounted(bench.driver.prepare("fills", base)) as place:
                with pytest.raises(OSError, match="No space"):
                    (place / "large").write_bytes(os.urandom(90 << 20))
                with pytest.raises(PoolFull, match=r"lamina-small/.*no space left.*lamina prune"):
                    bench.driver.prepare("more", base)
            bench.driver.remove("fills")
            assert bench.read(base)["base"].what == b"1"
            assert bench.driver.sweep() == 0
            insist_empty(bench, "lamina-small")
        finally:
            bench.close()
            unmount_below(path)
            run("zpool", "destroy", "lamina-small")


# -- the end of daemons


def insist_told(bench: Bench) -> None:
    for act in (lambda: bench.driver.prepare("four", "two"), lambda: bench.driver.mounts("three"),
                lambda: bench.stack([file("other", b"2")]), bench.driver.sweep):
        with pytest.raises(ZfsUnreachable, match="zfs does not answer: start zfs-fuse"):
            act()


def test_a_daemon_that_was_killed(daemon: ZfsFuse, bench: Bench, parent: str) -> None:
    base = bench.stack([directory("d"), file("d/f", b"1")])
    with bench.mounted(bench.driver.prepare("one", base)) as path:
        (path / "d" / "mine").write_text("mine")
    bench.driver.commit("two", "one")
    bench.driver.prepare("three", "two")
    before = datasets(parent)
    daemon.kill()
    try:
        insist_told(bench)
    finally:
        daemon.start()
        daemon.import_pool()
    with bench.mounted(bench.driver.mounts("three")) as path:
        assert (path / "d" / "mine").read_text() == "mine"
    assert bench.read("two")["d/f"].what == b"1"
    assert bench.driver.sweep() == 0
    assert datasets(parent) == before
    insist_empty(bench, parent)


def test_removed_without_a_daemon(daemon: ZfsFuse, bench: Bench, parent: str) -> None:
    """``rm`` does not fail: what cannot be removed is a leftover."""
    bench.driver.prepare("one")
    daemon.kill()
    bench.driver.remove("one")
    daemon.start()
    daemon.import_pool()
    ((path, size),) = bench.driver.leftovers()
    assert path.parent == bench.root / "snapshots" / "zfs"
    assert bench.driver.sweep() == size > 0
    insist_empty(bench, parent)


def test_a_daemon_that_dies_under_a_layer(daemon: ZfsFuse, bench: Bench, parent: str) -> None:
    diff_ids = bench.receive([file(f"f{number}", os.urandom(1000)) for number in range(4000)])
    is_over = threading.Event()

    def wait_and_kill() -> None:
        while not is_over.is_set():
            if list((bench.root / "snapshots" / "zfs").glob("*/tree/f200")):
                daemon.kill()
                return

    thread = threading.Thread(target=wait_and_kill)
    thread.start()
    try:
        with pytest.raises(ZfsUnreachable, match=rf"{parent}.*start zfs-fuse"):
            bench.driver.commit_layers(diff_ids)
    finally:
        is_over.set()
        thread.join()
        daemon.start()
        daemon.import_pool()
    assert list(bench.driver.walk()) == []
    bench.driver.sweep()
    assert datasets(parent) == []
    assert len(bench.read(bench.driver.commit_layers(diff_ids))) == 4001


# -- mount namespaces


@contextlib.contextmanager
def other_namespace(bench: Bench, source: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process with a copy of all mounts, private to it; it has one of its own of ``source``, if given."""
    script = "echo ready; exec sleep 1000"
    place = bench.root.parent / "elsewhere"
    place.mkdir(exist_ok=True)
    if source is not None:
        script = f"mount --bind {source} {place}; {script}"
    process = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_copies_of_a_mount_are_taken_away(bench: Bench, parent: str) -> None:
    """As a monitor has them, of all that was mounted when it began."""
    bench.driver.prepare("one")
    with other_namespace(bench) as process:
        mounts = Path(f"/proc/{process.pid}/mountinfo")
        assert parent in mounts.read_text()
        bench.driver.remove("one")
        assert parent not in mounts.read_text()
        assert datasets(parent) == []
    insist_empty(bench, parent)


def test_committed_while_another_namespace_has_a_copy(bench: Bench, parent: str) -> None:
    with bench.mounted(bench.driver.prepare("one")) as path:
        (path / "f").write_text("1")
    with other_namespace(bench):
        bench.driver.commit("two", "one")
        with bench.mounted(bench.driver.prepare("three", "two")) as path:
            assert (path / "f").read_text() == "1"
    insist_empty(bench, parent)


def test_what_is_busy_is_left_to_sweep(bench: Bench, parent: str) -> None:
    (mount,) = bench.driver.prepare("one")
    (Path(mount.source) / "f").write_bytes(os.urandom(100_000))
    bench.driver.usage("one")
    with other_namespace(bench, Path(mount.source)):
        bench.driver.remove("one")
        assert list(bench.driver.walk()) == []
        assert len(datasets(parent)) == 1
        ((_path, size),) = bench.driver.leftovers()
        assert size >= 100_000
        assert bench.driver.sweep() == 0
    wait_for(bench.driver.sweep)
    insist_empty(bench, parent)


def test_a_daemon_of_another_namespace(bench: Bench, parent: str) -> None:
    """A clone is made there, and not seen here: that is said, and it does not stay."""
    bench.stack([file("a", b"1")])
    code = (
        "import sys; from pathlib import Path; from lamina.testing.bench import Bench\n"
        "bench = Bench('zfs', Path(sys.argv[1]))\n"
        "(base,) = [info.key for info in bench.driver.walk()]\n"
        "try: bench.driver.prepare('one', base)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    before = datasets(parent)
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", sys.executable, "-c", code, bench.root],
        capture_output=True, text=True, check=False)
    assert done.stdout.startswith("DriverUnavailable storage driver zfs: "), done
    assert "start it, or lamina, in the same" in done.stdout
    bench.driver.sweep()
    assert datasets(parent) == before


# -- whose datasets they are


def test_datasets_of_others_are_not_touched(bench: Bench, parent: str) -> None:
    bench.driver.prepare("one")
    for name in ("plain", "marked"):
        run("zfs", "create", f"{parent}/{name}")
    run("zfs", "set", "lamina:root=0123456789abcdef", f"{parent}/marked")
    (ours,) = known(bench)
    run("zfs", "create", "-o", "canmount=noauto", f"{ours}/inside")  # has our mark, by inheritance
    assert bench.driver.sweep() == 0
    bench.driver.remove("one")
    assert bench.driver.sweep() == 0
    assert datasets(parent, "filesystem") == sorted([ours, f"{ours}/inside", f"{parent}/plain", f"{parent}/marked"])
    run("zfs", "destroy", f"{ours}/inside")
    assert bench.driver.sweep() > 0
    assert datasets(parent) == [f"{parent}/marked", f"{parent}/plain"]


def test_snapshots_that_others_took_go_with_ours(bench: Bench, parent: str) -> None:
    """Backups are taken of all datasets, by a timer."""
    bench.write_snapshot("base", "", lambda path: (path / "f").write_text("1"))
    bench.driver.prepare("one", "base")
    run("zfs", "snapshot", "-r", f"{parent}@auto")
    bench.driver.remove("one")
    bench.driver.remove("base")
    assert datasets(parent) == [f"{parent}@auto"]


def test_a_clone_that_another_made_keeps_what_it_is_of(bench: Bench, parent: str) -> None:
    bench.write_snapshot("base", "", lambda path: (path / "f").write_text("1"))
    (ours,) = known(bench)
    run("zfs", "clone", "-o", "mountpoint=none", f"{ours}@snapshot", f"{parent}/theirs")
    bench.driver.remove("base")
    assert bench.driver.sweep() == 0
    assert datasets(parent, "filesystem") == sorted([ours, f"{parent}/theirs"])
    run("zfs", "destroy", f"{parent}/theirs")
    assert bench.driver.sweep() > 0
    assert datasets(parent) == []


def test_a_state_directory_that_was_moved(bench: Bench, parent: str) -> None:
    with bench.mounted(bench.driver.prepare("one")) as path:
        (path / "f").write_text("1")
    bench.close()
    unmount_below(bench.root)
    moved = bench.root.with_name("moved")
    bench.root.rename(moved)
    again = Bench("zfs", moved)
    with again.mounted(again.driver.mounts("one")) as path:
        assert (path / "f").read_text() == "1"
    insist_empty(again, parent)
    again.close()


def test_a_state_directory_on_zfs_needs_no_option(daemon: ZfsFuse, parent: str) -> None:
    with owned_directory(None) as path:
        run("zfs", "create", "-o", f"mountpoint={path}", f"{parent}/home")
        bench = Bench("zfs", path / "state")
        bench.stack([file("a", b"1")])
        assert len(datasets(f"{parent}/home", "filesystem")) == 1
        insist_empty(bench, f"{parent}/home")
        bench.close()
        unmount(path)
        destroy(f"{parent}/home")


# -- what changed


def test_changes_of_a_snapshot(bench: Bench, parent: str) -> None:
    base = bench.stack([directory("d"), file("d/kept", b"1"), file("d/gone", b"2"), file("same", b"3")])
    with bench.mounted(bench.driver.prepare("one", base)) as path:
        (path / "d" / "gone").unlink()
        (path / "d" / "new").write_text("new")
        found = {(change.kind, change.path) for change in list_changes(bench.driver, "one")}
    assert found == {("C", "/d"), ("D", "/d/gone"), ("A", "/d/new")}
    assert len(datasets(parent, "filesystem")) == 2
    insist_empty(bench, parent)


# -- several at once, and who dies at it

WORK = """
import random, sys
from pathlib import Path
from lamina.errors import LaminaError
from lamina.testing.bench import Bench
bench, chance = Bench("zfs", Path(sys.argv[1])), random.Random(int(sys.argv[2]))
print("ready", flush=True)
number = 0
while True:
    number += 1
    key, names = f"{sys.argv[2]} {number}", [info.key for info in bench.driver.walk() if info.kind == "committed"]
    try:
        act = chance.choice(("commit", "prepare", "view", "remove", "remove"))
        if act == "commit":
            bench.write_snapshot(f"name {key}", chance.choice(["", *names]), lambda path: (path / key).write_text(key))
        elif act == "remove":
            bench.driver.remove(chance.choice([info.key for info in bench.driver.walk()] or ["none"]))
        else:
            getattr(bench.driver, act)(key, chance.choice(["", *names]))
    except LaminaError:
        pass
"""


def worker(bench: Bench, seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORK, str(bench.root), str(seed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def is_swept(bench: Bench, parent: str) -> bool:
    """A command that the dead had begun goes on to its end, and daemons learn of the end of mounts a moment later."""
    bench.driver.sweep()
    return set(datasets(parent, "filesystem")) == known(bench)


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment(bench: Bench, parent: str, seed: int) -> None:
    """Two at a time; what is swept after each is what no row knows, and all that a row knows is whole."""
    chance = random.Random(seed)
    for turn in range(3):
        processes = [worker(bench, seed * 100 + turn * 10 + number) for number in range(2)]
        time.sleep(chance.uniform(0.2, 1.0))
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        unmount_below(bench.root.parent / f"{bench.root.name}-places")
        wait_for(lambda: is_swept(bench, parent))
        for info in bench.driver.walk():
            if info.kind == "committed":
                bench.read(info.key)
            else:
                bench.driver.mounts(info.key)
    insist_empty(bench, parent)


def test_two_processes_commit_one_stack(bench: Bench, parent: str) -> None:
    stack = [[file(f"f{number}", os.urandom(1000))] for number in range(6)]
    diff_ids = bench.receive(*stack)
    code = (
        "import sys; from pathlib import Path; from lamina.oci.digest import Digest\n"
        "from lamina.testing.bench import Bench\n"
        "print(Bench('zfs', Path(sys.argv[1])).driver.commit_layers(list(map(Digest.parse, sys.argv[2:]))))"
    )
    command = [sys.executable, "-c", code, str(bench.root), *diff_ids]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    names = list(chain_ids(diff_ids))
    assert [process.communicate()[0] for process in processes] == [f"{names[-1]}\n"] * 3
    assert [info.key for info in bench.driver.walk()] == names
    assert len(bench.read(names[-1])) == 7
    assert len(datasets(parent, "filesystem")) == 6
    insist_empty(bench, parent)


def test_what_is_mounted_is_not_removed(bench: Bench) -> None:
    with bench.mounted(bench.driver.prepare("one")), pytest.raises(SnapshotInUse, match="mounted on"):
        bench.driver.remove("one")


def test_a_layer_that_was_being_applied(bench: Bench, parent: str) -> None:
    base = bench.stack([file("a", b"1")])
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    keys = [
        f"layer {pid} {process_start(pid)} {boot_id()} 0123456789abcdef" for pid in (dead.pid, os.getpid())
    ]
    dead.wait()
    for key in keys:
        bench.driver.prepare(key, base)
    assert len(list(bench.driver.leftovers())) == 1
    bench.driver.sweep()
    assert {info.key for info in bench.driver.walk()} == {base, keys[1]}
    insist_empty(bench, parent)


# -- whether it works here


def reason(path: Path, **options: str) -> str:
    (path / "state").mkdir(exist_ok=True)
    from lamina.snapshot.namespace import current_identity

    hands = Hands(current_identity())
    try:
        return try_driver(path / "state", hands, options)
    finally:
        hands.close()


def test_reasons_against_it(daemon: ZfsFuse, parent: str, tmp_path: Path) -> None:
    assert reason(tmp_path, fsname=parent) == ""
    assert datasets(parent) == []
    assert reason(tmp_path, fsname=f"{POOL}/none") == (
        f"{POOL}/none: there is no such dataset; `zfs create {POOL}/none` makes it")
    assert "zfs.fsname=POOL/DATASET" in reason(tmp_path)


def test_a_daemon_without_attributes(daemon: ZfsFuse, parent: str, tmp_path: Path) -> None:
    daemon.kill()
    daemon.start(has_attributes=False)
    daemon.import_pool()
    try:
        assert "start zfs-fuse with -x" in reason(tmp_path, fsname=parent)
        assert datasets(parent) == []
    finally:
        daemon.kill()
        assert "zfs does not answer: start zfs-fuse" in reason(tmp_path, fsname=parent)
        daemon.start()
        daemon.import_pool()


def test_ordinary_users_are_told(parent: str, ordinary_user: OrdinaryUser, user_directory: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lamina.snapshot.probing import probe\n"
        "print(*[each.reason for each in probe(Path(sys.argv[1])) if each.name == 'zfs'])"
    )
    done = subprocess.run(
        ordinary_user.python("-c", code, user_directory), capture_output=True, text=True, check=False)
    assert done.stdout == "needs root: ordinary users cannot mount datasets on Linux\n", done


def test_it_is_not_chosen_where_there_is_no_zfs(tmp_path: Path) -> None:
    (found,) = [each for each in probe(tmp_path) if each.name == "zfs"]
    assert not found.is_usable
    assert "does not lie on zfs" in found.reason
    with pytest.raises(DriverUnavailable, match="does not lie on zfs"):
        Bench("zfs", tmp_path / "state")
