"""kill -9 and power cuts while layers are unpacked: what was acknowledged is whole, the rest is swept."""

from __future__ import annotations

import fcntl
import os
import random
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.privileged.loopdisk import wait_until_forgotten

from lamina.snapshot.mounting import MountBusy, unmount
from lamina.testing.bench import Bench

pytestmark = pytest.mark.privileged

_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN; 2 is "do not even flush the journal"

# Unpacks stack after stack over one base, in worker processes and threads, and acknowledges each.
_WRITER = textwrap.dedent("""
    import os, sys
    from pathlib import Path
    from lamina.snapshot.unpack import Unpacker
    from lamina.testing.bench import Bench
    from lamina.testing.images import directory, file, hardlink, make_layer, whiteout
    bench = Bench(sys.argv[2], Path(sys.argv[1]))
    base = make_layer([directory("d", mode=0o711), *(file(f"d/{n}", bytes([n]) * 30_000) for n in range(60))])
    print("begun", flush=True)
    for turn in range(100_000):
        large = os.urandom(1 << 20)
        layers = [base, make_layer([
            file("d/new", b"%d" % turn), hardlink("linked", "d/1"), directory("e"), whiteout("e/none"),
            file("large", large), *(file(f"e/{n}", b"%d" % turn * 2000) for n in range(20)),
        ])]
        with Unpacker(bench.layers, bench.driver) as unpacker:
            for made in layers:
                bench.store.put_bytes(made.descriptor.media_type, made.blob)
                unpacker.submit(made.descriptor, made.diff_id, bench.store.arrived(made.descriptor))
            unpacker.finish([made.diff_id for made in layers])
        key = f"key {turn}"
        bench.driver.prepare(key, list(bench.driver.walk())[-1].key)
        bench.driver.commit(f"name {turn}", key)
        print(bench.driver.stat(f"name {turn}").parent, flush=True)
""")


def acknowledged_before_the_end(root: Path, driver: str, end: object, seconds: float) -> list[str]:
    """Chain ids that the writer had said when it was stopped by ``end(process)``."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, root, driver], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(seconds)
    end(process)  # type: ignore[operator]  # a function
    process.kill()
    said = process.stdout.read().split()
    process.wait()
    process.stdout.close()
    return said


def insist_whole(root: Path, driver: str, acknowledged: list[str]) -> None:
    """Whatever was said to be there is there, and nothing that is there is half."""
    bench = Bench(driver, root)
    try:
        assert [finding.problem for finding in bench.layers.check()] == []
        committed = {info.key for info in bench.driver.walk()}
        assert set(acknowledged) <= committed
        for name in acknowledged[-2:]:
            found = bench.read(name)
            assert found["d"].mode == 0o711
            assert [len(found[f"d/{number}"].what) for number in range(60)] == [30_000] * 60  # type: ignore[arg-type]  # bytes
            assert found["linked"].what == bytes([1]) * 30_000
            turn = found["d/new"].what
            assert {found[f"e/{number}"].what for number in range(20)} == {turn * 2000}  # type: ignore[operator]  # bytes
        bench.driver.sweep()
        bench.layers.sweep()
        assert list(bench.layers.leftovers()) == []
        assert bench.driver.sweep() == bench.layers.sweep() == 0
        ids = {info.key for info in bench.driver.walk()}
        assert committed == ids
    finally:
        bench.close()


@pytest.mark.parametrize("driver", ["overlay2", "erofs", "vfs"])
def test_killed_at_any_moment(driver: str, tmp_path: Path) -> None:
    """The workers of a killed process notice that it is gone, and end by themselves."""
    chance = random.Random(f"{driver} 7")
    acknowledged: list[str] = []
    for _round in range(6):
        acknowledged += acknowledged_before_the_end(
            tmp_path / "root", driver, lambda process: process.kill(), chance.uniform(0.05, 1.0)
        )
        wait_for_workers(tmp_path / "root")
        insist_whole(tmp_path / "root", driver, acknowledged)


def wait_for_workers(root: Path) -> None:
    """Orphans hold no lock for long."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        holders = [
            path for path in Path("/proc").glob("[0-9]*/fd/*")
            if _target(path).startswith(f"{root}/") and path.parts[2] != str(os.getpid())
        ]
        if not holders:
            return
        time.sleep(0.05)
    raise AssertionError(f"still open after 30 s: {holders}")


def _target(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    image, place = tmp_path / "disk", tmp_path / "mounted"
    with image.open("wb") as file:
        file.truncate(600 << 20)
    quiet = ["-q", "-F"] if request.param == "ext4" else ["-q"]
    subprocess.run([f"mkfs.{request.param}", *quiet, image], check=True)
    place.mkdir()
    plug_in(place)
    yield place
    unmount(place, lazily=True)


def plug_in(place: Path) -> None:
    subprocess.run(["mount", "-o", "loop", place.parent / "disk", place], check=True)


def unplug(place: Path) -> None:
    """The kernel takes a moment to forget the files of a process that was killed."""
    for _attempt in range(200):
        try:
            return unmount(place)
        except MountBusy:
            time.sleep(0.05)
    return unmount(place)


def cut_power(place: Path) -> None:
    descriptor = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", 2))
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("driver", ["overlay2", "erofs", "vfs"])
def test_power_cut_at_any_moment(driver: str, disk: Path) -> None:
    chance = random.Random(f"{driver} power")
    acknowledged: list[str] = []
    for _round in range(3):
        acknowledged += acknowledged_before_the_end(
            disk / "root", driver, lambda _process: cut_power(disk), chance.uniform(0.2, 1.2)
        )
        wait_for_workers(disk / "root")
        unplug(disk)
        wait_until_forgotten(disk.parent / "disk")
        plug_in(disk)
        insist_whole(disk / "root", driver, acknowledged)
