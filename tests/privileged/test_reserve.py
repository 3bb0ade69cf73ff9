"""A disk that is full to its last byte: what frees some still works, and so does the end of what runs."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.privileged.places import Place, based, wait_for

from lamina.content.state import State
from lamina.snapshot.mounting import unmount

pytestmark = pytest.mark.privileged

BIG = ("sh", "-c", "dd if=/dev/zero of=/big bs=1M count=12 2>/dev/null")


# The least that these two make a filesystem of, and some room.
_SIZES = {"xfs": 320, "btrfs": 256}


@pytest.fixture(params=["ext4-1024", "ext4-4096", "tmpfs", "xfs", "btrfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    mounted = tmp_path / "disk"
    mounted.mkdir()
    kind, _, block = request.param.partition("-")
    if kind == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", mounted], check=True)
    else:
        image = tmp_path / "image"
        with image.open("wb") as stream:
            stream.truncate(_SIZES.get(kind, 120) << 20)
        options = ["-F", "-b", block] if kind == "ext4" else []
        subprocess.run([f"mkfs.{kind}", "-q", *options, image], check=True)
        subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    yield mounted
    unmount(mounted, lazily=True)


def fill(disk: Path) -> None:
    """As root, who has also what ext4 keeps for him."""
    with (disk / "filler").open("ab", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(1 << 20))
    with (disk / "filler").open("ab", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(512))


def reserve_of(place: Place) -> int:
    with contextlib.suppress(FileNotFoundError):
        return (place.root / "reserve").stat().st_blocks * 512
    return 0


def test_it_is_there_where_there_is_plenty(tmp_path: Path) -> None:
    State(tmp_path / "state.sqlite").close()
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= 2 << 20


@pytest.mark.parametrize(("size", "expected"), [("100m", 2 << 20), ("40m", 1 << 20), ("5m", 128 << 10), ("3m", 0)])
def test_it_is_small_where_there_is_little(tmp_path: Path, size: str, expected: int) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", tmp_path], check=True)
    try:
        State(tmp_path / "state.sqlite").close()
        reserve = tmp_path / "reserve"
        assert (reserve.stat().st_blocks * 512 if reserve.exists() else 0) == expected
        subprocess.run(["mount", "-o", "remount,size=100m", tmp_path], check=True)
        State(tmp_path / "state.sqlite").close()
        assert reserve.stat().st_blocks * 512 == 2 << 20
    finally:
        unmount(tmp_path, lazily=True)


@pytest.fixture(params=[(40, 1024), (40, 4096), (24, 1024), (24, 4096)], ids=lambda found: f"{found[0]}M-{found[1]}")
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """One that never had 64 MiB free."""
    size, block = request.param
    image, mounted = tmp_path / "image", tmp_path / "disk"
    mounted.mkdir()
    with image.open("wb") as stream:
        stream.truncate(size << 20)
    subprocess.run(["mkfs.ext4", "-qF", "-b", str(block), image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    yield mounted
    unmount(mounted, lazily=True)


def test_a_small_disk_is_emptied_too(small_disk: Path) -> None:
    with based(small_disk / "root", "embedded") as place:
        place.say("create", "--name", "one", "--network", "none", "base:1", "true")
        place.say("create", "--name", "two", "--network", "none", "base:1", "true")
        assert reserve_of(place) >= 256 << 10
        fill(small_disk)
        assert os.statvfs(small_disk).f_bavail == 0
        place.say("rm", "one")
        fill(small_disk)
        place.say("container", "prune", "-f")
        fill(small_disk)
        place.say("rmi", "base:1")
        status = os.statvfs(small_disk)
        assert status.f_bfree * status.f_frsize > 4 << 20
        fill(small_disk)
        place.say("system", "prune", "-f")
        assert place.say("images", "-q") == ""
        (small_disk / "filler").unlink()
        assert place.run("check").stderr == "Everything is whole.\n"


def test_many_at_once_take_turns(small_disk: Path) -> None:
    """The first one has given the reserve up, and not freed anything yet, when the others come."""
    names = [f"c{number}" for number in range(5)]
    with based(small_disk / "root", "embedded") as place:
        for name in names:
            place.say("create", "--name", name, "--network", "none", "base:1", "true")
        fill(small_disk)
        running = [place.start("rm", name) for name in names]
        assert [(each.communicate(timeout=60)[1], each.returncode) for each in running] == [("", 0)] * len(names)
        assert place.ids() == []


def test_a_full_disk_locks_nobody_out(disk: Path) -> None:
    with based(disk / "root", "embedded") as place:
        name = place.say("run", "-d", "--name", "one", "--network", "none", "base:1", "sleep", "600").strip()
        place.say("run", "--name", "two", "--network", "none", "base:1", *BIG)
        assert reserve_of(place) >= 2 << 20
        fill(disk)
        assert os.statvfs(disk).f_bavail < 16
        for words in (["ps", "-aq", "--no-trunc"], ["images", "-q"], ["inspect", "one"], ["system", "df"]):
            fill(disk)
            assert place.run(*words).returncode == 0, words
            assert reserve_of(place) >= 128 << 10, words
        assert name in place.say("ps", "-aq", "--no-trunc")
        fill(disk)
        place.say("rm", "-f", "one")
        assert place.say("ps", "-a", "--format", "{{.Names}}") == "two\n"
        fill(disk)
        assert "reclaimed space: 1" in place.say("container", "prune", "-f")
        assert place.ids() == []
        assert reserve_of(place) >= 2 << 20
        (disk / "filler").unlink()
        assert place.run("check").stderr == "Everything is whole.\n"


@pytest.mark.parametrize("flags", [(), ("--rm",)], ids=["kept", "rm"])
def test_the_code_is_told_on_a_full_disk(disk: Path, flags: tuple[str, ...]) -> None:
    with based(disk / "root", "embedded") as place:
        script = "for n in $(seq 300); do [ -e /tmp/go ] && exit 7; sleep 0.1; done"
        words = ("run", *flags, "--name", "one", "--network", "none", "--tmpfs", "/tmp", "base:1", "sh", "-c", script)
        with place.start(*words) as attached:
            wait_for(lambda: place.run("exec", "one", "true").returncode == 0)
            fill(disk)
            place.say("exec", "one", "touch", "/tmp/go")
            assert attached.wait(30) == 7
        assert len(place.ids()) == (0 if flags else 1)
        (disk / "filler").unlink()
