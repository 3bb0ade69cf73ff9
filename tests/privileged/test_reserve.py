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
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", tmp_path], check=True)
    try:
        State(tmp_path / "state.sqlite").close()
        assert os.listdir(tmp_path) == ["state.sqlite"]
    finally:
        unmount(tmp_path, lazily=True)


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
