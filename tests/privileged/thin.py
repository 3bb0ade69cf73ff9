"""What a guest that has device-mapper does for the tests of the driver: each function is a scenario.

``python -m tests.privileged.thin NAME [ARGUMENT...]`` runs one; a failed assertion is its output.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from tests.privileged.life import live, make_base
from tests.privileged.places import Place, wait_for

from lamina.content.lease import boot_id, process_start
from lamina.errors import InvalidInput, LaminaError
from lamina.snapshot.changes import list_changes
from lamina.snapshot.devicemapper import ioctl
from lamina.snapshot.devicemapper.driver import DeviceSnapshotter
from lamina.snapshot.devicemapper.pool import PoolFailed, PoolFull
from lamina.snapshot.snapshotter import DriverUnavailable, SnapshotInUse, SnapshotNotFound
from lamina.snapshot.trees import remove_tree
from lamina.testing.bench import Bench
from lamina.testing.images import file

SMALL = ("dm.allow_loop=true", "dm.loopdatasize=2G", "dm.loopmetadatasize=32M", "dm.basesize=512M")
TIGHT = ("dm.allow_loop=true", "dm.loopdatasize=48M", "dm.loopmetadatasize=4M", "dm.basesize=256M",
         "dm.mkfsarg=-J size=4")


@contextlib.contextmanager
def bench(name: str, *options: str, root: Path | None = None) -> Iterator[Bench]:
    """Everything of it is gone from the kernel at the end, or the scenario fails."""
    made = Bench("devicemapper", root or Path("/tmp") / name, options=options or SMALL)
    try:
        yield made
        for info in sorted(made.driver.walk(), key=lambda info: -info.created):
            made.driver.remove(info.key)
        made.driver.sweep()
        assert list(made.driver.leftovers()) == []
    finally:
        made.close()
        remove_tree(made.root)
    assert ours() == []


def ours() -> list[str]:
    return sorted(path.name for path in ioctl.MAPPER.glob("lamina-*"))


def driver_of(bench: Bench) -> DeviceSnapshotter:
    assert isinstance(bench.driver, DeviceSnapshotter)
    return bench.driver


def write(path: Path, data: bytes) -> None:
    """Acknowledged: on the disk."""
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


# -- a full pool


def full_while_a_layer_is_written() -> None:
    with bench("full", *TIGHT) as made:
        base = made.stack([file("a", b"1")])
        before = made.read(base)
        with pytest.raises(PoolFull, match=r"could not be written .*nothing of it was kept"):
            made.stack([file("a", b"1")], [file("large", os.urandom(60 << 20))])
        assert [info.key for info in made.driver.walk()] == [base]
        assert list(made.driver.leftovers()) == []
        assert made.read(base) == before
        assert list(driver_of(made).problems()) == []
        made.stack([file("a", b"1")], [file("small", os.urandom(1 << 20))])


def full_below_what_must_stay_free() -> None:
    with bench("free", *TIGHT, "dm.min_free_space=40%") as made:
        with made.mounted(made.driver.prepare("one")) as path:
            write(path / "f", os.urandom(32 << 20))
        with pytest.raises(PoolFull, match=r"data space is used, and dm.min_free_space=40% must stay free"):
            made.driver.prepare("two")
        assert list(made.driver.leftovers()) == []
        assert [sentence for sentence in driver_of(made).problems() if "takes nothing new" in sentence]
        made.driver.remove("one")
        made.driver.prepare("two")


def full_by_a_container(filesystem: str) -> None:
    options = TIGHT if filesystem == "ext4" else (*SMALL, "dm.loopdatasize=128M", "dm.fs=xfs")
    with bench(f"container-{filesystem}", *options) as made:
        made.write_snapshot("base", "", lambda path: write(path / "kept", b"k" * 100_000))
        made.write_snapshot("other", "base", lambda path: write(path / "room", os.urandom(8 << 20)))
        with made.mounted(made.driver.prepare("one", "base")) as path:
            write(path / "acknowledged", b"a" * 1_000_000)
            with pytest.raises(OSError, match=r"No space|Input/output|Read-only"):
                for number in range(200):
                    write(path / f"more {number}", os.urandom(1 << 20))
        assert made.read("base")["kept"].what == b"k" * 100_000
        with pytest.raises(LaminaError, match=r"data space is used|mount xfs"):
            with made.mounted(made.driver.mounts("one")):
                pass
        made.driver.remove("other")
        with made.mounted(made.driver.mounts("one")) as path:
            assert (path / "acknowledged").read_bytes() == b"a" * 1_000_000
            assert (path / "kept").read_bytes() == b"k" * 100_000
            for each in path.glob("more *"):
                each.unlink()
            write(path / "again", b"works")
        assert list(driver_of(made).problems()) == []
        made.driver.commit("after", "one")
        assert made.read("after")["again"].what == b"works"


def a_pool_that_grows() -> None:
    root = Path("/tmp/grows")
    made = again(root, TIGHT)
    made.write_snapshot("base", "", lambda path: write(path / "f", os.urandom(43 << 20)))
    with pytest.raises(PoolFull):
        made.driver.prepare("one", "base")
    made.close()
    made = again(root, (*TIGHT, "dm.loopdatasize=96M", "dm.loopmetadatasize=8M"))
    with made.mounted(made.driver.prepare("one", "base")) as path:
        write(path / "g", os.urandom(30 << 20))
    with driver_of(made)._devices.pool() as pool:
        found = pool.status()
    assert (found.total, found.total_metadata) == (96 * 16, 2048)
    made.driver.remove("one")
    made.driver.remove("base")
    made.close()
    remove_tree(root)
    assert ours() == []


# -- busy devices


@contextlib.contextmanager
def holding(place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a copy of our mount namespace, in which everything stays mounted."""
    script = f"echo ready; cd {place}; while :; do echo later >later 2>/dev/null; sleep 0.05; done"
    process = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script], stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def busy_when_removed() -> None:
    with bench("busy") as made, contextlib.ExitStack() as stack:
        with made.mounted(made.driver.prepare("one")) as path:
            stack.enter_context(holding(path))
        made.driver.remove("one")
        with pytest.raises(SnapshotNotFound):
            made.driver.stat("one")
        assert len(list(made.driver.leftovers())) == 1
        assert made.driver.sweep() == 0
        stack.close()
        assert made.driver.sweep() > 0
        assert list(made.driver.leftovers()) == []


def busy_when_committed() -> None:
    for filesystem in ("ext4", "xfs"):
        with bench(f"commit-{filesystem}", *SMALL, f"dm.fs={filesystem}") as made, contextlib.ExitStack() as stack:
            with made.mounted(made.driver.prepare("one")) as path:
                (path / "f").write_text("as it was")
                stack.enter_context(holding(path))
                wait_for((path / "later").exists)
                (path / "later").write_text("mine")
            made.driver.commit("base", "one")
            before = made.read("base")
            assert before["f"].what == b"as it was"
            time.sleep(0.3)
            assert made.read("base") == before
            stack.close()
            made.driver.sweep()
            assert made.read("base") == before
            assert len([name for name in ours() if not name.endswith("pool")]) == 0


def views_share_a_device() -> None:
    with bench("views") as made:
        made.write_snapshot("base", "", lambda path: (path / "f").write_text("x"))
        told = made.driver.view("one", "base")
        other = again(made.root, SMALL)
        other.driver.view("two", "base")
        other.driver.remove("two")
        other.driver.sweep()
        other.close()
        with made.mounted(told) as path:
            assert (path / "f").read_text() == "x"
            with pytest.raises(OSError, match="Read-only"):
                (path / "g").write_text("y")
            # Root may try harder: the device itself takes no writes.
            assert subprocess.run(["mount", "-o", "remount,rw", path], capture_output=True, check=False).returncode
            with pytest.raises(OSError, match=r"not permitted|Read-only"), open(told[0].source, "wb") as device:
                device.write(b"x")
                os.fsync(device.fileno())


def idle_devices_rest() -> None:
    with bench("idle") as made:
        made.driver.prepare("one")
        with made.mounted(made.driver.prepare("two")):
            made.driver.sweep()
            assert len(ours()) == 3
            for name in ours():
                os.utime(ioctl.MAPPER / name, (1, 1), follow_symlinks=False)
            made.driver.sweep()
            assert len(ours()) == 2
        with made.mounted(made.driver.mounts("one")) as path:
            (path / "f").write_text("works")


def changes_of_what_is_mounted() -> None:
    for filesystem in ("ext4", "xfs"):
        with bench(f"changes-{filesystem}", *SMALL, f"dm.fs={filesystem}") as made:
            base = made.stack([file("kept", b"1"), file("gone", b"2"), file("over", b"3")])
            with made.mounted(made.driver.prepare("one", base)) as path:
                (path / "gone").unlink()
                (path / "over").write_text("4")
                (path / "new").mkdir()
                found = [(change.kind, change.path) for change in list_changes(made.driver, "one")]
                assert found == [("D", "/gone"), ("A", "/new"), ("C", "/over")]
            assert [(change.kind, change.path) for change in list_changes(made.driver, "one")] == found
            assert len(ours()) == 2, "the parent's device rests again"


# -- sizes


def sizes() -> None:
    for filesystem in ("ext4", "xfs"):
        with bench(f"size-{filesystem}", *SMALL, f"dm.fs={filesystem}") as made:
            driver = driver_of(made)
            made.write_snapshot("base", "", lambda path: (path / "f").write_text("x"))
            made.driver.prepare("one", "base")
            with pytest.raises(InvalidInput, match="cannot be smaller than its image's, 536870912 bytes"):
                driver.limit("one", 400 << 20)
            driver.limit("one", 700 << 20)
            with made.mounted(driver.mounts("one")) as path:
                found = os.statvfs(path)
                assert 600 << 20 < found.f_blocks * found.f_frsize <= 700 << 20
                assert (path / "f").read_text() == "x"
                with pytest.raises(SnapshotInUse):
                    driver.limit("one", 800 << 20)
                with pytest.raises(OSError, match="No space"), (path / "large").open("wb") as stream:
                    os.posix_fallocate(stream.fileno(), 0, 700 << 20)
            # What is made of it is as large, and its own limit.
            made.driver.commit("larger", "one")
            with pytest.raises(InvalidInput):
                made.driver.prepare("two", "larger")
                driver.limit("two", 600 << 20)
            with made.mounted(made.driver.mounts("two")) as path:
                assert os.statvfs(path).f_blocks * found.f_frsize > 600 << 20


# -- other people's pools


def other_peoples_pools() -> None:
    """``theirs`` is a thin device of somebody else's; what is on it stays."""
    top = Path("/tmp/pool")
    top.mkdir()
    devices = []
    for name, size in (("data", 512 << 20), ("metadata", 8 << 20)):
        with (top / name).open("wb") as stream:
            stream.truncate(size)
        devices.append(output("losetup", "--show", "-f", str(top / name)))
    output("dmsetup", "create", "their-pool", "--table", f"0 1048576 thin-pool {devices[1]} {devices[0]} 128 0")
    output("dmsetup", "mknodes")
    output("dmsetup", "message", "their-pool", "0", "create_thin 1")
    output("dmsetup", "create", "theirs", "--table", "0 20480 thin /dev/mapper/their-pool 1")
    output("dmsetup", "mknodes")
    output("mkfs.ext4", "-q", "/dev/mapper/theirs")
    options = ("dm.thinpooldev=/dev/mapper/their-pool", "dm.basesize=256M")
    with bench("theirs", *options) as made:
        made.write_snapshot("base", "", lambda path: (path / "f").write_text("x"))
        made.driver.prepare("one", "base")
        # A claim on an identifier that turned out to be theirs, by somebody who died before he knew.
        claim = made.root / "snapshots/devicemapper" / ("0" * 32)
        claim.mkdir()
        (claim / "device").write_text("1")
        made.driver.sweep()
        assert not claim.exists()
    output("fsck.ext4", "-fn", "/dev/mapper/theirs")
    with pytest.raises(DriverUnavailable, match="theirs is not a thin pool but thin; LVM's own name"):
        again(Path("/tmp/notapool"), ("dm.thinpooldev=/dev/mapper/theirs",)).driver.prepare("x")
    output("dmsetup", "remove", "theirs")
    output("dmsetup", "remove", "their-pool")
    own = (f"dm.datadev={devices[0]}", f"dm.metadatadev={devices[1]}", "dm.basesize=256M")
    with pytest.raises(DriverUnavailable, match=f"{devices[1]} holds something already.*dd if=/dev/zero"):
        again(Path("/tmp/refused"), own).driver.prepare("x")
    output("dd", "if=/dev/zero", f"of={devices[1]}", "bs=4096", "count=1")
    made = again(Path("/tmp/own"), own)
    made.write_snapshot("base", "", lambda path: (path / "f").write_text("x"))
    made.close()
    assert ours() == []
    # The next process makes the pool again, and finds everything in it.
    made = again(made.root, own)
    assert made.read("base")["f"].what == b"x"
    made.close()
    output("dd", "if=/dev/zero", f"of={devices[1]}", "bs=4096", "count=1")
    made = again(made.root, own)
    with pytest.raises(PoolFailed, match="metadata is gone"):
        made.driver.prepare("one")
    assert [sentence for sentence in driver_of(made).problems() if "metadata is gone" in sentence]
    made.close()
    for device in devices:
        output("losetup", "-d", device)


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def again(root: Path, options: tuple[str, ...]) -> Bench:
    """As another process would open it."""
    return Bench("devicemapper", root, options=options)


# -- several processes


def a_layer_that_was_being_applied() -> None:
    with bench("applied") as made:
        base = made.stack([file("a", b"1")])
        dead = subprocess.Popen([sys.executable, "-c", "pass"])
        key = f"layer {dead.pid} {process_start(dead.pid)} {boot_id()} 0123456789abcdef"
        alive = f"layer {os.getpid()} {process_start(os.getpid())} {boot_id()} 0123456789abcdef"
        dead.wait()
        made.driver.prepare(key, base)
        made.driver.prepare(alive, base)
        assert len(list(made.driver.leftovers())) == 1
        made.driver.sweep()
        assert {info.key for info in made.driver.walk()} == {base, alive}


def several_processes() -> None:
    """From the first moment, when there is neither pool nor base; each opens and closes for every act."""
    root = Path("/tmp/several")
    again(root, SMALL).close()
    workers = [
        subprocess.Popen([sys.executable, "-m", "tests.privileged.thin", "worker", str(root), str(number)])
        for number in range(3)
    ]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    made = again(root, SMALL)
    assert len(list(made.driver.walk())) == 12
    for number in range(3):
        assert set(made.read(f"name {number} 3")) == {"", "f0", "f1", "f2", "f3"}
        for turn in (3, 2, 1, 0):
            made.driver.remove(f"name {number} {turn}")
    assert made.driver.sweep() == 0
    assert list(made.driver.leftovers()) == []
    made.close()
    assert ours() == []


def worker(root: str, number: str) -> None:
    parent = ""
    for turn in range(4):
        made = again(Path(root), SMALL)
        made._places = Path(f"/tmp/places-{number}")  # who closes removes them
        made.write_snapshot(
            f"name {number} {turn}", parent, lambda path, turn=turn: (path / f"f{turn}").write_text("x")
        )
        parent = f"name {number} {turn}"
        made.driver.prepare(f"x {number}", parent)
        made.driver.remove(f"x {number}")
        made.close()


# -- a life


def life(runtime: str, filesystem: str) -> None:
    top = Path(f"/tmp/life-{runtime}-{filesystem}")
    (top / "context").mkdir(parents=True)
    options = ",".join((*SMALL, f"dm.fs={filesystem}"))
    place = Place(top / "root", None, "devicemapper", runtime, {"LAMINA_STORAGE_OPTS": options})
    try:
        live(place, make_base(top / "layout"), top / "context")
    finally:
        place.clear()
    assert ours() == []
    assert output("losetup", "-a") == ""


# -- the power fails


DEVICES = ("dm.datadev=/dev/ubdb", "dm.metadatadev=/dev/ubdc", "dm.basesize=256M", "dm.mkfsarg=-J size=4")


def acts(seed: str, told: str) -> None:
    """Makes, commits and removes until it is killed. What is acknowledged stands in ``told``, a line an act."""
    root, random = Path("/mnt/root"), Random(int(seed))
    made = again(root, DEVICES)
    names = [info.key for info in made.driver.walk() if info.key.startswith("name")]
    with open(told, "a") as stream:
        def say(*words: str) -> None:
            print(json.dumps(words), file=stream, flush=True)
            os.fsync(stream.fileno())

        for number in range(1_000_000):
            name, data = f"name {seed} {number}", os.urandom(random.randrange(1, 300_000))
            made.write_snapshot(name, random.choice(["", *names]), lambda path, name=name, data=data: (path / name).write_bytes(data))
            say("made", name, data.hex()[:64])
            names.append(name)
            key = f"active {seed} {number}"
            with made.mounted(made.driver.prepare(key, name)) as path:
                write(path / "synced", data)
                say("synced", key, data.hex()[:64])
            if len(names) > 3:
                doomed = random.choice(names)
                with contextlib.suppress(SnapshotInUse):
                    say("removing", doomed)
                    made.driver.remove(doomed)
                    say("removed", doomed)
                    names.remove(doomed)
            if random.random() < 0.6:
                say("removing", key)
                made.driver.remove(key)
                say("removed", key)


def look_after(told: str) -> None:
    """All that was acknowledged is there, and nothing that no row knows of once it was swept."""
    made = again(Path("/mnt/root"), DEVICES)
    driver = driver_of(made)
    assert list(driver.problems()) == []
    driver.sweep()
    assert list(driver.leftovers()) == []
    lines = [json.loads(line) for line in Path(told).read_text().splitlines()]
    gone = {line[1] for line in lines if line[0] in ("removing", "removed")}
    present = {info.key: info for info in driver.walk()}
    for line in lines:
        if line[1] in gone:
            assert line[0] != "removed" or line[1] not in present
            continue
        assert line[1] in present, line
        if line[0] == "made":
            assert made.read(line[1])[line[1]].what[:32] == bytes.fromhex(line[2])
        elif line[0] == "synced":
            with made.mounted(driver.mounts(line[1])) as path:
                assert (path / "synced").read_bytes()[:32] == bytes.fromhex(line[2])
            driver.remove(line[1])
            with Path(told).open("a") as stream:
                print(json.dumps(["removed", line[1]]), file=stream)
    for key in [key for key, info in present.items() if info.kind == "active"]:  # died before it was told
        with contextlib.suppress(SnapshotNotFound):
            driver.remove(key)
    driver.sweep()
    known = {volume.device for volume in driver._known()} | {driver._volumes.base().volume.device}
    made.close()
    assert ours() == []
    dumped = output("thin_dump", "--skip-mappings", "/dev/ubdc")
    assert set(map(int, re.findall(r'dev_id="(\d+)"', dumped))) == known
    output("thin_check", "-q", "/dev/ubdc")


SCENARIOS: tuple[Callable[[], None], ...] = (
    full_while_a_layer_is_written, full_below_what_must_stay_free, busy_when_removed, busy_when_committed,
    views_share_a_device, a_layer_that_was_being_applied, idle_devices_rest, changes_of_what_is_mounted, sizes,
    a_pool_that_grows, other_peoples_pools, several_processes,
)

if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
