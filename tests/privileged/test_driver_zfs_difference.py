"""What zfs knows of a snapshot's changes is what comparing whole trees finds."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from tests.privileged.inodework import FEW, Noting, change_few, deep, insist_same, many, touch_deep, work
from tests.privileged.places import owned_directory, wait_for
from tests.privileged.test_driver_btrfs_difference import Whole, found
from tests.privileged.zfsfuse import (
    ZfsFuse,
    bench_in,
    datasets,
    driver_of,
    insist_empty,
    run,
    serving,
)

from lamina.snapshot import changes
from lamina.snapshot.changes import list_changes
from lamina.snapshot.zfs import driver as module
from lamina.snapshot.zfs import program
from lamina.testing.bench import Bench

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


@pytest.mark.parametrize("seed", range(2))
def test_both_find_the_same(bench: Bench, parent: str, seed: int) -> None:
    """Now and then an attribute of a file that was not sent changed, and all is compared."""
    rounds = 8
    assert work(bench, seed, rounds) > rounds * 4 * 0.5
    insist_empty(bench, parent)


def test_few_of_many(bench: Bench, parent: str) -> None:
    """What is looked at is near where something changed."""
    bench.write_snapshot("many", "", many)
    with bench.mounted(bench.driver.prepare("one", "many")) as path:
        change_few(path)
    with driver_of(bench).holding_difference("one") as difference, ExitStack() as stack:
        assert difference.touched is not None
        assert {"3/3", "4/other"} <= set(difference.touched.paths)
        assert set(difference.touched.trees) == {"7", "8/moved"}
        assert len(difference.touched.paths) < 200
        assert changes._narrowed(difference, stack) is not None
    assert found(bench.driver, "one")[0] == FEW
    insist_empty(bench, parent)


def test_the_value_of_an_attribute(bench: Bench, parent: str) -> None:
    """Neither the file nor its directory of attributes is written to; the file may be far away from it."""
    bench.write_snapshot("many", "", many)
    for path, value in (("5/5", b"2"), ("6", b""), ("5/5", b"longer" * 100)):
        key = os.urandom(4).hex()
        with bench.mounted(bench.driver.prepare(key, "many")) as tree:
            os.setxattr(tree / path, "user.kept", value)
        assert f"C /{path}" in found(bench.driver, key)[0]
        assert found(bench.driver, key) == found(Whole(bench.driver), key)
    insist_empty(bench, parent)


def test_a_first_attribute_is_known(bench: Bench) -> None:
    noting = insist_same(bench, many, lambda path: os.setxattr(path / "9/9", "user.new", b"1"))
    assert all("9/9" in touched.paths for touched in noting.touched)


def test_a_running_container_stands_still(bench: Bench, parent: str) -> None:
    bench.write_snapshot("base", "", lambda path: (path / "f").write_bytes(b"1"))
    with bench.mounted(bench.driver.prepare("one", "base")) as path:
        (path / "f").write_bytes(b"2")
        with driver_of(bench).holding_difference("one") as difference:
            (path / "later").write_bytes(b"3")
            still = Path(difference.upper[0].source)
            assert sorted(os.listdir(still)) == ["f"]
            assert (still / "f").read_bytes() == b"2"
        assert "A /later" in found(bench.driver, "one")[0]
    insist_empty(bench, parent)


def test_what_the_kernel_has_not_told_the_daemon(bench: Bench, parent: str) -> None:
    """Written through memory that is mapped still."""
    bench.write_snapshot("base", "", lambda path: (path / "f").write_bytes(b"1" * 5000))
    with bench.mounted(bench.driver.prepare("one", "base")) as path:
        with open(path / "f", "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            memory[10] = 0x40
            with driver_of(bench).holding_difference("one") as difference:
                assert (Path(difference.upper[0].source) / "f").read_bytes()[10] == 0x40
                assert difference.touched is not None
                assert "f" in difference.touched.paths
    insist_empty(bench, parent)


def test_levels_without_end(bench: Bench) -> None:
    noting = insist_same(bench, deep, touch_deep)
    assert all(touched is not None for touched in noting.touched)


def test_what_is_too_much_is_not_sent(bench: Bench, parent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_SENT", 1 << 20)
    noting = insist_same(
        bench, lambda path: (path / "f").write_bytes(b"1"), lambda path: (path / "large").write_bytes(os.urandom(3 << 20)))
    assert noting.touched == [None] * 4
    insist_empty(bench, parent)


def test_a_stream_that_is_not_read_to_its_end(bench: Bench, parent: str) -> None:
    """Who reads it gives up, or dies: the daemon goes on, and so does everybody."""
    bench.write_snapshot("base", "", lambda path: (path / "f").write_bytes(b"1"))
    with bench.mounted(bench.driver.prepare("one", "base")) as path:
        (path / "large").write_bytes(os.urandom(20 << 20))
    dataset = driver_of(bench)._table.get("one").data["dataset"]
    origin = driver_of(bench)._origin("base")
    with driver_of(bench)._datasets.standing_still(dataset) as taken:
        for _ in range(3):
            with pytest.raises(KeyError), program.sending(origin, taken) as stream:
                assert stream.read(1000)
                raise KeyError
    assert found(bench.driver, "one")[0] == ["A /large"]
    insist_empty(bench, parent)


# -- who dies at it

WORK = """
import sys
from pathlib import Path
from lamina.snapshot.changes import list_changes
from lamina.testing.bench import Bench
bench = Bench("zfs", Path(sys.argv[1]))
print("ready", flush=True)
while True:
    list_changes(bench.driver, "one")
"""


def test_killed_while_comparing(bench: Bench, parent: str) -> None:
    """Nothing of it stays once it is swept, and what it left keeps nobody from anything meanwhile."""
    bench.write_snapshot("base", "", many)
    with bench.mounted(bench.driver.prepare("one", "base")) as path:
        (path / "3/3").write_bytes(b"y")
    expected = list_changes(bench.driver, "one")
    known = datasets(parent)
    chance, left = Random(101), 0
    for _turn in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", WORK, str(bench.root)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        left += datasets(parent) != known
        assert list_changes(bench.driver, "one") == expected
        wait_for(lambda: bench.driver.sweep() >= 0 and datasets(parent) == known)
    assert left > 0
    insist_empty(bench, parent)


def test_a_snapshot_that_the_dead_left(bench: Bench, parent: str) -> None:
    """It is a leftover; while it is there, its container can be committed and removed."""
    bench.write_snapshot("base", "", lambda path: (path / "f").write_bytes(b"1"))
    for key in ("one", "two", "three"):
        with bench.mounted(bench.driver.prepare(key, "base")) as path:
            (path / "f").write_bytes(b"2" * 1000)
        dataset = driver_of(bench)._table.get(key).data["dataset"]
        run("zfs", "snapshot", f"{dataset}@{os.urandom(16).hex()}")
        run("zfs", "snapshot", f"{dataset}@a-backup-of-somebody")
    assert len(list(bench.driver.leftovers())) == 3
    bench.driver.remove("one")
    bench.driver.commit("four", "two")
    assert len(list(bench.driver.leftovers())) == 2
    bench.driver.sweep()
    assert list(bench.driver.leftovers()) == []
    assert len([name for name in datasets(parent, "snapshot") if name.endswith("@a-backup-of-somebody")]) == 2
    insist_empty(bench, parent)


def test_a_comparison_is_not_swept(bench: Bench, parent: str) -> None:
    bench.write_snapshot("base", "", many)
    with bench.mounted(bench.driver.prepare("one", "base")) as path:
        (path / "3/3").write_bytes(b"y")
    noting = Noting(bench.driver)
    with noting.holding_difference("one") as difference:
        assert noting.touched[0] is not None
        assert list(bench.driver.leftovers()) == []
        assert bench.driver.sweep() == 0
        assert (Path(difference.upper[0].source) / "3/3").read_bytes() == b"y"
        bench.driver.remove("one")  # what it is a clone of stays until it can go
    wait_for(lambda: bench.driver.sweep() >= 0 and len(datasets(parent, "filesystem")) == 1)
    insist_empty(bench, parent)


