"""What a guest does to show that a thin pool's knowledge of changes is what comparing whole trees finds.

``python -m tests.privileged.thindelta NAME [ARGUMENT...]`` runs one scenario; a failed assertion is its output.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random

from tests.privileged.inodework import FEW, Noting, change_few, many, work
from tests.privileged.test_driver_btrfs_difference import Whole, found
from tests.privileged.thin import SMALL, TIGHT, bench, driver_of, ours, output, write

from lamina.snapshot import changes
from lamina.snapshot.changes import list_changes
from lamina.snapshot.devicemapper import ioctl
from lamina.testing.bench import Bench
from lamina.testing.images import file

FILESYSTEMS = ("ext4", "xfs")
# EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN, with what only the log holds.
GOING_DOWN, LOG_IS_FLUSHED = 0x8004587D, b"\1\0\0\0"


def both_find_the_same(filesystem: str, seed: str, rounds: str) -> None:
    with bench(f"same-{filesystem}", *SMALL, f"dm.fs={filesystem}") as made:
        assert work(made, int(seed), int(rounds)) == int(rounds) * 4


def few_of_many() -> None:
    for filesystem in FILESYSTEMS:
        with bench(f"few-{filesystem}", *SMALL, f"dm.fs={filesystem}") as made:
            made.write_snapshot("many", "", many)
            with made.mounted(made.driver.prepare("one", "many")) as path:
                change_few(path)
                for each in path.glob("1?/*"):
                    each.read_bytes()
                os.setxattr(path / "5/5", "user.kept", b"2")
            with driver_of(made).holding_difference("one") as difference, ExitStack() as stack:
                assert difference.touched is not None
                assert set(difference.touched.paths) == {"3/3", "4/other", "5/5", "8"}
                assert set(difference.touched.trees) == {"7", "8/moved"}
                assert changes._narrowed(difference, stack) is not None
            expected = sorted((*FEW, "C /5", "C /5/5"), key=lambda line: line[2:])
            assert sorted(found(made.driver, "one")[0], key=lambda line: line[2:]) == expected


def a_running_container_stands_still() -> None:
    for filesystem in FILESYSTEMS:
        with bench(f"still-{filesystem}", *SMALL, f"dm.fs={filesystem}") as made:
            base = made.stack([file("f", b"1")])
            with made.mounted(made.driver.prepare("one", base)) as path:
                (path / "f").write_bytes(b"2")
                with driver_of(made).holding_difference("one") as difference:
                    (path / "later").write_bytes(b"3")
                    assert difference.touched is not None
                    assert len(ours()) == 4
                    with made.mounted(difference.upper) as still:
                        assert sorted(os.listdir(still)) == ["f"]
                        assert (still / "f").read_bytes() == b"2"
                assert len(ours()) == 2, "the copy, and the parent's device, are gone again"
                assert [change.path for change in list_changes(made.driver, "one")] == ["/f", "/later"]
            assert list(made.driver.leftovers()) == []


def a_journal_that_nobody_read() -> None:
    """As after the power failed: it is read before anybody asks what changed."""
    for filesystem in FILESYSTEMS:
        with bench(f"journal-{filesystem}", *SMALL, f"dm.fs={filesystem}") as made:
            made.write_snapshot("base", "", many)
            with made.mounted(made.driver.prepare("one", "base")) as path:
                (path / "9/9").write_bytes(b"y" * 10_000)
                os.chmod(path / "15/1", 0o600)
                os.rename(path / "12/1", path / "13/moved")
                directory = os.open(path, os.O_RDONLY)
                fcntl.ioctl(directory, GOING_DOWN, LOG_IS_FLUSHED)
                os.close(directory)
            noting = Noting(made.driver)
            lines = found(noting, "one")
            assert lines == found(Whole(made.driver), "one")
            assert lines[0] == ["C /12", "D /12/1", "C /13", "A /13/moved", "C /15", "C /15/1", "C /9", "C /9/9"]
            assert None not in noting.touched


def a_container_that_was_grown() -> None:
    for filesystem in FILESYSTEMS:
        with bench(f"grown-{filesystem}", *SMALL, f"dm.fs={filesystem}") as made:
            made.write_snapshot("base", "", many)
            made.driver.prepare("one", "base")
            driver_of(made).limit("one", 1200 << 20)
            with made.mounted(made.driver.mounts("one")) as path:
                (path / "3/3").write_bytes(b"y")
                for number in range(200):
                    (path / f"new {number}").mkdir()
            noting = Noting(made.driver)
            assert found(noting, "one") == found(Whole(made.driver), "one")
            assert all(touched is not None for touched in noting.touched)


def no_room_for_a_copy() -> None:
    """Then the tree is looked at as it is, all of it."""
    with bench("no-room", *TIGHT, "dm.min_free_space=40%") as made:
        base = made.stack([file("f", b"1")])
        with made.mounted(made.driver.prepare("one", base)) as path:
            write(path / "large", os.urandom(32 << 20))
            noting = Noting(made.driver)
            assert found(noting, "one")[0] == ["A /large"]
            assert noting.touched == [None, None]
        assert found(noting, "one")[0] == ["A /large"]
        assert None not in noting.touched[2:], "at rest it takes no copy"
        assert list(made.driver.leftovers()) == []


def no_program() -> None:
    """Debian's thin-provisioning-tools may be missing, or say what we do not know."""
    with bench("program") as made:
        base = made.stack([file("f", b"1")])
        with made.mounted(made.driver.prepare("one", base)) as path:
            (path / "f").write_bytes(b"2")
        os.mkdir("/tmp/programs")
        before = os.environ["PATH"]
        os.environ["PATH"] = f"/tmp/programs:{before}"
        for script in ("exit 1", "echo unknown", "kill -9 $$"):
            Path("/tmp/programs/thin_delta").write_text(f"#!/bin/sh\n{script}\n")
            os.chmod("/tmp/programs/thin_delta", 0o755)
            noting = Noting(made.driver)
            assert found(noting, "one")[0] == ["C /f"]
            assert noting.touched == [None, None]
            assert not is_held(made)
        os.environ["PATH"] = before


def is_held(made: Bench) -> bool:
    with driver_of(made)._devices.pool() as pool:
        return pool.status().is_held


def hold(made: Bench) -> None:
    with driver_of(made)._devices.pool() as pool:
        ioctl.message(pool.name, "reserve_metadata_snap")


def what_the_dead_held() -> None:
    """In a pool of ours it is let go, by who compares next or who sweeps."""
    with bench("held") as made:
        base = made.stack([file("f", b"1")])
        with made.mounted(made.driver.prepare("one", base)) as path:
            (path / "f").write_bytes(b"2")
        hold(made)
        noting = Noting(made.driver)
        assert found(noting, "one")[0] == ["C /f"]
        assert None not in noting.touched
        assert not is_held(made)
        hold(made)
        made.driver.sweep()
        assert not is_held(made)


def what_others_hold() -> None:
    """Of their pools that is theirs."""
    top = Path("/tmp/others")
    top.mkdir()
    devices = []
    for name, size in (("data", 512 << 20), ("metadata", 8 << 20)):
        with (top / name).open("wb") as stream:
            stream.truncate(size)
        devices.append(output("losetup", "--show", "-f", str(top / name)))
    output("dmsetup", "create", "others-pool", "--table", f"0 1048576 thin-pool {devices[1]} {devices[0]} 128 0")
    output("dmsetup", "mknodes")
    with bench("others", "dm.thinpooldev=/dev/mapper/others-pool", "dm.basesize=256M") as made:
        base = made.stack([file("f", b"1")])
        with made.mounted(made.driver.prepare("one", base)) as path:
            (path / "f").write_bytes(b"2")
        for is_theirs in (False, True):
            if is_theirs:
                output("dmsetup", "message", "others-pool", "0", "reserve_metadata_snap")
            noting = Noting(made.driver)
            assert found(noting, "one")[0] == ["C /f"]
            assert [touched is None for touched in noting.touched] == [is_theirs] * 2
            made.driver.sweep()
            assert is_held(made) is is_theirs
        output("dmsetup", "message", "others-pool", "0", "release_metadata_snap")
    output("dmsetup", "remove", "others-pool")
    for device in devices:
        output("losetup", "-d", device)


def killed_while_comparing() -> None:
    """Nothing of it stays once it is swept."""
    with bench("killed") as made:
        made.write_snapshot("base", "", many)
        with made.mounted(made.driver.prepare("one", "base")) as path:
            (path / "3/3").write_bytes(b"y")
            expected = list_changes(made.driver, "one")
            chance, left = Random(102), 0
            for _turn in range(4):
                process = subprocess.Popen(
                    [sys.executable, "-m", "tests.privileged.thindelta", "compare", str(made.root)],
                    stdout=subprocess.PIPE, start_new_session=True,
                )
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
                time.sleep(chance.uniform(0, 0.6))
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                left += bool(list(made.driver.leftovers())) or is_held(made)
                assert list_changes(made.driver, "one") == expected
                made.driver.sweep()
                assert list(made.driver.leftovers()) == []
                assert not is_held(made)
            assert left > 0
            (path / "f").write_bytes(b"it is not suspended")


def compare(root: str) -> None:
    made = Bench("devicemapper", Path(root))
    print("ready", flush=True)
    while True:
        list_changes(made.driver, "one")


def several_at_once() -> None:
    """One reservation a pool: each waits for its turn."""
    with bench("turns") as made:
        made.write_snapshot("base", "", many)
        with made.mounted(made.driver.prepare("one", "base")) as path:
            (path / "3/3").write_bytes(b"y")
        command = [sys.executable, "-m", "tests.privileged.thindelta", "look", str(made.root)]
        processes = [subprocess.Popen(command) for _ in range(2)]
        assert [process.wait() for process in processes] == [0, 0]


def look(root: str) -> None:
    made = Bench("devicemapper", Path(root))
    noting = Noting(made.driver)
    assert found(noting, "one")[0] == ["C /3", "C /3/3", "C /4", "C /4/other"]
    assert None not in noting.touched
    made.driver.close()


SCENARIOS: tuple[Callable[[], None], ...] = (
    few_of_many, a_running_container_stands_still, a_journal_that_nobody_read, a_container_that_was_grown, no_room_for_a_copy,
    no_program, what_the_dead_held, what_others_hold, killed_while_comparing, several_at_once,
)

if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
